"""The suite sees what it is there to see: every kind of difference is named, and equal runs have none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.comparing import differences, leftovers, snapshot, tensors_sha256
from tests.faults.damage import WAYS, damage


def tensors(values: bytes) -> bytes:
    """A safetensors file with one tensor."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values


def commit(directory: Path, **files: bytes) -> None:
    """A directory with a manifest."""
    listed = {}
    for name, content in files.items():
        path = directory / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        key = path.relative_to(directory).as_posix()
        listed[key] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "MANIFEST.json").write_text(json.dumps({"files": listed}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two steps."""
    path = tmp_path / "run"
    for step in (1, 2):
        directory = path / "checkpoints" / f"step_{step:08d}"
        content = tensors(bytes([step]))
        commit(directory, model_safetensors=content, state__optimizer_safetensors=content, README_md=b"card")
    for link in ("last", "best"):
        (path / "checkpoints" / link).symlink_to("step_00000002")
    commit(path / "final", model_safetensors=tensors(b"\2"), README_md=b"card", config_json=b"{}")
    (path / "eval" / "step_00000002").mkdir(parents=True)
    (path / "eval" / "step_00000002" / "eval.parquet").write_bytes(b"records")
    lines = [
        {"step": 1, "kind": "train", "train_loss": 0.5, "train_pairs_per_second": 8.0},
        {"step": 2, "kind": "eval"},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "summary.json").write_text(json.dumps({"status": "finished", "steps": 2, "seconds": 3.0}))
    return path


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """The same once more."""
    return shutil.copytree(run, tmp_path / "other", symlinks=True)


def test_equal_runs_have_no_difference(run: Path, other: Path) -> None:
    assert differences(run, other) == []


def test_what_the_clock_says_is_no_difference(run: Path, other: Path) -> None:
    for name, old, new in (("metrics.jsonl", "8.0", "9.0"), ("summary.json", "3.0", "4.0")):
        path = other / name
        path.write_text(path.read_text().replace(old, new))
    assert differences(run, other) == []


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Change the text of a file."""
    return lambda run: (run / name).write_text((run / name).read_text().replace(old, new)) and None


def point(run: Path) -> None:
    (run / "checkpoints" / "best").unlink()
    os.symlink("step_00000001", run / "checkpoints" / "best")


DIFFERENCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda run: commit(run / "final", model_safetensors=tensors(b"\3")), "final weights differ"),
    "a bit of a file": (lambda run: damage(run / "final" / "README.md", "a bit flipped"), "not as its manifest says"),
    "no final": (lambda run: shutil.rmtree(run / "final"), "there is no final/model.safetensors"),
    "a metric": (replace("metrics.jsonl", "0.5", "0.6"), "metrics.jsonl, line 1: train_loss is 0.6, not 0.5"),
    "a line twice": (
        lambda run: (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() * 2), "has 4 lines, not 2",
    ),
    "records": (lambda run: damage(run / "eval/step_00000002/eval.parquet", "halved"), "step_00000002/eval.parquet"),
    "the status": (replace("summary.json", "finished", "failed"), "status is 'failed', not 'finished'"),
    "a temporary": (lambda run: (run / "checkpoints" / ".step_00000003.partial").mkdir(), "left over: checkpoints/.st"),
    "a file too much": (lambda run: (run / "error.txt").touch(), "is too much: error.txt"),
    "a checkpoint too little": (lambda run: shutil.rmtree(run / "checkpoints/step_00000001"), "is missing: check"),
    "the optimizer": (
        lambda run: commit(
            run / "checkpoints/step_00000002", model_safetensors=tensors(b"\2"),
            state__optimizer_safetensors=tensors(b"\3"), README_md=b"card",
        ), "optimizer.safetensors differs",
    ),
    "a link": (point, "checkpoints/best points to step_00000001"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_named(run: Path, other: Path, name: str) -> None:
    change, said = DIFFERENCES[name]
    change(other)
    found = differences(run, other)
    assert any(said in one for one in found), found


def test_a_snapshot_sees_what_equal_content_hides(run: Path) -> None:
    before = snapshot(run)
    assert snapshot(run) == before
    path = run / "metrics.jsonl"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert [name for name, entry in snapshot(run).items() if entry != before[name]] == ["metrics.jsonl"]


def test_names_of_temporaries(tmp_path: Path) -> None:
    for name in (".last.partial", "x.safetensors.tmp", "tmpab12", "template.txt", "metrics.jsonl"):
        (tmp_path / name).touch()
    assert leftovers(tmp_path) == [".last.partial", "tmpab12", "x.safetensors.tmp"]


def test_tensors_are_compared_by_name_type_shape_and_bits(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    digests = set()
    for content in (tensors(b"\1\2"), tensors(b"\1\3"), tensors(b"\1\2").replace(b"U8", b"I8")):
        path.write_bytes(content)
        digests.add(tensors_sha256(path))
    assert len(digests) == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 2, 100, 10_000])
def test_every_damage_changes_the_file(tmp_path: Path, way: str, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\7" * size)
    damage(path, way)
    assert not path.exists() or path.read_bytes() != b"\7" * size
