"""What goes to W&B and TensorBoard: names, mode, config, exit code. W&B itself is a stand-in that notes its calls."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rm_experiments.config.schema import LogModel, RunConfig, TrackingBackend, TrackingConfig, TrackingMode
from rm_experiments.errors import ConfigError, TrainingError
from rm_experiments.reporting import wandb_tracker
from rm_experiments.reporting.panel_names import panel_name
from rm_experiments.reporting.tracking import NoTracker, check_tracker, start_tracker

NOT_LOGGED_IN = "tracking.mode=online: nobody is logged in to W&B; type wandb login, or tracking.mode=auto"


class FakeRun:
    url = "https://wandb.example/run"

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.id = arguments["id"]
        self.settings = SimpleNamespace(mode=arguments["mode"])
        self.dir = str(Path(arguments["dir"]) / "wandb" / "a-run" / "files")
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: list[tuple[str, dict[str, Any]]] = []
        self.exit_code: int | None = None
        self.artifacts: list[tuple[Any, list[str]]] = []
        self.waited: list[int] = []

    def define_metric(self, name: str, **settings: Any) -> None:
        self.metrics.append((name, settings))

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: Any, aliases: list[str]) -> Any:
        self.artifacts.append((artifact, aliases))
        return SimpleNamespace(wait=lambda timeout: self.waited.append(timeout))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeArtifact:
    def __init__(self, name: str, type: str, metadata: dict[str, Any]) -> None:
        self.name, self.type, self.metadata = name, type, metadata
        self.files: list[tuple[str, str]] = []

    def add_file(self, path: str, name: str, policy: str) -> None:
        assert Path(path).is_file()
        self.files.append((name, policy))


class FakeWandb(ModuleType):
    """As much of W&B as is used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        # Other packages look whether W&B is installed.
        self.__spec__ = ModuleSpec("wandb", None)
        self.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.Settings = lambda **values: values
        self.Histogram = lambda values: ("histogram", values)
        self.Image = lambda path: ("image", Path(path).name)
        self.Artifact = FakeArtifact
        self.Table = lambda columns, data: ("table", columns, data)
        self.logged_in: bool | Exception = False
        self.unreachable = False
        self.calls: list[dict[str, Any]] = []
        self.runs: list[FakeRun] = []
        self.torn_down = 0

    def setup(self, settings: Any) -> Any:
        # Otherwise `login` prints, and asks a server who is logged in.
        assert settings == {"silent": True}
        return SimpleNamespace(settings=SimpleNamespace(base_url="https://wandb.example"))

    def teardown(self) -> None:
        self.torn_down += 1

    def login(self, **settings: Any) -> bool:
        # Anything else could ask the user or wait for a server.
        assert settings == {"prompt": False, "verify": False, "timeout": 1}
        if isinstance(self.logged_in, Exception):
            raise self.logged_in
        return self.logged_in

    def init(self, **arguments: Any) -> FakeRun:
        self.calls.append(arguments)
        if self.unreachable and arguments["mode"] == "online":
            raise self.errors.Error("no\nroute  to host")
        self.runs.append(FakeRun(arguments))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(wandb_tracker, "unreachable_host", lambda: None)
    for name in (
        "MODE", "NAME", "PROJECT", "ENTITY", "RUN_GROUP", "JOB_TYPE", "NOTES", "DATA_DIR", "DIR", "TAGS", "RUN_ID",
        "RESUME", "SWEEP_PARAM_PATH",
    ):  # fmt: skip
        # Set first, so that what the tracker sets is taken away afterwards.
        monkeypatch.setenv(f"WANDB_{name}", "")
        monkeypatch.delenv(f"WANDB_{name}")
    return fake


def start(config: TrackingConfig, directory: Path, **changes: Any) -> tuple[Any, list[str]]:
    arguments: dict[str, Any] = {
        "name": "my run", "run_dir": directory, "sweep_dir": None, "settings": {"seed": 1}, "set_names": (),
        "run_id": None, "hyperparameters": {},
    }  # fmt: skip
    return start_tracker(config, **{**arguments, **changes})


