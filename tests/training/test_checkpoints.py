"""Directories that are whole or not there, and the store that finds the newest good one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_experiments.errors import CheckpointError, TrainingError
from rm_experiments.training.checkpoints import FORMAT, MANIFEST, CheckpointStore, commit_directory, verify_directory


def fill(directory: Path) -> None:
    (directory / "weights.bin").write_bytes(bytes(range(256)) * 20)
    (directory / "state").mkdir()
    (directory / "state" / "trainer.json").write_text('{"step": 1}\n', encoding="utf-8")
    (directory / "empty").write_bytes(b"")


def entries(directory: Path) -> set[str]:
    """Everything below `directory`, hidden files included."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


def test_commit_lists_size_and_hash_of_every_file(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "one"
    commit_directory(target, fill, {"step": 3, "run_id": "abc"})
    manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    seal = manifest.pop("sha256")
    assert seal == hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    assert manifest == {
        "format": FORMAT,
        "step": 3,
        "run_id": "abc",
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in {
                "empty": b"",
                "state/trainer.json": b'{"step": 1}\n',
                "weights.bin": bytes(range(256)) * 20,
            }.items()
        },
    }
    assert entries(target.parent) == {"one", *(f"one/{name}" for name in (*manifest["files"], "state", MANIFEST))}
    assert verify_directory(target) == {**manifest, "sha256": seal}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_commit_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def write(directory: Path) -> None:
        fill(directory)
        raise error

    with pytest.raises(type(error)):
        commit_directory(tmp_path / "one", write, {})
    assert entries(tmp_path) == set()


def test_failed_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="read-only"):
        commit_directory(tmp_path / "one", fill, {})
    assert entries(tmp_path) == set()


def test_remains_of_a_killed_commit_are_replaced(tmp_path: Path) -> None:
    (tmp_path / ".one.partial").mkdir()
    (tmp_path / ".one.partial" / "old").write_text("x", encoding="utf-8")
    commit_directory(tmp_path / "one", fill, {})
    assert not (tmp_path / "one" / "old").exists()
    assert not (tmp_path / ".one.partial").exists()


def test_manifest_is_written_after_all_files(tmp_path: Path) -> None:
    seen: list[bool] = []

    def write(directory: Path) -> None:
        fill(directory)
        seen.append((directory / MANIFEST).exists() or (tmp_path / "one").exists())

    commit_directory(tmp_path / "one", write, {})
    assert seen == [False]


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.bin", "state/trainer.json"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (delete, "is missing"),
        (truncate, r"\d+ bytes, \d+ were written"),
        (append, r"\d+ bytes, \d+ were written"),
        (flip, "SHA-256 differs"),
    ],
)
def test_verify_names_the_damaged_file(tmp_path: Path, name: str, damage: Callable[[Path], None], problem: str) -> None:
    commit_directory(tmp_path / "one", fill, {})
    damage(tmp_path / "one" / name)
    with pytest.raises(CheckpointError, match=f"{name}.*{problem}"):
        verify_directory(tmp_path / "one")


def test_card_and_pictures_may_be_edited(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        fill(directory)
        (directory / "README.md").write_text("fill in", encoding="utf-8")
        (directory / "plots").mkdir()
        (directory / "plots" / "loss.png").write_bytes(b"x")

    commit_directory(tmp_path / "one", write, {"step": 1})
    (tmp_path / "one" / "README.md").write_text("filled in", encoding="utf-8")
    (tmp_path / "one" / "plots" / "loss.png").unlink()
    assert verify_directory(tmp_path / "one")["step"] == 1


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "7", b"\xff\xfe\x00"])
def test_directory_without_a_readable_manifest_was_never_finished(tmp_path: Path, content: str | bytes | None) -> None:
    commit_directory(tmp_path / "one", fill, {})
    path = tmp_path / "one" / MANIFEST
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=f"{MANIFEST} is missing or unreadable"):
        verify_directory(tmp_path / "one")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, "run-1")


