"""`hub.push`: what a run does at its beginning and at its end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import rm_experiments
from rm_experiments.cli.push import main
from rm_experiments.config.push_schema import PushConfig
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError
from rm_experiments.runner.push import check_run, not_pushed, push_run
from tests.cli.typed import exit_code
from tests.hub.conftest import contents
from tests.hub.stand_in import READ, WRITE, Hub

Compose = Callable[..., RunConfig]
SHORT = ("train.max_steps=1", "train.batch_size=4", "hub.push=true")


def hub_record(run_dir: Path) -> dict[str, object]:
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "finished"
    return dict(summary["hub"])


def test_a_run_pushes_its_final_model_and_remembers_where(
    hub: Hub, compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    config = compose(*SHORT, f"run_dir={path}", "hub.repo_id=lab/helpful")

    result = rm_experiments.train(config)

    assert (result.status, result.exit_code) == ("finished", 0)
    sha = hub.repositories["lab/helpful"].commit("main").sha
    url = f"{hub.url}/lab/helpful"
    assert hub_record(path) == {
        "repo_id": "lab/helpful", "revision": "main", "private": True, "commit": sha, "url": url,
    }  # fmt: skip
    captured = capsys.readouterr()
    assert f"\nCommit     {sha}\nModel      {url}\n" in captured.out
    assert set(hub.files("lab/helpful")) == set(contents(path / "final"))
    # Anywhere else, with the rewards that the run measured.
    downloaded = huggingface_hub.snapshot_download("lab/helpful", endpoint=hub.url, local_dir=tmp_path / "elsewhere")
    model = AutoModelForSequenceClassification.from_pretrained(downloaded)
    for line in (path / "final" / "probe.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for side in ("chosen", "rejected"):
            with torch.no_grad():
                reward = model(torch.tensor([row[f"input_ids_{side}"]])).logits[0, 0].item()
            np.testing.assert_allclose(reward, row[f"reward_{side}"], atol=1e-5)
    # Nothing of the token is written anywhere.
    assert not [name for name, content in contents(path).items() if WRITE.encode() in content]
    assert WRITE not in captured.out + captured.err


def test_a_job_of_a_sweep_has_a_branch_of_its_own(hub: Hub, compose: Compose, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "night" / "7"
    path.parent.mkdir()
    run.rename(path)

    push_run(compose("hub.push=true"), path, tmp_path / "night", lambda line: None)

    assert hub_record(path)["revision"] == "night-7"
    assert (hub.files("ada/rm"), "model.safetensors" in hub.files("ada/rm", "night-7")) == ({}, True)
    # rm-push sends it to the same place.
    before = len(hub.repositories["ada/rm"].branches["night-7"])
    (pushed,) = rm_experiments.push(PushConfig(directories=[str(path)]))
    assert (str(pushed.place), pushed.uploaded) == ("ada/rm (private), night-7", [])
    assert len(hub.repositories["ada/rm"].branches["night-7"]) == before


def test_a_run_whose_push_fails_is_finished_and_says_what_to_type(
    hub: Hub, compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], sleeps: list[float]
) -> None:
    path = tmp_path / "run"
    hub.stop()
    config = compose(*SHORT, f"run_dir={path}")

    result = rm_experiments.train(config)

    why = "the Hub cannot be reached (127.0.0.1 does not answer)"
    captured = capsys.readouterr()
    assert (
        f"Note: {why}; hub.push=true is tried at the end of the run, and by rm-push RUN at any time.\n" in captured.err
    )
    assert result.exit_code == 0
    assert f"Hub        not pushed: {why}; the model is whole, type  rm-push {path}  later\n" in captured.out
    assert hub_record(path) == {"repo_id": "rm", "revision": "main", "private": True, "error": why}
    assert sleeps == []

    # The same command does it, once.
    hub.start()
    rm_experiments.train(config)
    assert hub_record(path)["commit"] == hub.repositories["ada/rm"].commit("main").sha
    hub.requests.clear()
    rm_experiments.train(config)
    assert hub.requests == []
    assert capsys.readouterr().out.endswith("is already complete; nothing was done.\n")


def test_a_sweep_says_which_jobs_are_not_on_the_hub(hub: Hub, compose: Compose, run: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "night"
    for name in ("2", "10", "11"):
        shutil.copytree(run, sweep / name, symlinks=True)
    assert not_pushed(sweep) == []
    push_run(compose("hub.push=true"), sweep / "2", sweep, lambda line: None)
    hub.stop()
    for name in ("10", "11"):
        push_run(compose("hub.push=true"), sweep / name, sweep, lambda line: None)

    assert not_pushed(sweep) == [f"Not on the Hub: jobs 10, 11; type rm-push {sweep}"]

    hub.start()
    rm_experiments.push(PushConfig(directories=[str(sweep)]))
    assert not_pushed(sweep) == []
    assert set(hub.repositories["ada/rm"].branches) == {"main", "night-2", "night-10", "night-11"}


def test_a_dry_run_shows_at_the_end_what_would_go_up(
    hub: Hub, compose: Compose, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    config, lines = compose("hub.push=true", "hub.dry_run=true"), list[str]()

    assert check_run(config) == []
    push_run(config, run, None, lines.append)

    assert lines[0].endswith(" kB, to rm (private), main of the token's account; nothing is uploaded")
    assert lines[-1] == "Commit     Reward model rm, step 4"
    assert hub.requests == []
    assert "hub" not in json.loads((run / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("token", "overrides", "message"),
    [
        (None, [], r"^hub.push=true: no token for the Hub; type hf auth login, or set HF_TOKEN, or leave hub"),
        (READ, [], r"^hub.push=true: the token of ada can only read; make another at http.*, or leave hub.push out"),
        ("hf_" + "x" * 34, [], r"^hub.push=true: the Hub refuses the token \(HF_TOKEN\); type hf auth login, or"),
        (
            WRITE, ["hub.repo_id=bob/rm"],
            r"^hub.repo_id=bob/rm: the token is that of ada, who cannot write to bob; allowed are ada, lab; try "
            r"hub.repo_id=ada/rm$",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed_is_refused_before_anything_begins(
    hub: Hub, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None,
    overrides: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(ConfigError, match=message):
        rm_experiments.train(compose(*SHORT, f"run_dir={tmp_path / 'run'}", *overrides))
    assert not (tmp_path / "run").exists()
    assert hub.repositories == {}


def test_the_account_is_asked_once(hub: Hub, compose: Compose) -> None:
    for _ in range(2):
        assert check_run(compose("hub.push=true", "hub.repo_id=lab/rm")) == []
    assert hub.paths("GET").count("/api/whoami-v2") == 1
    assert check_run(compose()) == []


def test_a_hub_that_is_busy_at_the_beginning_does_not_stop_a_run(hub: Hub, compose: Compose) -> None:
    hub.meddle = lambda method, path: 503

    (line,) = check_run(compose("hub.push=true"))
    assert line.startswith("Note: the Hub answers 503: not today; hub.push=true is tried at the end")


def test_the_command_and_its_exit_codes(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    before = {one.name for one in run.parent.iterdir()}

    assert exit_code(monkeypatch, main, "rm-push", "run", "repo_id=cli", "private=false") == 0
    out, err = capsys.readouterr()
    sha = hub.repositories["ada/cli"].commit("main").sha
    assert err == ""
    assert out.splitlines()[1:] == [f"Commit     {sha}", f"Model      {hub.url}/ada/cli"]
    assert not hub.repositories["ada/cli"].private

    for arguments, message in (
        (["repo_id=cli"], "no directory was named; type rm-push DIR, a run, a sweep or a model directory"),
        (["run", "repo=cli"], "repo is not a key; did you mean repo_id?"),
        (["repo_id=cli", "run"], "run: directories come first, settings after, as in rm-push run key=value"),
        (["run", "-m"], "--multirun: rm-push has no sweeps; leave it out"),
        (["./nowhere"], "./nowhere: no such directory; name a model directory, a run or a Hub id"),
    ):
        assert exit_code(monkeypatch, main, "rm-push", *arguments) == 2
        assert capsys.readouterr() == ("", f"rm-push: {message}\n")

    hub.stop()
    assert exit_code(monkeypatch, main, "rm-push", "run") == 1
    assert capsys.readouterr() == (
        "", "rm-push: run/final: the Hub cannot be reached (127.0.0.1 does not answer); repeat the command to go on\n"
    )  # fmt: skip
    assert {one.name for one in run.parent.iterdir()} == before
