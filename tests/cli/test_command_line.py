"""`rm-train` as a user meets it: exit codes, one line on stderr for a wrong input, and nothing left behind."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import rm_experiments
from rm_experiments.cli.job import import_without_collector
from rm_experiments.config.compose import to_run_config
from rm_experiments.config.schema import RunConfig
from rm_experiments.data.formats import DATASETS, LAYOUTS
from rm_experiments.errors import TrainingError, UserError

TINY = (
    "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32", "model.scratch.num_heads=2",
    "model.scratch.num_kv_heads=1", "model.scratch.num_layers=1", "model.scratch.vocab_size=260", "tracking=none",
    "train.device=cpu",
)  # fmt: skip
GOOD = [
    {"prompt": f"What is {i}?", "chosen": f"It is {i}, surely.", "rejected": f"No idea about {i}."} for i in range(20)
]
MESSAGES = [{"role": "assistant", "content": "No."}]


def test_what_a_job_of_a_sweep_left_is_not_taken_for_an_import_that_stays() -> None:
    import_without_collector()
    frozen = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    import_without_collector()
    assert gc.get_freeze_count() == frozen
    assert gc.isenabled()
    assert len(kept) == 1000


def rm_train(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"}
    environment |= {
        "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "NETRC": "/nonexistent",
    }  # fmt: skip
    command = [sys.executable, "-m", "rm_experiments", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every path under `directory` with the bytes of the files."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")
    }


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    """A working directory with good and bad data files, and a directory that is no model."""
    lines = [json.dumps(row) for row in GOOD]
    files = {
        "good.jsonl": lines,
        "broken.jsonl": [*lines[:2], '{"prompt": "p", "chosen" "a"}'],
        "mixed.jsonl": [*lines[:2], json.dumps({**GOOD[0], "rejected": MESSAGES})],
        "blank.jsonl": ["", ""],
    }
    for name, content in files.items():
        (tmp_path / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "not_a_model").mkdir()
    return tmp_path


@pytest.fixture
def run_in(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory as that of this process, with no signs of a launcher."""
    monkeypatch.chdir(cwd)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return cwd


