"""The wheel holds the package with its configs, and works where there is no checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("build", "hatchling")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED), reason="build and hatchling are not installed"
    ),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline, from a copy, so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("rm_experiments", "conf", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def relative(root: Path, pattern: str) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob(pattern)}


def test_the_wheel_holds_every_config(names: set[str]) -> None:
    configs = relative(ROOT / "conf", "*.yaml")

    assert "train.yaml" in configs
    assert {name for name in names if name.endswith(".yaml")} == {f"rm_experiments/conf/{name}" for name in configs}


def test_the_wheel_holds_every_module_and_no_test(names: set[str]) -> None:
    modules = relative(ROOT / "rm_experiments", "*.py")

    assert {name for name in names if name.endswith(".py")} == {f"rm_experiments/{name}" for name in modules}
    assert not [name for name in names if "test" in name.lower()]
    tops = {name.partition("/")[0] for name in names}
    assert len(tops) == 2
    assert "rm_experiments" in tops


def test_the_wheel_declares_the_command_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        read = {name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        scripts = archive.read(read["entry_points.txt"]).decode()
        metadata = archive.read(read["METADATA"]).decode()

    for command in ("train", "data", "eval", "compare", "merge", "push", "serve", "dashboard"):
        assert f"rm-{command} = rm_experiments.cli.entry:rm_{command}\n" in scripts
    assert "License-Expression: Apache-2.0" in metadata
    assert "LICENSE" in read


def test_the_unpacked_wheel_composes_from_its_own_configs(wheel: Path, tmp_path: Path) -> None:
    site, cwd = tmp_path / "site", tmp_path / "elsewhere"
    cwd.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        "import rm_experiments, rm_experiments.config.compose as c;"
        "print(c.conf_dir()); print(rm_experiments.compose(['experiment=sandbox_label_noise']).name)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )

    assert done.stdout.splitlines() == [str(site / "rm_experiments" / "conf"), "sandbox_label_noise"], done.stderr
    assert list(cwd.iterdir()) == []
