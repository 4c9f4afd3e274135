"""What `rm-push` puts on the Hub, and what it says when it cannot."""

from __future__ import annotations

import datetime
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file

from rm_experiments.config.compose import load_config_yaml
from rm_experiments.config.push_schema import PushConfig
from rm_experiments.errors import CheckpointError, ConfigError, PushError
from rm_experiments.modeling.loading import load_saved, open_saved, own_file
from rm_experiments.modeling.reward_model import last_linear
from rm_experiments.reporting.hub_account import impatient_xet
from rm_experiments.reporting.hub_upload import Pushed
from rm_experiments.runner.push import push_models
from rm_experiments.training.checkpoints import verify_directory
from tests.hub.conftest import contents
from tests.hub.stand_in import READ, STRANGER, Dropped, File, Hub, Repository

Download = Callable[..., dict[str, bytes]]


def push(*directories: Path, **settings: Any) -> list[Pushed]:
    return push_models(PushConfig(directories=[str(one) for one in directories], **settings), lambda line: None)


def said(*directories: Path, **settings: Any) -> list[str]:
    lines: list[str] = []
    push_models(PushConfig(directories=[str(one) for one in directories], **settings), lines.append)
    return lines


def replace(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize("part_size", [None, 5_000])
def test_what_is_downloaded_is_what_was_pushed(
    hub: Hub, run: Path, download: Download, tmp_path: Path, part_size: int | None
) -> None:
    hub.part_size = part_size
    (pushed,) = push(run)

    found, final = download("ada/rm"), contents(run / "final")
    assert set(found) == set(final)
    # The card names its repository; settings and arguments lose the directory that the run was written to.
    changed = {"README.md", "MANIFEST.json", "training_args.bin"}
    assert {name for name in final if found[name] != final[name]} == changed
    assert found["model.safetensors"] == final["model.safetensors"]
    assert hub.repositories["ada/rm"].private
    assert [one.title for one in hub.repositories["ada/rm"].branches["main"]] == [
        "initial commit", "Reward model rm, step 4",
    ]  # fmt: skip
    assert (pushed.place.repo_id, pushed.url) == ("ada/rm", f"{hub.url}/ada/rm")
    assert pushed.commit == hub.repositories["ada/rm"].commit("main").sha
    # The copy is verified by its own manifest, and loads.
    assert verify_directory(tmp_path / "downloaded")["step"] == 4
    assert len(hub.parts) == 0
    assert any(re.fullmatch(r"/storage/\w+/2", path) for path in hub.paths("PUT")) == (part_size is not None)


def test_a_model_is_read_by_its_id_with_its_settings_and_all_heads(hub: Hub, run: Path) -> None:
    final = run / "final"
    (final / "MANIFEST.json").unlink()
    score = load_file(final / "model.safetensors")["score.weight"]
    known = {"kind": "ensemble", "names": '["a", "b"]', "weights": "[0.5, 0.5]"}
    save_file({"weight": torch.cat([3 * score, -score])}, final / "heads.safetensors", metadata=known)
    push(final, repo_id="ada/rm")

    model = open_saved("ada/rm")
    assert model.saved == load_config_yaml(final / "config.yaml")
    assert len(load_saved(model).heads) == 1
    loaded = load_saved(model, all_heads=True)
    assert loaded.heads.names == ("a", "b")
    assert torch.equal(last_linear(loaded).weight, torch.cat([3 * score, -score]))
    # Of somebody else's model there is neither.
    assert own_file("ada/rm", None, "absent.yaml") is None


def test_the_card_on_the_hub_loads_the_repository_and_parses(hub: Hub, run: Path) -> None:
    push(run)
    card = hub.files("ada/rm")["README.md"].decode()

    assert '\npath = "ada/rm"\ntokenizer = AutoTokenizer.from_pretrained(path)\n' in card
    data: Any = ModelCard(card, ignore_metadata_errors=False).data
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    accuracy, loss, margin = data.eval_results
    assert (accuracy.metric_type, accuracy.metric_name) == ("accuracy", "eval_accuracy")
    assert accuracy.metric_value == summary["final"]["eval_accuracy"]
    assert loss.metric_value == summary["final"]["eval_loss"]
    assert margin.metric_value == summary["final"]["eval_margin"]
    assert (accuracy.dataset_name, accuracy.dataset_args) == ("eval", {"num_pairs": 21})
    assert not accuracy.verified
    assert data.model_name == "rm"


def test_a_second_push_uploads_nothing(hub: Hub, run: Path) -> None:
    (first,) = push(run)
    hub.requests.clear()

    lines = said(run)

    assert hub.requests == [("GET", "/api/models/ada/rm/revision/main")]
    assert lines == [
        f"Unchanged  ada/rm (private), main has it already: commit {first.commit}", f"Model      {hub.url}/ada/rm",
    ]  # fmt: skip
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["hub"] == {
        "repo_id": "ada/rm", "revision": "main", "private": True, "commit": first.commit, "url": f"{hub.url}/ada/rm",
    }  # fmt: skip


def test_only_what_differs_is_uploaded_and_the_old_commit_is_named(hub: Hub, run: Path) -> None:
    (first,) = push(run)
    with (run / "final" / "README.md").open("a", encoding="utf-8") as file:
        file.write("License: ask Ada.\n")
    hub.requests.clear()

    (second,) = push(run)

    assert [one.name for one in second.uploaded] == ["MANIFEST.json", "README.md"]
    assert second.replaced == first.commit
    assert hub.paths("PUT") == []
    assert hub.files("ada/rm")["README.md"].endswith(b"License: ask Ada.\n")
    assert f"Replaced   the model of commit {first.commit}, which stays there under this name" in second.lines()


def test_a_branch_leaves_main_alone_and_is_in_the_snippet(hub: Hub, run: Path) -> None:
    (pushed,) = push(run, revision="v2", repo_id="lab/helpful", message="Better")

    assert hub.files("lab/helpful") == {}
    assert hub.repositories["lab/helpful"].commit("v2").title == "Better"
    card = hub.files("lab/helpful", "v2")["README.md"].decode()
    assert 'path, revision = "lab/helpful", "v2"\n' in card
    assert "AutoTokenizer.from_pretrained(path, revision=revision)\n" in card
    assert "AutoModelForSequenceClassification.from_pretrained(path, revision=revision, num_labels=1)" in card
    assert pushed.url == f"{hub.url}/lab/helpful/tree/v2"


def test_paths_of_this_machine_and_tokens_stay_here(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of `final/` that no manifest guards."""
    model = shutil.copytree(run / "final", tmp_path / "model")
    (model / "MANIFEST.json").unlink()
    settings = yaml.safe_load((model / "config.yaml").read_text(encoding="utf-8"))
    token, secret = "hf_" + "A1b2C3d4" * 4, "0123456789abcdef0123"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    settings["data"] |= {"train": ["/home/ada/my data/a.jsonl", "~/b.jsonl", "data/c.jsonl"], "eval": "org/name:test"}
    settings["tracking"]["notes"] = f"see /scratch/ada/notes.md, key {token} {secret}"
    (model / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    replace(
        model / "README.md", "seed: 3", f"train: /home/ada/my data/a.jsonl\nnotes: {token}\nother: /scratch/x/y.txt"
    )
    torch.save({"run_dir": "/home/ada/runs/7", "seed": 3}, model / "training_args.bin")

    push(model, repo_id="m")

    found = hub.files("ada/m")
    sent = yaml.safe_load(found["config.yaml"])
    assert sent["data"]["train"] == ["a.jsonl", "b.jsonl", "data/c.jsonl"]
    assert sent["data"]["eval"] == "org/name:test"
    assert sent["tracking"]["notes"] == "see notes.md, key REDACTED REDACTED"
    assert sent["data"]["sandbox"] == settings["data"]["sandbox"]
    card = found["README.md"].decode()
    assert "train: a.jsonl\nnotes: REDACTED\nother: y.txt" in card
    assert card.count("</details>") == 1
    assert torch.load(io.BytesIO(found["training_args.bin"]), weights_only=True) == {"run_dir": "7", "seed": 3}
    for content in found.values():
        assert not any(one.encode() in content for one in ("/home/ada", "/scratch", token, secret, str(tmp_path)))


def test_a_pickled_object_stays_here(hub: Hub, run: Path, tmp_path: Path) -> None:
    model = shutil.copytree(run / "final", tmp_path / "model")
    (model / "MANIFEST.json").unlink()
    torch.save({"path": Path("x")}, model / "training_args.bin")

    (pushed,) = push(model)

    assert "training_args.bin" not in hub.files("ada/model")
    assert pushed.notes == ["training_args.bin stays here: it holds a pickled object, which may have a token in it"]


def test_files_of_another_model_go_and_those_of_people_stay(hub: Hub, run: Path) -> None:
    push(run)
    files = hub.repositories["ada/rm"].commit("main").files
    files |= {
        name: File(b"old", lfs=False)
        for name in (
            "adapter_config.json",
            "model-00002-of-00002.safetensors",
            "plots/old.png",
            "LICENSE",
            "a/notes.md",
        )
    }

    (pushed,) = push(run)

    assert pushed.removed == ["adapter_config.json", "model-00002-of-00002.safetensors", "plots/old.png"]
    assert set(hub.files("ada/rm")) == {*contents(run / "final"), "LICENSE", "a/notes.md"}


def test_a_checkpoint_goes_to_its_own_branch_without_its_state(hub: Hub, run: Path) -> None:
    assert (run / "checkpoints" / "step_00000002" / "state").is_dir()

    (pushed,) = push(run / "checkpoints" / "step_00000002")

    assert str(pushed.place) == "ada/rm (private), step_00000002"
    found = hub.files("ada/rm", "step_00000002")
    assert not [name for name in found if name.startswith("state/")]
    assert {"model.safetensors", "config.json", "README.md", "MANIFEST.json"} <= set(found)
    listed = json.loads(found["MANIFEST.json"])["files"]
    assert set(listed) == set(found) - {"MANIFEST.json"}
    assert "hub" not in json.loads((run / "summary.json").read_text(encoding="utf-8"))


def test_training_state_of_other_trainers_stays_here(hub: Hub, tmp_path: Path) -> None:
    model = tmp_path / "theirs"
    for name in ("config.json", "model.safetensors", "README.md", "LICENSE"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("# /home/x/y z" if name == "README.md" else "{}", encoding="utf-8")
    names = ("optimizer.pt", "rng_state_0.pth", "trainer_state.json", "global_step9/x.pt", "checkpoint-9/config.json",
             ".git/config", "runs/events", ".DS_Store")  # fmt: skip
    for name in names:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("{}", encoding="utf-8")

    push(model)

    # Whoever wrote this card knows what it is to say.
    assert hub.files("ada/theirs") == {
        "config.json": b"{}", "model.safetensors": b"{}", "README.md": b"# /home/x/y z", "LICENSE": b"{}",
    }  # fmt: skip


def test_an_adapter_of_a_local_base_model_says_who_can_load_it(hub: Hub, tmp_path: Path) -> None:
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    adapter.mkdir()
    base.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": 8}))
    (adapter / "adapter_model.safetensors").write_bytes(b"\0\1")

    (pushed,) = push(adapter)

    assert json.loads(hub.files("ada/adapter")["adapter_config.json"]) == {"base_model_name_or_path": "base", "r": 8}
    assert pushed.notes == [
        f"its base model is a directory of this machine ({base}), where nobody else has it: push a full model "
        "(adapter.merge=true, or rm-merge), or train on the base model's Hub id"
    ]


def test_the_models_of_a_sweep_get_a_branch_each(hub: Hub, run: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "2026-01-31 12:00"
    for number in (0, 1):
        shutil.copytree(run, sweep / str(number), symlinks=True)
    (sweep / "sweep.json").write_text("{}", encoding="utf-8")

    first, second = push(sweep)

    assert [str(one.place) for one in (first, second)] == [
        "ada/rm (private), 2026-01-31-12-00-0", "ada/rm (private), 2026-01-31-12-00-1",
    ]  # fmt: skip
    assert hub.files("ada/rm") == {}
    # The one that is chosen.
    assert str(push(sweep / "1", revision="main")[0].place) == "ada/rm (private), main"
    assert set(hub.files("ada/rm")) == set(contents(run / "final"))
    with pytest.raises(
        ConfigError, match=r"0/final and .*1/final: both would go to v1 of rm, one over the other; push"
    ):
        push(sweep, revision="v1")


def test_a_dry_run_shows_what_would_go_up_and_asks_nobody(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")

    lines = said(run, dry_run=True, private=False, message="Hello")

    count = len(contents(run / "final"))
    assert re.fullmatch(
        rf"Dry run    {count} files, [\d.]+ kB, to rm \(public\), main of the token's account; nothing is uploaded",
        lines[0],
    )
    size = (run / "final" / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in [line.strip() for line in lines]
    assert "(as it is to be there: without paths of this machine)" in next(one for one in lines if "README.md" in one)
    assert lines[-1] == "Commit     Hello"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "settings", "message"),
    [
        (None, {}, r"^no token for the Hub; type hf auth login, or set HF_TOKEN$"),
        ("hf_" + "x" * 34, {}, r"^the Hub refuses the token \(HF_TOKEN\); type hf auth login, or set HF_TOKEN$"),
        ("hf_" + "x" * 34, {"repo_id": "ada/m"}, r"^the Hub refuses the token \(HF_TOKEN\); type hf"),
        (READ, {}, r"^the token of ada can only read; make another at http://.*/settings/tokens, and type hf auth"),
        (STRANGER, {"repo_id": "ada/m"}, r"^the token may not do this: You don't have the rights .* 'ada'; use one"),
    ],
)
def test_a_token_that_cannot_write_is_wrong_input(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, settings: dict[str, Any], message: str,
    sleeps: list[float],
) -> None:  # fmt: skip
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(ConfigError, match=message):
        push(run, **settings)
    assert hub.repositories == {}
    assert sleeps == []


def test_another_users_private_repository_is_not_there_and_a_public_one_is_not_ours(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["ada/m"] = Repository(private=False)
    hub.repositories["ada/m"].add("main", "first", {})
    monkeypatch.setenv("HF_TOKEN", STRANGER)

    with pytest.raises(ConfigError, match=r"^the token may not do this: You have no right to write here; use one that"):
        push(run, repo_id="ada/m", private=False)


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, run: Path) -> None:
    push(run, private=False)
    assert not hub.repositories["ada/rm"].private

    with pytest.raises(ConfigError, match=r"^repo_id=ada/rm: is public already; type private=false to push there, or"):
        push(run)
    assert said(run, private=False)[0].startswith("Unchanged  ada/rm (public), main")


def test_without_a_network_it_fails_at_once(hub: Hub, run: Path, sleeps: list[float]) -> None:
    hub.stop()

    with pytest.raises(
        PushError, match=r"final: the Hub cannot be reached \(127.0.0.1 does not answer\); repeat the c"
    ):
        push(run)
    assert sleeps == []
    assert hub.requests == []


def test_a_hub_that_dies_on_the_way_is_given_up_soon_and_the_repeated_command_goes_on(
    hub: Hub, run: Path, sleeps: list[float]
) -> None:
    """The client alone would try each file's connection five times, over 23 seconds."""
    model = hub.meddle

    def die(method: str, path: str) -> int | None:
        if method == "PUT" and len(hub.stored) == 2:
            hub.meddle = model
            raise Dropped
        return None

    hub.meddle = die
    answer = hub.answer

    def stop_after(request: Any) -> Any:
        try:
            return answer(request)
        except Dropped:
            hub.stop()
            raise

    hub.answer = stop_after  # type: ignore[method-assign]
    with pytest.raises(PushError, match=r"final: the Hub cannot be reached \(.*\); repeat the command to go on$"):
        push(run)
    # Each file is given up after three tries to connect, before which its open connection may end once or twice.
    assert {0.5, 1.5} <= set(sleeps)
    assert 8 not in sleeps
    assert hub.files("ada/rm") == {}
    stored = set(hub.stored)
    assert len(stored) >= 2
    hub.answer = answer  # type: ignore[method-assign]
    hub.start()
    hub.requests.clear()

    push(run)

    # What had arrived is not sent again.
    assert not {path.rpartition("/")[2] for path in hub.paths("PUT")} & stored
    assert set(hub.files("ada/rm")) == set(contents(run / "final"))


@pytest.mark.parametrize(
    ("path", "status", "kind", "message"),
    [
        ("/commit/", 412, PushError, r"the branch was changed meanwhile \(not today\); repeat the command to go on"),
        ("/commit/", 500, PushError, r"the Hub answers 500: not today; repeat"),
        ("/commit/", 403, ConfigError, r"^the token may not do this: not today; use one that can write there"),
        ("/api/repos/create", 429, PushError, r"the Hub wants fewer requests \(not today\); repeat"),
    ],
)
def test_what_the_hub_says_is_one_line(
    hub: Hub, run: Path, path: str, status: int, kind: type[Exception], message: str
) -> None:
    hub.meddle = lambda method, at: status if path in at else None

    with pytest.raises(kind, match=message) as raised:
        push(run)
    assert "\n" not in str(raised.value)


def test_a_push_meets_another_one(hub: Hub, run: Path) -> None:
    """It does not go over what it has not seen."""
    push(run)
    (run / "final" / "LICENSE").write_text("mine", encoding="utf-8")
    repository = hub.repositories["ada/rm"]

    def meddle(method: str, path: str) -> int | None:
        if "/commit/" in path:
            repository.add("main", "theirs", dict(repository.commit("main").files))
        return None

    hub.meddle = meddle
    with pytest.raises(PushError, match=r"the branch was changed meanwhile \(A commit has happened since\. Please"):
        push(run)


def test_a_damaged_directory_is_refused(hub: Hub, run: Path) -> None:
    with (run / "final" / "model.safetensors").open("r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"\x7f")

    with pytest.raises(
        CheckpointError, match=r"final/model.safetensors: its content is not what was written \(SHA-256"
    ):
        push(run)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("library_name: transformers", "library_name: [", "while parsing"),
        ("library_name: transformers", "library_name: 3", "library_name: must be text, not 3"),
        ("- reward-model", "- 7", "tags: must be text or a list of texts, not"),
        ("model-index:", "model-index: 3\nother:", "Invalid model-index|int"),
        (
            "name: eval_loss",
            "name: eval_loss\n      verified: true",
            "model-index: loss is verified, which only the Hub",
        ),
        ("type: margin\n      value: ", "type: margin\n      value: .nan #", "model-index: margin of eval is nan"),
    ],
)
def test_a_card_that_the_hub_would_not_understand_is_refused(
    hub: Hub, run: Path, before: str, after: str, message: str
) -> None:
    replace(run / "final" / "README.md", before, after)

    with pytest.raises(ConfigError, match=rf"^README.md: its front matter is not valid: .*({message})"):
        push(run)
    assert not hub.repositories.get("ada/rm") or hub.files("ada/rm") == {}


def test_a_card_that_only_the_hub_does_not_like_is_refused(hub: Hub, run: Path) -> None:
    replace(
        run / "final" / "README.md", "library_name: transformers", "library_name: transformers\nlicense: [mit, bsd]"
    )

    with pytest.raises(ConfigError, match=r'^the Hub refuses README.md: .*"license" must be a string'):
        push(run)


def test_a_hub_without_xet_says_what_to_set(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)

    with pytest.raises(
        PushError, match=r"final: the Hub at http://.* does not take files by Xet; set HF_HUB_DISABLE_XET"
    ):
        push(run)


def test_what_goes_up_by_xet_is_what_was_pushed(xet: Hub, run: Path, download: Download) -> None:
    (pushed,) = push(run)

    assert len(xet.xorbs) >= 1
    assert xet.paths("PUT") == []
    final = contents(run / "final")
    found = download("ada/rm")
    assert {name for name in final if found[name] != final[name]} == {
        "README.md", "MANIFEST.json", "training_args.bin",
    }  # fmt: skip
    assert set(found) == set(final)
    xet.requests.clear()
    assert push(run)[0].uploaded == []
    assert xet.requests == [("GET", "/api/models/ada/rm/revision/main")]
    assert pushed.commit == xet.repositories["ada/rm"].commit("main").sha


def test_a_xet_storage_that_fails_is_one_line_and_the_repeated_command_goes_on(xet: Hub, run: Path) -> None:
    xet.meddle = lambda method, path: 403 if path.startswith("/cas/v1/xorb") else None
    with pytest.raises(PushError, match=r"repeat the command to go on$") as raised:
        push(run)
    assert "\n" not in str(raised.value)
    assert xet.files("ada/rm") == {}

    xet.meddle = lambda method, path: None
    push(run)
    assert set(xet.files("ada/rm")) == set(contents(run / "final"))


def test_xets_client_has_less_patience_while_a_model_is_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left alone it was still trying after 400 seconds without a storage; with this it ended after 15."""
    hf_xet = pytest.importorskip("hf_xet")
    monkeypatch.setenv("HF_XET_CLIENT_CONNECT_TIMEOUT", "7s")

    with impatient_xet():
        found = {name: value for name, value in hf_xet.XetConfig() if name.startswith("client.")}
        assert found["client.retry_max_attempts"] == 3
        assert found["client.retry_base_delay"] == datetime.timedelta(seconds=1)
        assert found["client.retry_max_duration"] == datetime.timedelta(seconds=20)
        # The user's own.
        assert found["client.connect_timeout"] == datetime.timedelta(seconds=7)
    assert [name for name in os.environ if name.startswith("HF_XET_CLIENT_")] == ["HF_XET_CLIENT_CONNECT_TIMEOUT"]


def test_offline_is_said(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ConfigError, match=r"^HF_HUB_OFFLINE is set, so nothing can be pushed; unset it$"):
        push(run)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"^nowhere: no such directory; name a model directory, a run or a Hub id|no such directory"),
        ("org/name", r"^org/name: no such directory; name a run, a sweep or a model directory$"),
        ("{run}/eval", r"/eval: holds no model \(config.json or adapter_config.json\) and no run$"),
    ],
)
def test_a_directory_that_holds_no_model_is_refused(hub: Hub, run: Path, name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        push_models(PushConfig(directories=[name.format(run=run)]), lambda line: None)


def test_a_directory_whose_name_is_none_of_the_hub_needs_one(hub: Hub, run: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(run / "final", tmp_path / "my model")

    with pytest.raises(
        ConfigError, match=r"/my model: my model is no name of a repository on the Hub; type repo_id=NAME"
    ):
        push(odd)