@pytest.mark.parametrize(
    ("key", "sets", "expected"),
    [
        ("eval_loss", (), "eval/loss"),
        ("eval_mean_chosen_reward", (), "eval/mean_chosen_reward"),
        ("train_loss", (), "train/loss"),
        ("train_pairs_per_second", (), "train/pairs_per_second"),
        ("eval_list_accuracy", (), "eval/list_accuracy"),
        ("eval_bench_accuracy", ("bench",), "eval/bench/accuracy"),
        ("eval_bench_easy_accuracy", ("bench",), "eval/bench/easy_accuracy"),
        ("eval_bench_easy_accuracy", ("bench", "bench_easy"), "eval/bench_easy/accuracy"),
        ("eval_benchmark_accuracy", ("bench",), "eval/benchmark_accuracy"),
        ("train_bench_accuracy", ("bench",), "train/bench_accuracy"),
        ("global_step", (), "global_step"),
        ("epoch", (), "epoch"),
        ("eval_", (), "eval_"),
    ],
)
def test_a_panel_has_the_metric_name_with_a_slash_after_prefix_and_set(
    key: str, sets: tuple[str, ...], expected: str
) -> None:
    assert panel_name(key, sets) == expected


@pytest.mark.parametrize(
    ("logged_in", "mode", "lines"),
    [
        (False, "offline", ["W&B: nobody is logged in, so this run is logged offline."]),
        (ValueError("key is 3 characters"), "offline", ["W&B: nobody is logged in, so this run is logged offline."]),
        (True, "online", []),
    ],
)
def test_auto_is_online_only_for_who_is_logged_in(
    wandb: FakeWandb, tmp_path: Path, logged_in: Any, mode: str, lines: list[str]
) -> None:
    wandb.logged_in = logged_in

    _, said = start(TrackingConfig(), tmp_path)

    assert [call["mode"] for call in wandb.calls] == [mode]
    assert said == lines


def test_auto_falls_back_to_offline_when_wandb_cannot_be_reached(wandb: FakeWandb, tmp_path: Path) -> None:
    wandb.logged_in, wandb.unreachable = True, True

    _, said = start(TrackingConfig(), tmp_path)

    assert [call["mode"] for call in wandb.calls] == ["online", "offline"]
    assert said == ["W&B cannot be reached or refuses this run (no route to host); it is logged offline."]
    # Its service holds the id until it ends.
    assert wandb.torn_down == 1
    assert wandb.calls[0]["id"] == wandb.calls[1]["id"]


