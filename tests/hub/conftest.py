"""The Hub's client of this process, pointed to a stand-in on the loopback."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from rm_experiments.reporting import hub_account
from tests.hub.stand_in import WRITE, Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Empty; the client is logged in as `ada`, who can write, and uploads by LFS."""
    with Hub() as server:
        point_client(monkeypatch, server.url, tmp_path)
        yield server
    huggingface_hub.close_session()


def point_client(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    """What the client read from its environment when it was imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    # The developer's login must not be found.
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub_cache"))
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN", WRITE)
    monkeypatch.setattr(hub_account, "_accounts", {})
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def xet(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The same Hub, with a client that uploads as it does by default."""
    pytest.importorskip("hf_xet")
    from huggingface_hub.utils._xet import abort_xet_session

    # What it remembers of earlier uploads it does not send again.
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet_cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.speaks_xet = True
    abort_xet_session()
    yield hub
    abort_xet_session()


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run's directory, which may be changed. Its name is `rm`."""
    return shutil.copytree(trained_run, tmp_path / "run", symlinks=True)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that anything would have slept."""
    import time

    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.fixture
def download(hub: Hub, tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """`download(repo_id, revision)`: the files of a repository by the client's own `snapshot_download`."""

    def load(repo_id: str, revision: str = "main", **options: Any) -> dict[str, bytes]:
        path = Path(huggingface_hub.snapshot_download(
            repo_id, revision=revision, local_dir=tmp_path / "downloaded", endpoint=hub.url, **options
        ))  # fmt: skip
        return contents(path)

    return load


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a directory, hidden ones left out."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    }