REFUSED: dict[str, tuple[list[str], str]] = {
    "a mistyped key": (["optimizer.lrr=1"], "optimizer.lrr is not a key; did you mean optimizer.lr?"),
    "a mistyped option": (["eval=step"], "eval=step: allowed are default, epochs, log_spaced, none, start_end, "
                                         "steps; did you mean eval=steps?"),
    "an override without value": (
        ["seed"], "cannot read the override 'seed'; quote values with special characters: \"'key=value'\""
    ),
    "a group without option": (
        ["model=null"],
        "Config group override must be a string or a list. Got NoneType; a group needs an option, as in model=tiny",
    ),
    "a config that is not there": (
        ["--config-name", "trian"], "there is no config 'trian'; try --config-name train"
    ),
    "a batch of nothing": (["train.batch_size=0"], "train.batch_size=0: must be a whole number of at least 1"),
    "a missing data file": (
        ["data=local", "data.train=god.jsonl"],
        "data.train=god.jsonl: no such file; did you mean data.train=good.jsonl?",
    ),
    "a missing file of an evaluation set": (
        ["+data.eval_sets.mine=god.jsonl"],
        "data.eval_sets.mine.source=god.jsonl: no such file; did you mean data.eval_sets.mine.source=good.jsonl?",
    ),
    "an empty evaluation file": (
        ["data=local", "data.train=good.jsonl", "data.eval=empty.jsonl"],
        "data.eval=empty.jsonl: the file is empty (0 bytes); name another file in data.eval",
    ),
    "a missing model directory": (
        ["model=pretrained", "model.name_or_path=./nowhere"],
        "model.name_or_path=./nowhere: no such directory; try a Hub id, or model=tiny",
    ),
    "a directory that holds no model": (
        ["model=pretrained", "model.name_or_path=not_a_model"],
        "model.name_or_path=not_a_model: holds no config.json, so it is no model; "
        "try the folder that has one",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_input_is_one_line_on_stderr_and_leaves_nothing(cwd: Path, arguments: list[str], message: str) -> None:
    before = contents(cwd)

    done = rm_train(cwd, *arguments)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rm-train: {message}\n")
    assert contents(cwd) == before


UNREADABLE: dict[str, tuple[list[str], str]] = {
    "a broken JSON line": (
        ["data=local", "data.train=broken.jsonl"],
        "data.train: broken.jsonl line 3 column 26: broken JSON: Expecting ':' delimiter near "
        "'mpt\": \"p\", \"chosen\" \"a\"}'; mend the line",
    ),
    "a pair of text and messages": (
        ["data=local", "data.train=mixed.jsonl"],
        "data.train: mixed.jsonl line 3: column 'chosen' is text, but 'rejected' is a message list; "
        "both must be of one kind",
    ),
    "an evaluation file of blank lines": (
        ["data=local", "data.train=good.jsonl", "data.eval=blank.jsonl"],
        "data.eval=blank.jsonl has no rows; name another file or split in data.eval",
    ),
    "nothing within the length limit": (
        ["data=local", "data.train=good.jsonl", "data.max_length=4", "data.overlength=drop"],
        "data.train: no pair is left, all 19 are longer than data.max_length=4; "
        "raise data.max_length or try data.overlength=truncate_prompt",
    ),
    "a limit beyond the model's": (
        ["data=local", "data.train=good.jsonl", "data.max_length=513"],
        "data.max_length=513: the model takes at most 512 tokens; try data.max_length=512",
    ),
    "an unknown format": (
        ["data=local", "data.train=good.jsonl", "data.format=preferense"],
        f"data.format=preferense: allowed are auto, {', '.join(sorted(LAYOUTS))} and, of published data sets, "
        f"{', '.join(sorted(DATASETS))}; did you mean data.format=preference?",
    ),
    "a loss with margins that no row has": (
        ["data=local", "data.train=good.jsonl", "loss=bradley_terry_margin"],
        "data.train: loss.use_margin=true, but no row has a margin; name its column with "
        "data.columns.margin=NAME, or try loss.use_margin=false",
    ),
    "a metric that is not measured": (
        ["data=local", "data.train=good.jsonl", "checkpoint.metric=eval_acuracy"],
        "checkpoint.metric=eval_acuracy: not measured in this run; did you mean eval_accuracy?",
    ),
    "an objective that is not measured": (
        ["data=local", "data.train=good.jsonl", "objective=eval_mine_accuracy"],
        "objective=eval_mine_accuracy: not measured in this run; did you mean eval_accuracy?",
    ),
    "a resumption from nothing": (
        ["data=local", "data.train=good.jsonl", "resume=not_a_model"],
        "resume=not_a_model: no checkpoint with a state/ directory; resume is auto, never or such a directory",
    ),
    "a run directory of something else": (
        ["run_dir=."], "run_dir=.: is not empty and holds no run (blank.jsonl, ...); choose another run_dir"
    ),
    "a run directory that is a file": (
        ["run_dir=good.jsonl"], "run_dir=good.jsonl: is a file; choose another run_dir"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_reading_the_input_finds_is_refused_before_anything_is_written(
    run_in: Path, arguments: list[str], message: str
) -> None:
    before = contents(run_in)

    with pytest.raises(UserError) as caught:
        rm_experiments.train(rm_experiments.compose([*TINY, *arguments]))

    assert str(caught.value) == message
    assert contents(run_in) == before


def test_the_command_refuses_what_reading_the_input_finds_in_one_line(cwd: Path) -> None:
    arguments, message = UNREADABLE["a broken JSON line"]
    before = contents(cwd)

    done = rm_train(cwd, *TINY, *arguments)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rm-train: {message}\n")
    assert contents(cwd) == before


def test_cfg_job_prints_the_composed_config_and_does_nothing(cwd: Path) -> None:
    before = contents(cwd)

    done = rm_train(cwd, "--cfg", "job", "experiment=sandbox_label_noise", "seed=7")

    assert (done.returncode, done.stderr) == (0, "")
    expected = rm_experiments.compose(["experiment=sandbox_label_noise", "seed=7"])
    printed = OmegaConf.merge(OmegaConf.structured(RunConfig), yaml.safe_load(done.stdout))
    assert to_run_config(printed) == expected
    assert contents(cwd) == before


def test_help_lists_groups_options_and_exit_codes(cwd: Path) -> None:
    done = rm_train(cwd, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert "rm-train: train a reward model from preference pairs." in done.stdout
    assert "Exit codes: 0 done, 1 the run or a job of a sweep failed, 2 the input is wrong" in done.stdout
    lines = done.stdout.splitlines()
    assert "scheduler: constant, cosine, linear, warmup_stable_decay" in lines
    assert any(line.startswith("benchmark: best_of_n, hhh, judge_bench, llmbar, none, ppe,") for line in lines)


def test_dry_run_prints_the_size_of_the_run_and_writes_nothing(
    run_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = rm_experiments.compose([
        *TINY, "dry_run=true", "data.sandbox.num_train_pairs=50", "data.sandbox.num_eval_pairs=21",
        "train.batch_size=8", "train.num_epochs=2", "eval=start_end", "run_dir=there",
    ])  # fmt: skip
    before = contents(run_in)

    result = rm_experiments.train(config)

    assert (result.status, result.exit_code, result.metrics) == ("dry_run", 0, {})
    lines = capsys.readouterr().out.splitlines()
    lines = lines[lines.index("dry run: nothing was written") + 1 :]
    shown = {line.partition(" ")[0]: line.partition(" ")[2].strip() for line in lines}
    assert list(shown) == ["steps", "tokens", "evaluations", "parameters", "memory", "disk"]
    assert shown["steps"] == "14 of 8 pairs (2.00 epochs)"
    assert shown["evaluations"] == "2 of 21 pairs"
    assert contents(run_in) == before


BAD_GRIDS: dict[str, tuple[list[str], str]] = {
    "a wrong value in the grid": (
        ["seed=1,2", "train.batch_size=4,0"], "train.batch_size=0: must be a whole number of at least 1"
    ),
    "a wrong value beside the grid": (
        ["seed=range(0,3)", "optimizer.lr=0"], "optimizer.lr=0.0: must be a finite number above 0"
    ),
    "a mistyped key": (["seeds=1,2"], "seeds is not a key; did you mean seed?"),
    "a mistyped option in the grid": (
        ["optimizer=adamw,adam"],
        "optimizer=adam: allowed are adafactor, adamw, adamw_8bit, lion, muon, schedule_free_adamw; "
        "did you mean optimizer=adamw?",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_GRIDS.values(), ids=BAD_GRIDS)
def test_one_wrong_setting_refuses_the_whole_sweep(cwd: Path, arguments: list[str], message: str) -> None:
    before = contents(cwd)

    done = rm_train(cwd, "--multirun", *arguments)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rm-train: {message}\n")
    assert contents(cwd) == before


def test_one_wrong_setting_refuses_the_whole_sweep_of_an_option(cwd: Path) -> None:
    before = contents(cwd)

    done = rm_train(cwd, "sweep=lr", "train.batch_size=0")

    message = "train.batch_size=0: must be a whole number of at least 1"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rm-train: {message}\n")
    assert contents(cwd) == before


@dataclasses.dataclass
class Sweep:
    path: Path
    done: subprocess.CompletedProcess[str]

    def summary(self, job: int) -> dict[str, Any]:
        return json.loads((self.path / str(job) / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two jobs; the data file of the first is not there."""
    cwd = tmp_path_factory.mktemp("sweep")
    (cwd / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD), encoding="utf-8")
    done = rm_train(
        cwd, "--multirun", "data=local", "data.train=gone.jsonl,good.jsonl", "data.eval_fraction=0.2",
        "train.max_steps=1", "hydra.sweep.dir=grid", *TINY,
    )  # fmt: skip
    return Sweep(cwd / "grid", done)


def test_a_sweep_goes_on_after_a_job_that_was_refused(sweep: Sweep) -> None:
    assert sweep.summary(1)["status"] == "finished"
    assert (sweep.path / "1" / "final" / "model.safetensors").is_file()


def test_a_refused_job_says_so_in_its_directory(sweep: Sweep) -> None:
    assert sweep.summary(0) == {
        "status": "failed",
        "steps": 0,
        "error": "DataError: data.train=gone.jsonl: no such file; did you mean data.train=good.jsonl?",
    }
    assert sorted(path.name for path in (sweep.path / "0").iterdir()) == ["job.log", "summary.json"]
    assert "job 0 failed: data.train=gone.jsonl: no such file" in sweep.done.stderr
    assert "Traceback" not in sweep.done.stderr


def test_the_jobs_of_a_sweep_write_to_numbered_directories_and_nowhere_else(sweep: Sweep) -> None:
    assert sorted(path.name for path in sweep.path.iterdir() if path.is_dir()) == ["0", "1"]
    assert sorted(path.name for path in sweep.path.parent.iterdir()) == ["good.jsonl", "grid"]


def test_a_sweep_with_a_failed_job_exits_with_1(sweep: Sweep) -> None:
    assert sweep.done.returncode == 1


def test_a_refused_job_is_one_line_on_stderr(sweep: Sweep) -> None:
    assert not [line for line in sweep.done.stderr.splitlines() if line.startswith("Error executing job")]


def test_a_job_of_a_sweep_may_not_have_a_run_dir(cwd: Path) -> None:
    done = rm_train(cwd, "--multirun", "seed=1,2", "run_dir=mine", "hydra.sweep.dir=grid")

    assert done.stderr.splitlines()[-1] == (
        "rm-train: run_dir=mine: each job of a sweep has its own; try hydra.sweep.dir=mine"
    )
    assert done.returncode == 2
    assert not (cwd / "mine").exists()


def test_a_run_that_fails_says_so_in_its_directory(run_in: Path) -> None:
    config = rm_experiments.compose([
        *TINY, "data=local", "data.train=good.jsonl", "data.eval_fraction=0.2", "train.max_steps=4", "eval=start_end",
        "optimizer.lr=1e30", "train.max_grad_norm=null", "run_dir=run",
    ])  # fmt: skip

    with pytest.raises(TrainingError) as caught:
        rm_experiments.train(config)

    message = str(caught.value)
    assert message.startswith("step 2, rank 0: ")
    assert message.endswith(
        "; stopped before the optimizer step, the weights are those of step 1; try a lower optimizer.lr (now 1e+30); "
        "the pairs are in run/non_finite_step_00000002.jsonl"
    )
    summary = json.loads((run_in / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["status"], summary["steps"]) == ("failed", 1)
    assert summary["error"] == f"TrainingError: {message}"
    assert not (run_in / "run" / "final").exists()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("TrainingError('boom')", 1, "rm-train: the run failed: boom"),
        ("DataError('x: bad')", 2, "rm-train: x: bad"),
        ("KeyboardInterrupt", 130, "rm-train: interrupted"),
    ],
)
def test_the_exit_code_says_how_the_run_ended(cwd: Path, error: str, code: int, line: str) -> None:
    program = f"""
from rm_experiments.cli import train
from rm_experiments.errors import DataError, TrainingError
def run(config, overrides, tell_ranks):
    raise {error}
train.run_one = run
train.main()
"""

    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{line}\n")