def saved(store: CheckpointStore, *steps: int) -> CheckpointStore:
    for step in steps:
        store.save(step, fill)
    return store


def test_empty_store_has_nothing(store: CheckpointStore) -> None:
    assert store.steps() == []
    assert store.best() is None
    assert store.newest_good() == (None, [])


def test_saved_steps_are_listed_in_order(store: CheckpointStore) -> None:
    saved(store, 30, 4, 123456789)
    assert store.steps() == [4, 30, 123456789]
    assert [store.path(step).name for step in store.steps()] == ["step_00000004", "step_00000030", "step_123456789"]
    assert verify_directory(store.path(30))["step"] == 30
    assert verify_directory(store.path(30))["run_id"] == "run-1"


def test_other_directories_are_not_steps(store: CheckpointStore) -> None:
    saved(store, 4)
    for name in ("step_5", "step_00000006.bak", ".step_00000007.partial", "x"):
        (store.root / name).mkdir()
    assert store.steps() == [4]


def test_what_is_committed_is_not_written_again(store: CheckpointStore) -> None:
    saved(store, 4)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.path(4).rglob("*.*")}

    store.save(4, lambda directory: pytest.fail("was written again"))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.path(4).rglob("*.*")} == before


@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_a_damaged_step_is_replaced(store: CheckpointStore, damage: Callable[[Path], None]) -> None:
    saved(store, 4)
    damage(store.path(4) / "weights.bin")

    def write(directory: Path) -> None:
        (directory / "new").write_bytes(b"x")

    store.save(4, write)
    assert entries(store.path(4)) == {"new", MANIFEST}
    assert store.newest_good() == (4, [])


def test_a_manifest_names_run_step_and_identity(tmp_path: Path) -> None:
    saved(CheckpointStore(tmp_path, "run-1", {"data.train": "abc"}), 4)
    manifest = verify_directory(tmp_path / "checkpoints" / "step_00000004")
    assert {name: manifest[name] for name in ("format", "step", "run_id", "identity")} == {
        "format": FORMAT, "step": 4, "run_id": "run-1", "identity": {"data.train": "abc"},
    }  # fmt: skip


def test_what_a_killed_process_left_is_cleared(store: CheckpointStore) -> None:
    saved(store, 4)
    (store.root / ".step_00000008.partial" / "state").mkdir(parents=True)
    (store.root / ".last.partial").symlink_to("step_00000008")
    store.clear_partial()
    assert {path.name for path in store.root.iterdir()} == {"step_00000004", "last"}


def test_a_deleted_directory_is_never_there_in_part(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(store, 4, 8)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **rest: None)
    store.rotate(keep_last=1)
    assert store.steps() == [8]
    assert ".step_00000004.partial" in entries(store.root)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), r"a file may not be so large here \(ulimit -f, .*\)"),
        (RuntimeError("I/O error: File too large (os error 27)"), r"a file may not be so large here \(ulimit -f, .*\)"),
    ],
)
def test_a_full_disk_is_one_line_with_the_bytes(store: CheckpointStore, error: Exception, why: str) -> None:
    saved(store, 4)

    def write(directory: Path) -> None:
        (directory / "half").write_bytes(b"x" * 1234)
        raise error

    message = rf"step_00000008: {why}: at least 1,234 bytes are needed, [\d,]+ are free; what was committed before"
    with pytest.raises(TrainingError, match=message):
        store.save(8, write)
    assert {path.name for path in store.root.iterdir()} == {"step_00000004", "last"}
    assert store.newest_good() == (4, [])


