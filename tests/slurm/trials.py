"""What can happen to jobs on a cluster, one function each. Raises AssertionError where it goes otherwise."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from rm_experiments.errors import ConfigError
from tests.slurm.bench import TWO, Bench, clients


def array(folder: Path) -> str:
    """Four jobs, two at a time: one is left alone, one lacks its data, one is killed, one is preempted."""
    with Bench(folder, array_parallelism=2) as bench:
        bench.submit((0, ()), (1, ()), (2, ("data=local", "data.train=absent.jsonl")), (3, ("seed=1",)))
        bench.until_training(1)
        bench.preempt(1)
        bench.until_training(3)
        bench.kill(3, 0)
        bench.watch_to_the_end()
        assert sorted(bench.started) == [0, 1, 2, 3]
        assert bench.most_at_once <= 3, "the one that is in the queue again counts, too"
        bench.expect(0, 0, status="finished")
        bench.expect(1, 0, status="finished")
        assert bench.attempts(0) == 1
        assert bench.attempts(1) == 2
        bench.equal(1, 0)
        bench.expect(2, 2, status="failed")
        assert "absent.jsonl" in bench.log(2)
        bench.expect(3, -9)
    return "equal to the bit after a requeue; exit codes 0, 0, 2, -9"


def ranks(folder: Path) -> str:
    """One run on two ranks, preempted and left alone."""
    with Bench(folder) as bench:
        bench.submit((0, TWO))
        bench.watch_to_the_end()
        bench.expect(0, 0, status="finished")
        bench.submit((1, TWO))
        bench.until_training(1)
        bench.preempt(1)
        bench.watch_to_the_end()
        bench.expect(1, 0, status="finished")
        assert bench.attempts(1) == 2
        bench.equal(1, 0)
    return "two ranks resume after a requeue, equal to the bit"


def two_ranks(folder: Path) -> str:
    """One run on two ranks, each of which has a log."""
    with Bench(folder) as bench:
        bench.submit((0, (*TWO, "train.max_steps=8", "eval.every_steps=8")))
        bench.watch_to_the_end()
        bench.expect(0, 0, status="finished")
        assert bench.log(0).count("step 8/8  eval_loss") == 1
        alone = (bench.run_dir(0) / "job_rank_1.log").read_text(encoding="utf-8")
        assert "step" not in alone, "the second rank trained a model of its own"
    return "finished"


def a_rank_is_killed(folder: Path) -> str:
    """The other one is not left waiting, whichever it is."""
    with Bench(folder) as bench:
        took = []
        for rank, allowed in ((0, (-9,)), (1, (-9, 1))):
            bench.submit((rank, TWO))
            bench.until_training(rank)
            bench.kill(rank, rank)
            began = time.monotonic()
            bench.watch_to_the_end()
            assert bench.ended[rank].exit_code in allowed, bench.ended[rank]
            took.append(f"{time.monotonic() - began:.0f} s ({bench.ended[rank].exit_code})")
    return f"ended after {', '.join(took)}"


def a_time_limit(folder: Path) -> str:
    """Two minutes, which are too short: the run stops in time, goes on in the next attempt, and stops again."""
    with Bench(folder, time=2, signal_seconds=30, max_requeues=1) as bench:
        bench.submit((0, ("train.max_steps=1000000", "eval.every_steps=1000000")))
        bench.watch_to_the_end()
        bench.expect(0, 143, status="interrupted", reason="SLURM: time limit; it was queued again 1 times .*")
        assert bench.attempts(0) == 2
        assert "the job is in the queue again" in bench.log(0)
        assert "Going on from" in bench.log(0)
    return "stopped in time twice, requeued once"


def its_own_hours(folder: Path) -> str:
    """`train.max_hours` is over before the job's time is: the run is not put back into the queue."""
    with Bench(folder, time=10) as bench:
        bench.submit((0, ("train.max_steps=1000000", "eval.every_steps=1000000", "train.max_hours=0.011")))
        bench.watch_to_the_end()
        bench.expect(0, 143, status="interrupted")
        assert bench.attempts(0) == 1
    return "not requeued"


