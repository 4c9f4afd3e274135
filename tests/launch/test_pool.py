"""Child processes of a pool: how many, on which devices, and how each ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rm_experiments
from rm_experiments.cli import sweep
from rm_experiments.errors import ConfigError
from rm_experiments.launch.devices import Devices, gpu_names, job_environment, num_slots
from rm_experiments.launch.jobs import Ended, Job
from rm_experiments.launch.pool import PoolExecutor, warm_up
from rm_experiments.launch.signals import HANDLED


def act(payload: dict[str, Any], log: str, environment: dict[str, str]) -> None:
    """What a job of these tests does."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    started = Path(log)
    started.write_text(json.dumps([environment, os.getcwd()]), encoding="utf-8")
    if payload.get("child"):
        child = os.fork()
        if child == 0:
            time.sleep(60)
        started.with_suffix(".child").write_text(str(child))
    if "signal" in payload:
        os.kill(os.getpid(), payload["signal"])
    until = payload.get("until")
    while until and not os.path.exists(until):
        time.sleep(0.01)
    sys.exit(payload.get("code", 0))


Make = Callable[..., PoolExecutor]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[PoolExecutor] = []

    def one(slots: int, devices: Devices | None = None) -> PoolExecutor:
        made.append(PoolExecutor(warm_up("json"), act, slots, devices or Devices([], 0)))
        return made[-1]

    yield one
    for pool in made:
        pool.close()


def job(number: int, place: Path, **payload: Any) -> Job:
    return Job(
        number=number,
        run_dir=place,
        log=place / f"{number}.log",
        payload=payload | {"config": {"launch": {"num_processes": 1}}},
    )


def until(pool: PoolExecutor, count: int) -> tuple[list[int], list[Ended]]:
    """Poll until so many jobs have ended; all that started and ended meanwhile."""
    started, ended = [], []
    deadline = time.monotonic() + 60
    while len(ended) < count and time.monotonic() < deadline:
        now = pool.poll(0.5)
        started += now[0]
        ended += now[1]
    return started, ended


def test_every_job_ends_with_its_own_code(make: Make, tmp_path: Path) -> None:
    pool = make(2)
    deaths = {2: signal.SIGKILL, 3: signal.SIGSEGV, 4: signal.SIGTERM}
    pool.submit([job(0, tmp_path), job(1, tmp_path, code=3)])
    pool.submit([job(number, tmp_path, signal=int(death)) for number, death in deaths.items()])

    started, ended = until(pool, 5)

    assert sorted(started) == [0, 1, 2, 3, 4]
    codes = {one.number: one.exit_code for one in ended}
    assert codes == {0: 0, 1: 3, 2: -9, 3: -11, 4: -15}
    assert pool.poll(0) == ([], [])


def test_no_more_jobs_run_than_there_is_room_for(make: Make, tmp_path: Path) -> None:
    pool, gate = make(2), tmp_path / "gate"
    pool.submit([job(number, tmp_path, until=str(gate)) for number in range(4)])

    assert pool.poll(0)[0] == [0, 1]
    assert pool.poll(0.3) == ([], [])
    gate.touch()
    started, ended = until(pool, 4)
    assert sorted(started) == [2, 3]
    assert sorted(one.number for one in ended) == [0, 1, 2, 3]


def test_a_signal_reaches_the_job_it_is_for_and_drops_one_that_waits(make: Make, tmp_path: Path) -> None:
    pool, gate = make(1), tmp_path / "gate"
    pool.submit([job(0, tmp_path, until=str(gate)), job(1, tmp_path), job(2, tmp_path)])
    pool.poll(0)
    while not (tmp_path / "0.log").exists():
        time.sleep(0.01)

    pool.stop(1, signal.SIGINT)
    pool.stop(0, signal.SIGTERM)
    started, ended = until(pool, 3)

    assert started == [2]
    assert {one.number: one.exit_code for one in ended} == {0: -signal.SIGTERM, 1: -signal.SIGINT, 2: 0}
    assert not (tmp_path / "1.log").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="forks a server on Linux only")
