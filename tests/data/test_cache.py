"""Entries are whole or not there, whoever writes them and however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rm_experiments.data import cache as cache_module
from rm_experiments.data.cache import DataCache, code_digest, file_digest
from rm_experiments.errors import ConfigError


def write_numbers(directory: Path) -> None:
    (directory / "numbers.txt").write_text("1 2 3")


def refuse_to_build(directory: Path) -> None:
    raise AssertionError("built again")


def entries(root: Path) -> list[str]:
    return sorted(one.name for one in root.iterdir() if not one.name.endswith(".lock"))


def test_second_use_reads_what_the_first_wrote(tmp_path: Path) -> None:
    first, second = DataCache(str(tmp_path)), DataCache(str(tmp_path))
    made = first.entry("numbers", {"a": 1}, write_numbers)
    assert second.entry("numbers", {"a": 1}, refuse_to_build) == made
    assert (made / "numbers.txt").read_text() == "1 2 3"
    assert (first.hits, second.hits) == ([], ["numbers"])
    assert entries(tmp_path) == [made.name]


@pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"a": 1, "b": None}, [1]])
def test_another_key_is_another_entry(tmp_path: Path, other: object) -> None:
    cache = DataCache(str(tmp_path))
    assert cache.entry("numbers", {"a": 1}, write_numbers) != cache.entry("numbers", other, write_numbers)


def test_other_code_reads_no_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DataCache(str(tmp_path))
    before = cache.entry("numbers", 1, write_numbers)
    monkeypatch.setattr(cache_module, "code_digest", lambda: "other code")
    assert cache.entry("numbers", 1, write_numbers) != before
    assert len(code_digest()) == 64


def test_code_that_makes_entries_and_its_libraries_count_and_other_code_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("data", "modeling", "reporting"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokenizer.py").write_text("")
    monkeypatch.setattr(cache_module, "__file__", str(tmp_path / "data" / "cache.py"))
    seen = [code_digest.__wrapped__()]
    (tmp_path / "reporting" / "tokenizer.py").write_text("changed")
    assert code_digest.__wrapped__() == seen[0]
    for folder in ("data", "modeling"):
        (tmp_path / folder / "tokenizer.py").write_text("changed")
        seen.append(code_digest.__wrapped__())
    for library in ("tokenizers", "transformers"):
        monkeypatch.setattr(cache_module, "version", lambda name, other=library: "9" if name == other else "1")
        seen.append(code_digest.__wrapped__())
    assert len(set(seen)) == 5


def test_another_users_entry_is_read_though_its_time_cannot_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = DataCache(str(tmp_path)).entry("numbers", 1, write_numbers)

    def refuse(_: Path) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert DataCache(str(tmp_path)).entry("numbers", 1, refuse_to_build) == made


def test_failed_build_leaves_nothing_and_the_next_one_is_free(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        write_numbers(directory)
        raise KeyboardInterrupt

    cache = DataCache(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        cache.entry("numbers", 1, fail)
    assert entries(tmp_path) == []
    assert (cache.entry("numbers", 1, write_numbers) / "numbers.txt").exists()


@pytest.mark.parametrize("damage", ["shorter", "missing", "no sizes", "bad sizes"])
def test_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    made = DataCache(str(tmp_path)).entry("numbers", 1, write_numbers)
    if damage == "shorter":
        (made / "numbers.txt").write_text("1 2")
    elif damage == "missing":
        (made / "numbers.txt").unlink()
    elif damage == "no sizes":
        (made / "SIZES.json").unlink()
    else:
        (made / "SIZES.json").write_text("{")
    again = DataCache(str(tmp_path)).entry("numbers", 1, write_numbers)
    assert (again / "numbers.txt").read_text() == "1 2 3"


def test_without_a_directory_every_use_builds(tmp_path: Path) -> None:
    cache = DataCache(None)
    one, two = (cache.entry("numbers", 1, write_numbers) for _ in range(2))
    assert one != two
    assert cache.hits == []
    assert (one / "numbers.txt").read_text() == (two / "numbers.txt").read_text() == "1 2 3"


def test_auto_is_in_the_users_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert DataCache("auto").entry("numbers", 1, write_numbers).parent == tmp_path / "xdg" / "rm_experiments"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = DataCache("auto").entry("numbers", 1, write_numbers)
    assert made.parent == tmp_path / "home" / ".cache" / "rm_experiments"


def test_directory_that_cannot_be_written_is_refused_if_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "cache"
    with pytest.raises(
        ConfigError, match=rf"^data\.cache_dir={place}: cannot be written \(.*\); try data\.cache_dir=null$"
    ):
        DataCache(str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    made = DataCache("auto").entry("numbers", 1, write_numbers)
    assert (made / "numbers.txt").exists()
    assert tmp_path not in made.parents


def test_threads_that_want_one_entry_build_it_once(tmp_path: Path) -> None:
    builds: list[Path] = []

    def slow(directory: Path) -> None:
        builds.append(directory)
        time.sleep(0.2)
        write_numbers(directory)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: DataCache(str(tmp_path)).entry("numbers", 1, slow), range(4)))
    assert len(builds) == 1
    assert set(made) == {made[0]}


CHILD = """
import sys, time
from pathlib import Path
from rm_experiments.data.cache import DataCache

def build(directory):
    (directory / "numbers.txt").write_text("half")
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    (directory / "numbers.txt").write_text("1 2 3")

print(DataCache(sys.argv[1]).entry("numbers", 1, build), flush=True)
"""


def child(root: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(root), str(seconds)], stdout=subprocess.PIPE, text=True)


def test_killed_builder_leaves_no_half_entry(tmp_path: Path) -> None:
    process = child(tmp_path, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [name.partition(".")[2].startswith("tmp-") for name in entries(tmp_path)] == [True]

    made = DataCache(str(tmp_path)).entry("numbers", 1, write_numbers)

    assert (made / "numbers.txt").read_text() == "1 2 3"
    assert entries(tmp_path) == [made.name]


def test_processes_that_want_one_entry_build_it_once(tmp_path: Path) -> None:
    both = [child(tmp_path, 0.5) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert sum("building" in output for output in outputs) == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert (Path(outputs[0].splitlines()[-1]) / "numbers.txt").read_text() == "1 2 3"


def test_file_digest_is_of_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    assert file_digest(one) == file_digest(two)
    assert file_digest(one) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