def scancel(folder: Path) -> str:
    """By a person: one that runs saves and ends, one in the queue never begins; neither comes back."""
    with Bench(folder, array_parallelism=1) as bench:
        bench.submit((0, ()), (1, ()))
        bench.until_training(0)
        clients("scancel", bench.slurm_id(1))
        clients("scancel", bench.slurm_id(0))
        bench.watch_to_the_end()
        bench.expect(0, 143, status="interrupted")
        bench.expect(1, -15, reason="SLURM: CANCELLED")
        assert bench.attempts(0) == 1
        assert bench.started == [0]
        bench.watch_the_queue()
    return "143 after a checkpoint, -15 in the queue"


def our_stop(folder: Path) -> str:
    """Ctrl-C of the sweep, even if SLURM preempts the job in the same moment."""
    with Bench(folder, array_parallelism=1) as bench:
        bench.submit((0, ()), (1, ()))
        bench.until_training(0)
        bench.executor.stop(1, signal.SIGINT)
        bench.executor.stop(0, signal.SIGINT)
        bench.watch(lambda: not bench.executor._known[0].signals)
        bench.preempt(0)
        bench.watch_to_the_end()
        assert bench.ended[0].exit_code in (130, 143)
        bench.expect(1, -2)
        assert bench.attempts(0) == 1
    return f"{bench.ended[0].exit_code} after a checkpoint, -2 in the queue"


def no_requeues(folder: Path) -> str:
    """`max_requeues=0`: what is preempted ends, and says so."""
    with Bench(folder, max_requeues=0) as bench:
        bench.submit((0, ()))
        bench.until_training(0)
        bench.preempt(0)
        bench.watch_to_the_end()
        bench.expect(0, 143, status="interrupted", reason="SLURM: preempted; it was queued again 0 times .*")
    return "143"


def preemption(folder: Path) -> str:
    """By a job of a partition with a higher tier; SLURM itself puts the run back into the queue."""
    return _preempted(folder, "main")


def preemption_with_grace(folder: Path) -> str:
    """The same where preempted jobs are given time: the run is gone long before it is over."""
    return _preempted(folder, "graceful")


def _preempted(folder: Path, partition: str) -> str:
    with Bench(folder, partition=partition, cpus_per_task=2) as bench:
        bench.submit((0, ()))
        bench.watch_to_the_end()
        bench.submit((1, ()))
        bench.until_training(1)
        urgent = subprocess.run(
            ["sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 1"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "Submitted" in urgent.stdout
        bench.watch_to_the_end()
        bench.expect(1, 0, status="finished")
        assert bench.attempts(1) == 2
        bench.equal(1, 0)
    return "equal to the bit"


def closed(folder: Path) -> str:
    """Nothing is left running, or in the queue."""
    with Bench(folder, array_parallelism=1) as bench:
        bench.submit((0, ()), (1, ()))
        bench.until_training(0)
    assert not clients("squeue", "--noheader")
    return "the queue is empty"


def followed_again(folder: Path) -> str:
    """A command that was killed leaves its jobs; the same command follows them and submits none twice."""
    lost = Bench(folder)
    lost.submit((0, ()))
    lost.until_training(0)
    with Bench(folder) as bench:
        bench.submit((0, ()))
        bench.watch_to_the_end()
        assert bench.slurm_id(0) == lost.slurm_id(0)
        bench.expect(0, 0, status="finished")
        assert bench.attempts(0) == 1
    return "one job"


def refused(folder: Path) -> str:
    """sbatch's own words in one line."""
    with Bench(folder, partition="nowhere") as bench, pytest.raises(ConfigError, match=r"refuses the jobs: .*nowhere"):
        bench.submit((0, ()), (1, ()))
    return "one line"


TRIALS = {
    one.__name__: one
    for one in (
        array, two_ranks, ranks, a_rank_is_killed, a_time_limit, its_own_hours, scancel, our_stop, no_requeues,
        preemption, preemption_with_grace, closed, followed_again, refused,
    )
}  # fmt: skip
