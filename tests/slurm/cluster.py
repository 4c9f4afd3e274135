"""A SLURM of its own on this machine: munged, slurmctld and slurmd in a directory, for root, without systemd."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BINARIES = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
_PR_SET_PDEATHSIG = 1
_PATIENCE = 30.0
"""Seconds for the node to become idle."""
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
# A job that is put back into the queue waits for as long as a credential lives: two minutes, and 5 seconds at least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
OverTimeLimit=0
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=graceful Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    absent = [one for one in BINARIES if _binary(one) is None]
    if absent:
        return f"{', '.join(absent)} not installed; apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "only root can start SLURM's daemons"


@contextlib.contextmanager
def cluster(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """A running cluster of one node with `cpus` processors; what its clients need in their environment.

    Its daemons, and whatever they started, are ended with the block.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    ports = _free_ports(2)
    conf.write_text(_CONF.format(folder=folder, host=host, cpus=cpus, controller=ports[0], daemon=ports[1]))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    env = {"SLURM_CONF": str(conf)}
    daemons = []
    try:
        daemons.append(
            _start(
                folder, "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
                f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
                f"--seed-file={folder}/munged.seed", "--num-threads=2", env=env,
            )
        )  # fmt: skip
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged", folder)
        daemons.append(_start(folder, "slurmctld", "-D", "-f", str(conf), env=env))
        daemons.append(_start(folder, "slurmd", "-D", "-f", str(conf), "-N", "localhost", env=env))
        _wait_for(lambda: _state_of_node(env) == "idle", "the node", folder)
        yield env
    finally:
        _end(daemons, env, folder)


def _binary(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def _start(folder: Path, name: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    binary = _binary(name)
    assert binary is not None
    with (folder / f"{name}.out").open("wb") as out:
        return subprocess.Popen(
            [binary, *arguments], env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, preexec_fn=_end_with_parent,
        )  # fmt: skip


def _end_with_parent() -> None:
    """Whatever ends the tests; Linux only, as all of this is."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in probes:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in probes]


def _state_of_node(env: dict[str, str]) -> str:
    done = subprocess.run(
        ["sinfo", "--noheader", "--partition=main", "--format=%T"], env={**os.environ, **env}, capture_output=True,
        text=True,
    )  # fmt: skip
    return done.stdout.strip()


def _wait_for(ready: object, what: str, folder: Path) -> None:
    assert callable(ready)
    until = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > until:
            logs = [f"{one.name}: {one.read_text()[-1000:]}" for one in sorted(folder.glob("*.out"))]
            raise RuntimeError(f"{what} is not ready after {_PATIENCE:.0f} seconds\n" + "\n".join(logs))
        time.sleep(0.2)


def _end(daemons: list[subprocess.Popen[bytes]], env: dict[str, str], folder: Path) -> None:
    """Jobs first, then the daemons, the last one first; then what slurmd left behind."""
    if len(daemons) > 1:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["scancel", "--user=root", "--quiet"], env={**os.environ, **env}, capture_output=True, timeout=10
            )
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for process in _left_behind(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _left_behind(folder: Path) -> list[int]:
    """Processes of jobs, which have the configuration of this cluster in their environment (Linux)."""
    found = []
    mark = f"SLURM_CONF={folder / 'slurm.conf'}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