def test_auto_does_not_wait_for_a_machine_that_does_not_answer(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.logged_in = True
    monkeypatch.setattr(wandb_tracker, "unreachable_host", lambda: "api.wandb.example")

    _, said = start(TrackingConfig(), tmp_path)

    assert [call["mode"] for call in wandb.calls] == ["offline"]
    assert said == ["W&B cannot be reached within seconds (api.wandb.example); this run is logged offline."]
    with pytest.raises(
        ConfigError,
        match=r"^tracking\.mode=online: W&B cannot be reached \(api\.wandb\.example\); try tracking\.mode=auto or "
        r"offline$",
    ):
        check_tracker(TrackingConfig(mode=TrackingMode.online))


def test_online_is_refused_when_nobody_is_logged_in(wandb: FakeWandb, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        start(TrackingConfig(mode=TrackingMode.online), tmp_path)

    assert str(caught.value) == NOT_LOGGED_IN
    assert wandb.calls == []


def test_online_is_refused_in_one_line_when_wandb_cannot_be_reached(wandb: FakeWandb, tmp_path: Path) -> None:
    wandb.logged_in, wandb.unreachable = True, True

    with pytest.raises(ConfigError) as caught:
        start(TrackingConfig(mode=TrackingMode.online), tmp_path)

    assert str(caught.value) == (
        "tracking.mode=online: W&B cannot be reached or refuses this run (no route to host); "
        "try tracking.mode=auto or offline"
    )


@pytest.mark.parametrize(
    "config", [TrackingConfig(mode=TrackingMode.disabled), TrackingConfig(backend=TrackingBackend.none)]
)
def test_without_tracking_wandb_is_not_asked(wandb: FakeWandb, tmp_path: Path, config: TrackingConfig) -> None:
    tracker, said = start(config, tmp_path)

    assert isinstance(tracker, NoTracker)
    assert (said, wandb.calls) == ([], [])
    tracker.log(1, {"eval_loss": 1.0})
    tracker.summarise({})
    assert tracker.finish(0) == []
    assert list(tmp_path.iterdir()) == []


def test_wandb_gets_the_settings_nested_and_the_keys_of_tracking(wandb: FakeWandb, tmp_path: Path) -> None:
    config = TrackingConfig(
        mode=TrackingMode.offline, project="p", entity="e", tags=["a", "b"], notes="n", job_type="j"
    )
    settings = {"optimizer": {"lr": 0.1, "betas": [0.9, 0.999]}, "run": {"max_steps": 3}}

    start(config, tmp_path, settings=settings, sweep_dir=tmp_path / "sweep")

    (call,) = wandb.calls
    assert call["config"] == settings
    asked = {key: call[key] for key in ("project", "entity", "group", "job_type", "tags", "notes", "name", "dir")}
    assert asked == {
        "project": "p", "entity": "e", "group": "sweep", "job_type": "j", "tags": ["a", "b"], "notes": "n",
        "name": "my run", "dir": tmp_path / "sweep",
    }  # fmt: skip
    assert (call["resume"], call["reinit"]) == (None, "finish_previous")
    assert wandb.runs[0].metrics == [("global_step", {"hidden": True}), ("*", {"step_metric": "global_step"})]


def test_a_named_group_wins_over_that_of_the_sweep(wandb: FakeWandb, tmp_path: Path) -> None:
    start(TrackingConfig(group="mine"), tmp_path, sweep_dir=tmp_path / "sweep")

    assert wandb.calls[0]["group"] == "mine"


@pytest.mark.parametrize(
    ("variable", "argument", "theirs"),
    [
        ("WANDB_NAME", "name", "theirs"),
        ("WANDB_PROJECT", "project", "theirs"),
        ("WANDB_ENTITY", "entity", "theirs"),
        ("WANDB_RUN_GROUP", "group", "theirs"),
        ("WANDB_JOB_TYPE", "job_type", "theirs"),
        ("WANDB_NOTES", "notes", "theirs"),
        ("WANDB_RUN_ID", "id", "theirs"),
        ("WANDB_RESUME", "resume", "must"),
    ],
)
def test_wandbs_own_variables_win(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, argument: str, theirs: str
) -> None:
    monkeypatch.setenv(variable, theirs)

    start(TrackingConfig(), tmp_path, sweep_dir=tmp_path / "sweep", run_id="mine")

    assert wandb.calls[0][argument] == theirs


def test_wandbs_tags_win_over_ours_and_overrides_are_added(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrackingConfig(tags=["ours"])
    start(config, tmp_path, overrides=["seed=1", "run_dir=x"])
    monkeypatch.setenv("WANDB_TAGS", "theirs,too")
    start(config, tmp_path, overrides=["seed=1", "run_dir=x"])

    assert [call["tags"] for call in wandb.calls] == [["ours", "seed=1"], ["theirs", "too", "seed=1"]]


def test_wandbs_directory_wins_over_the_runs(wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "theirs"))

    start(TrackingConfig(), tmp_path / "run")

    assert wandb.calls[0]["dir"] == tmp_path / "theirs"
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "theirs" / "wandb")


@pytest.mark.parametrize(("given", "mode"), [("dryrun", "offline"), ("run", "online"), ("disabled", None)])
def test_every_name_of_a_mode_that_wandb_knows_is_understood(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, mode: str | None
) -> None:
    monkeypatch.setenv("WANDB_MODE", given)
    wandb.logged_in = True

    tracker, _ = start(TrackingConfig(), tmp_path)

    assert [call["mode"] for call in wandb.calls] == ([] if mode is None else [mode])
    assert isinstance(tracker, NoTracker) == (mode is None)


def test_what_contradicts_the_run_is_refused(wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    check_tracker(TrackingConfig())
    with pytest.raises(
        ConfigError, match=r"^WANDB_RUN_ID=one: all jobs of the sweep would be one run at W&B; unset it$"
    ):
        check_tracker(TrackingConfig(), in_sweep=True)
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ConfigError, match=r"^WANDB_MODE=onlin: allowed are online, offline and disabled; or unset it$"):
        check_tracker(TrackingConfig())


def test_a_job_of_a_sweep_is_named_by_what_varies_and_grouped(wandb: FakeWandb, tmp_path: Path) -> None:
    sweep = tmp_path / "rm" / "2026-01-31_12-00-00"

    first, _ = start(
        TrackingConfig(), sweep / "0", sweep_dir=sweep, overrides=["seed=1", "optimizer.lr=1e-3"], swept=["seed=1"]
    )
    start(TrackingConfig(), sweep / "1", sweep_dir=sweep)

    assert [(call["name"], call["group"], call["dir"], call["tags"]) for call in wandb.calls] == [
        ("seed=1", "rm/2026-01-31_12-00-00", sweep, ["seed=1", "optimizer.lr=1e-3"]),
        ("my run", "rm/2026-01-31_12-00-00", sweep, []),
    ]
    assert first.run_id.startswith("seed-1-")


def test_a_run_of_wandbs_agent_is_named_by_what_it_chose(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chosen.yaml").write_text("wandb_version: 1\n\noptimizer.lr:\n  value: 0.003\n", encoding="utf-8")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "chosen.yaml"))

    start(TrackingConfig(), tmp_path, overrides=["optimizer.lr=0.003", "seed=1"])

    assert wandb.calls[0]["name"] == "lr=0.003"


def test_wandb_mode_wins_over_the_key(wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.logged_in = True

    start(TrackingConfig(mode=TrackingMode.online), tmp_path)

    assert wandb.calls[0]["mode"] == "offline"


def test_a_new_run_has_an_id_that_can_be_read_and_a_resumed_one_its_own(wandb: FakeWandb, tmp_path: Path) -> None:
    first, _ = start(TrackingConfig(), tmp_path)
    second, _ = start(TrackingConfig(), tmp_path)
    again, _ = start(TrackingConfig(), tmp_path, run_id=first.run_id)

    assert first.run_id.startswith("my-run-")
    assert len(first.run_id) == len("my-run-") + 8
    assert second.run_id != first.run_id
    assert again.run_id == first.run_id
    assert [call["resume"] for call in wandb.calls] == [None, None, "allow"]


def test_metrics_are_logged_against_global_step_under_their_panel_names(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker, _ = start(TrackingConfig(), tmp_path, set_names=("bench",))

    tracker.log(7, {"eval_loss": 0.5, "eval_bench_accuracy": 0.75})
    tracker.summarise({"status": "finished"})

    assert wandb.runs[0].logged == [{"global_step": 7, "eval/loss": 0.5, "eval/bench/accuracy": 0.75}]
    assert wandb.runs[0].summary == {"status": "finished"}


def test_distributions_leave_out_what_is_not_finite(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker, _ = start(TrackingConfig(), tmp_path)
    records = {"reward_chosen": np.array([1.0, np.nan, 2.0]), "reward_rejected": np.array([np.inf, -1.0])}

    tracker.log_records(3, records, [{"id": "a", "margin": -1.0}, {"id": "b", "margin": -0.5}])
    tracker.log_records(4, records, [])

    with_table, without = wandb.runs[0].logged
    assert with_table == {
        "global_step": 3,
        "eval/rewards_chosen": ("histogram", [1.0, 2.0]),
        "eval/rewards_rejected": ("histogram", [-1.0]),
        "eval/most_wrong_pairs": ("table", ["id", "margin"], [["a", -1.0], ["b", -0.5]]),
    }
    assert set(without) == {"global_step", "eval/rewards_chosen", "eval/rewards_rejected"}


def test_pictures_are_logged_at_once_under_their_names(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker, _ = start(TrackingConfig(), tmp_path)

    tracker.log_pictures(9, [tmp_path / "plots" / "training.png", tmp_path / "plots" / "length.png"])
    tracker.log_pictures(9, [])

    assert wandb.runs[0].logged == [
        {"global_step": 9, "plots/training": ("image", "training.png"), "plots/length": ("image", "length.png")}
    ]


@pytest.mark.parametrize("exit_code", [0, 1, 143])
def test_closing_passes_the_exit_code_and_says_where_the_run_is(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    offline, _ = start(TrackingConfig(), tmp_path)
    wandb.logged_in = True
    online, _ = start(TrackingConfig(), tmp_path)

    assert offline.finish(exit_code) == ["W&B: offline; upload with  wandb sync wandb/a-run"]
    assert online.finish(exit_code) == ["W&B: https://wandb.example/run"]
    assert [run.exit_code for run in wandb.runs] == [exit_code, exit_code]


def saved_model(directory: Path) -> Path:
    (directory / "state").mkdir(parents=True)
    (directory / "config.json").write_text("{}", encoding="utf-8")
    (directory / "state" / "trainer.pt").write_text("x", encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("asked", "logged"),
    [
        (LogModel.none, []),
        (LogModel.final, [(["step_9", "final"], [("config.json", "immutable")])]),
        (
            LogModel.checkpoints,
            [
                (["step_4", "best"], [("config.json", "mutable")]),
                (["step_8"], [("config.json", "mutable")]),
                (["step_9", "final"], [("config.json", "immutable")]),
            ],
        ),
    ],
)
def test_models_are_uploaded_as_asked_without_what_resuming_needs(
    wandb: FakeWandb, tmp_path: Path, asked: LogModel, logged: list[Any]
) -> None:
    wandb.logged_in = True
    tracker, _ = start(TrackingConfig(log_model=asked), tmp_path)
    model = saved_model(tmp_path / "model")

    tracker.log_model(model, 4, final=False, best=True)
    tracker.log_model(model, 8, final=False)
    tracker.log_model(model, 9, final=True)

    (run,) = wandb.runs
    assert [(aliases, artifact.files) for artifact, aliases in run.artifacts] == logged
    assert {(one.name, one.type) for one, _ in run.artifacts} <= {(f"model-{run.id}", "model")}
    # The end of the run waits for its own model, and for nothing before.
    assert run.waited == ([] if asked is LogModel.none else [60])


def test_offline_only_the_final_model_is_kept_for_an_upload(wandb: FakeWandb, tmp_path: Path) -> None:
    tracker, _ = start(TrackingConfig(log_model=LogModel.checkpoints), tmp_path)
    model = saved_model(tmp_path / "model")

    tracker.log_model(model, 4, final=False)
    tracker.log_model(model, 9, final=True)

    assert [aliases for _, aliases in wandb.runs[0].artifacts] == [["step_9", "final"]]
    assert wandb.runs[0].waited == []
    with pytest.raises(ConfigError, match=r"^tracking\.log_model=checkpoints: this run is offline, .*log_model=final"):
        check_tracker(TrackingConfig(log_model=LogModel.checkpoints))
    check_tracker(TrackingConfig(log_model=LogModel.final))


def test_a_wandb_that_goes_away_does_not_end_the_run(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.logged_in = True
    tracker, _ = start(TrackingConfig(log_model=LogModel.final), tmp_path)

    def fail(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("the service\nhas ended")

    monkeypatch.setattr(FakeRun, "log", fail)
    monkeypatch.setattr(FakeRun, "finish", fail)
    monkeypatch.setattr(wandb_tracker, "unreachable_host", lambda: "api.wandb.example")
    monkeypatch.chdir(tmp_path)
    tracker.log(1, {"eval_loss": 1.0})
    tracker.log(2, {"eval_loss": 1.0})
    tracker.log_pictures(2, [tmp_path / "a.png"])
    tracker.log_model(saved_model(tmp_path / "final"), 2, final=True)

    assert tracker.finish(0) == [
        "W&B: logging failed (the service has ended)",
        "W&B: logging of pictures failed (the service has ended)",
        "W&B: uploading a model failed (api.wandb.example cannot be reached; it is in final)",
        "W&B: closing the run failed (the service has ended)",
        "W&B cannot be reached any more (api.wandb.example); upload what it misses with  wandb sync wandb/a-run",
        "W&B: https://wandb.example/run",
    ]
    assert wandb.runs[0].artifacts == []


def test_tensorboard_gets_what_its_hparams_page_compares(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    values = {
        "optimizer.lr": 1e-3,
        "optimizer.betas": [0.9, 0.95],
        "seed": 2,
        "loss.use_margin": True,
        "data.eval": None,
    }
    tracker, said = start(
        TrackingConfig(backend=TrackingBackend.tensorboard), tmp_path / "0", sweep_dir=tmp_path, hyperparameters=values
    )
    tracker.log(2, {"eval_accuracy": 0.75})
    tracker.summarise({"best/eval_accuracy": 0.75, "status": "finished"})
    tracker.finish(0)

    assert said == [f"TensorBoard: tensorboard --logdir {tmp_path}"]
    events = EventAccumulator(str(tmp_path / "0" / "tensorboard"))
    events.Reload()
    content = events.summary_metadata
    parts = {
        tag: HParamsPluginData.FromString(one.plugin_data.content)
        for tag, one in content.items() if one.plugin_data.plugin_name == "hparams"
    }  # fmt: skip
    assert set(parts) == {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"}
    begin = parts["_hparams_/session_start_info"].session_start_info.hparams
    assert {key: getattr(one, one.WhichOneof("kind")) for key, one in begin.items()} == {
        "optimizer.lr": 1e-3, "optimizer.betas": "[0.9, 0.95]", "seed": 2.0, "loss.use_margin": True,
    }  # fmt: skip
    compared = {one.name.tag for one in parts["_hparams_/experiment"].experiment.metric_infos}
    assert {"eval/accuracy", "summary/best/eval_accuracy"} <= compared
    # The page reads the values from the scalars of the same names.
    assert [one.value for one in events.Scalars("summary/best/eval_accuracy")] == [0.75]
    assert [one.value for one in events.Scalars("eval/accuracy")] == [0.75]


def test_tensorboard_gets_the_same_names(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker, said = start(TrackingConfig(backend=TrackingBackend.tensorboard), tmp_path, set_names=("bench",))
    tracker.log(2, {"eval_loss": 0.5, "eval_bench_accuracy": 0.25, "train_lr": 0.125})
    tracker.log_records(2, {"reward_chosen": np.ones(3), "reward_rejected": np.zeros(3)}, [{"id": "a"}])
    tracker.summarise({"steps": 2, "status": "finished"})
    Image.new("RGB", (4, 3), "red").save(tmp_path / "margins.png")
    tracker.log_pictures(2, [tmp_path / "margins.png"])
    assert tracker.finish(0) == []

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {"eval/loss", "eval/bench/accuracy", "train/lr", "summary/steps"}
    assert [(event.step, event.value) for event in events.Scalars("eval/bench/accuracy")] == [(2, 0.25)]
    assert set(tags["histograms"]) == {"eval/rewards_chosen", "eval/rewards_rejected"}
    (picture,) = events.Images("plots/margins")
    assert (picture.step, picture.width, picture.height) == (2, 4, 3)
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        assert image.convert("RGB").getcolors() == [(12, (255, 0, 0))]
    assert said == [f"TensorBoard: tensorboard --logdir {tmp_path}"]


def small_run(compose: Callable[..., RunConfig], directory: Path, *overrides: str) -> RunConfig:
    return compose(f"run_dir={directory / 'run'}", "train.max_steps=1", "eval=none", "tracking=wandb", *overrides)


def test_a_run_that_fails_is_a_failed_run_in_wandb_too(
    compose: Callable[..., RunConfig], wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rm_experiments.runner.session import Session
    from rm_experiments.runner.train import train

    def fail(self: Session) -> str:
        raise TrainingError("boom")

    monkeypatch.setattr(Session, "run", fail)

    with pytest.raises(TrainingError, match=r"^boom$"):
        train(small_run(compose, tmp_path))

    (run,) = wandb.runs
    assert run.exit_code == 1
    assert (run.summary["status"], run.summary["error"]) == ("failed", "TrainingError: boom")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["status"], summary["error"]) == ("failed", "TrainingError: boom")
    assert summary["sanity"] is None
    assert "sanity" not in run.summary


def test_a_run_that_ends_well_says_so_to_wandb(
    compose: Callable[..., RunConfig], wandb: FakeWandb, tmp_path: Path
) -> None:
    from rm_experiments.config.changes import config_hash
    from rm_experiments.config.compose import to_plain
    from rm_experiments.runner.train import train

    config = small_run(compose, tmp_path, "tracking.mode=offline", "train.log_every_steps=1", "name=well")

    train(config)

    (run,) = wandb.runs
    (call,) = wandb.calls
    assert run.exit_code == 0
    assert (run.summary["status"], run.summary["steps"]) == ("finished", 1)
    assert {key: call["config"][key] for key in to_plain(config)} == to_plain(config)
    assert call["config"]["run"]["max_steps"] == 1
    assert call["config"]["run"]["config_hash"] == config_hash(config)
    assert (call["name"], call["group"], call["dir"]) == ("well", None, tmp_path / "run")
    assert [values["global_step"] for values in run.logged] == [1, 1]
    assert "train/loss" in run.logged[0]
    assert run.logged[1] == {"global_step": 1, "plots/training": ("image", "training.png")}
    assert run.summary["sanity"] == ""


@pytest.mark.parametrize(
    ("overrides", "missing", "message"),
    [
        (["tracking=wandb", "tracking.mode=online"], None, NOT_LOGGED_IN),
        (
            ["tracking=tensorboard"],
            "torch.utils.tensorboard",
            "tracking=tensorboard needs it; type pip install 'rm_experiments[tensorboard]'",
        ),
    ],
)
def test_tracking_that_is_not_possible_is_refused_before_anything_is_written(
    compose: Callable[..., RunConfig], wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    overrides: list[str], missing: str | None, message: str,
) -> None:  # fmt: skip
    from rm_experiments.runner.train import train

    if missing:
        monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ConfigError) as caught:
        train(small_run(compose, tmp_path, *overrides))

    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_tables_of_every_run_are_staged_in_its_own_directory(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = []

    def init(**arguments: Any) -> FakeRun:
        staged.append(os.environ["WANDB_DATA_DIR"])
        return FakeRun(arguments)

    monkeypatch.setattr(wandb, "init", init)
    for name in ("one", "two"):
        start(TrackingConfig(), tmp_path / name)

    assert staged == [str(tmp_path / "one" / "wandb"), str(tmp_path / "two" / "wandb")]
