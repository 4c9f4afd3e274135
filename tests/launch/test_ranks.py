"""Several processes where several were asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from rm_experiments.errors import ConfigError
from rm_experiments.launch import ranks


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        # What accelerate 1.15 sets with --cpu --num_processes 2, with one process, under MPI, and what torchrun sets.
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, True),
        ({"ACCELERATE_USE_CPU": "True"}, False),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "OMPI_COMM_WORLD_SIZE": "2"}, False),
        ({"ACCELERATE_USE_CPU": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": "0"}, False),
        ({}, False),
    ],
)
def test_one_process_where_several_were_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], refused: bool
) -> None:
    for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if refused:
        with pytest.raises(ConfigError, match=r"started one, as it does with --cpu; type rm-train launch=accelerate"):
            ranks.check_launcher()
    else:
        ranks.check_launcher()


def test_one_process_has_the_largest_number() -> None:
    assert ranks.largest(3) == 3


_MEET = """
import time
import torch, torch.distributed
from rm_experiments.launch import ranks
if ranks.rank():
    inner = torch.distributed.PrefixStore
    def late(*arguments):
        time.sleep(1.0)
        return inner(*arguments)
    torch.distributed.PrefixStore = late
told = ranks.share(None if ranks.rank() else {"lr": 0.5})
torch.distributed.init_process_group("gloo")
box = torch.tensor(ranks.rank() + 1.0)
torch.distributed.all_reduce(box)
print(told, box.item())
ranks.leave()
"""


def test_a_rank_that_asks_late_is_told_without_a_launcher() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [
        subprocess.Popen([sys.executable, "-c", _MEET], env={**shared, "RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    try:
        said = [child.communicate(timeout=120)[0] for child in children]
    finally:
        for child in children:
            child.kill()

    assert said == ["{'lr': 0.5} 3.0\n"] * 2