def test_an_early_ctrl_c_does_not_end_the_server_that_jobs_are_forked_from() -> None:
    """Also before it has imported a line: it inherits that signals are blocked, and this process stays as it was."""
    program = (
        "import multiprocessing.forkserver, os, signal\n"
        "from rm_experiments.launch.pool import warm_up\n"
        "before = signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "context = warm_up('json')\n"
        "server = multiprocessing.forkserver._forkserver._forkserver_pid\n"
        "os.kill(server, signal.SIGINT)\n"
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before\n"
        "one = context.Process(target=os.getpid)\n"
        "one.start(), one.join()\n"
        "print('exit code', one.exitcode)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("exit code 0\n", 0), done.stderr


def test_what_a_killed_job_started_ends_with_it(make: Make, tmp_path: Path) -> None:
    pool = make(1)
    pool.submit([job(0, tmp_path, child=True, signal=int(signal.SIGKILL))])

    until(pool, 1)

    pid = int((tmp_path / "0.child").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.01)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_jobs_have_devices_of_their_own_and_return_them(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OF_THIS_TEST", "yes")
    gate = tmp_path / "gate"
    pool = make(2, Devices(["0", "1", "GPU-c", "3"], 2))
    pool.submit([job(number, tmp_path, until=str(gate)) for number in range(3)])
    pool.poll(0)
    gate.touch()
    until(pool, 3)

    found = [json.loads((tmp_path / f"{number}.log").read_text()) for number in range(3)]

    # The server may have been started elsewhere, with other variables.
    assert {one[0]["OF_THIS_TEST"] for one in found} == {"yes"}
    assert {one[0]["PWD"] for one in found} == {str(tmp_path)}
    assert {one[0]["OMP_NUM_THREADS"] for one in found} == {"3"}
    devices = [one[0]["CUDA_VISIBLE_DEVICES"] for one in found]
    assert devices[:2] == ["0,1", "GPU-c,3"]
    assert devices[2] in devices[:2]


def test_devices_are_shared_evenly_when_there_are_more_jobs_than_devices() -> None:
    devices = Devices(["0", "1", "2"], 1)

    taken = [devices.take() for _ in range(5)]
    devices.give_back(taken[1])

    assert taken == [["0"], ["1"], ["2"], ["0"], ["1"]]
    # 0 has two jobs, 1 and 2 have one each.
    assert (devices.take(), devices.take(), devices.take()) == (["1"], ["2"], ["0"])


def test_more_devices_per_run_than_there_are_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^launch\.gpus_per_run=4: 2 GPUs can be seen here; try launch\.gpus_per_run=2$"
    ):
        Devices(["0", "1"], 4)


@pytest.mark.parametrize(
    ("asked", "names", "per_run", "cores", "slots"),
    [
        (None, "0123", 1, 8, 4),
        (None, "0123", 3, 8, 1),
        (3, "01", 1, 8, 3),
        (None, "", 0, 8, 4),
        (None, "", 0, 1, 1),
        (5, "", 0, 2, 5),
        # GPUs there, none asked for.
        (None, "01", 0, 6, 3),
    ],
)
def test_how_many_jobs_run_at_once(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, names: str, per_run: int, cores: int, slots: int
) -> None:
    monkeypatch.setattr("rm_experiments.launch.devices.num_cores", lambda: cores)

    assert num_slots(asked, Devices(list(names), per_run)) == slots


def test_the_threads_of_the_machine_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_experiments.launch.devices.num_cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    assert job_environment(Devices([], 0), [], 2) == {"OMP_NUM_THREADS": "4"}
    assert job_environment(Devices([], 0), [], 20) == {"OMP_NUM_THREADS": "1"}
    # A job that asked for no GPU sees none.
    assert job_environment(Devices(["0"], 0), [], 3) == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": ""}


def test_only_visible_gpus_are_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-f00,5")
    assert gpu_names(3) == ["2", "GPU-f00", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_names(2) == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "names", "per_run", "slots"),
    [
        ([], ["0", "1", "2"], 1, 3),
        # Asked for none, a job sees none; the machine's cores count.
        (["launch.gpus_per_run=0"], ["0", "1", "2"], 0, 4),
        (["launch=accelerate", "launch.num_processes=2"], ["0", "1", "2"], 2, 1),
        (["launch.gpus_per_run=1", "launch.concurrent_runs=6"], ["0", "1", "2"], 1, 6),
        (["train.device=cpu"], [], 0, 4),
    ],
)
def test_gpus_of_the_jobs_are_those_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], names: list[str], per_run: int, slots: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("rm_experiments.launch.devices.num_cores", lambda: 8)
    monkeypatch.setattr(sweep, "warm_up", lambda module: None)
    monkeypatch.setattr(sweep, "_num_gpus", lambda context: 3)

    pool = sweep.pool_executor(rm_experiments.compose(arguments))

    assert (pool._devices.names, pool._devices.per_run, pool.slots) == (names, per_run, slots)