def test_failed_save_keeps_the_last_one(store: CheckpointStore) -> None:
    saved(store, 4)

    def write(directory: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(8, write)
    assert entries(store.root) & {"step_00000008", ".step_00000008.partial"} == set()
    assert os.readlink(store.root / "last") == "step_00000004"
    assert store.newest_good() == (4, [])


def test_links_are_relative_and_follow(store: CheckpointStore, tmp_path: Path) -> None:
    saved(store, 4, 8)
    store.link_best(4)
    assert os.readlink(store.root / "last") == "step_00000008"
    assert os.readlink(store.root / "best") == "step_00000004"
    assert store.best() == 4
    store.link_best(8)
    assert store.best() == 8
    # So a run directory may be moved.
    (tmp_path / "elsewhere").mkdir()
    shutil.move(store.root, tmp_path / "elsewhere" / "checkpoints")
    assert (tmp_path / "elsewhere" / "checkpoints" / "best" / "weights.bin").is_file()


@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_newest_good_falls_back_and_says_why(store: CheckpointStore, damage: Callable[[Path], None]) -> None:
    saved(store, 4, 8, 12)
    damage(store.path(12) / "weights.bin")
    (store.path(8) / MANIFEST).unlink()
    step, skipped = store.newest_good()
    assert step == 4
    assert len(skipped) == 2
    assert "weights.bin" in skipped[0]
    assert MANIFEST in skipped[1]


def test_checkpoints_of_another_run_are_passed_over(store: CheckpointStore, tmp_path: Path) -> None:
    saved(store, 4)
    saved(CheckpointStore(tmp_path, "run-2"), 8)
    step, skipped = store.newest_good()
    assert step == 4
    assert skipped == [f"{store.path(8)}: belongs to another run (run-2)"]


def test_no_good_checkpoint_is_none(store: CheckpointStore) -> None:
    saved(store, 4)
    truncate(store.path(4) / "weights.bin")
    step, skipped = store.newest_good()
    assert step is None
    assert len(skipped) == 1


@pytest.mark.parametrize(
    ("best", "keep_last", "kept"),
    [
        (None, 1, [5]),
        (None, 2, [4, 5]),
        (2, 1, [2, 5]),
        (2, 2, [2, 4, 5]),
        (5, 2, [4, 5]),
        (1, 9, [1, 2, 3, 4, 5]),
    ],
)
def test_rotate_keeps_the_newest_and_the_best(
    store: CheckpointStore, best: int | None, keep_last: int, kept: list[int]
) -> None:
    saved(store, 1, 2, 3, 4, 5)
    if best is not None:
        store.link_best(best)
    store.rotate(keep_last)
    assert store.steps() == kept
    assert store.best() == best
    assert os.readlink(store.root / "last") == "step_00000005"


def test_discard_after_deletes_later_steps_only(store: CheckpointStore) -> None:
    saved(store, 1, 2, 3)
    store.discard_after(2)
    assert store.steps() == [1, 2]
    store.discard_after(2)
    assert store.steps() == [1, 2]


@pytest.mark.parametrize(
    "text", ['{"files": []}', '{"files": {"w.bin": 3}}', '{"files": {"w.bin": {"sise": 1}}}', "[]", ""]
)
def test_a_manifest_of_another_form_is_a_checkpoint_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is missing or unreadable"):
        verify_directory(tmp_path)


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: text.replace('"run-1"', '"run-2"'), str.upper])
def test_a_manifest_that_was_changed_is_noticed(store: CheckpointStore, change: Callable[[str], str]) -> None:
    saved(store, 4)
    path = store.path(4) / MANIFEST
    path.write_text(change(path.read_text()))
    with pytest.raises(CheckpointError, match=f"{MANIFEST} is missing or unreadable"):
        verify_directory(store.path(4))


def test_what_a_kill_left_undone_after_a_save_is_done(store: CheckpointStore) -> None:
    saved(store, 4, 8)
    store.link_best(4)
    (store.root / "last").unlink()
    store.settle(8, best=8)
    assert [os.readlink(store.root / name) for name in ("last", "best")] == ["step_00000008", "step_00000008"]
    store.settle(8, best=7)
    assert os.readlink(store.root / "best") == "step_00000008"
