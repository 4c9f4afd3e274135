"""One run on several processes. Hydra runs in one of them; the others get the resolved config."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from rm_experiments.errors import ConfigError, TrainingError, UserError

Result = TypeVar("Result")


def rank() -> int:
    """This process's number, as torchrun and accelerate launch set it; 0 when there is one process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_launcher() -> None:
    """Refuse to run alone where several processes were asked for.

    `accelerate launch --cpu --num_processes 2` starts one process and says nothing (accelerate 1.15): it only sets
    where the others would be met.

    Raises:
        ConfigError: with a command that starts them.
    """
    several = "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ
    by_mpi = any(name.startswith(("OMPI_", "PMI_", "MV2_", "I_MPI_")) for name in os.environ)
    if several and not by_mpi and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does with --cpu; type "
            "rm-train launch=accelerate launch.num_processes=2, or torchrun --nproc_per_node 2 -m rm_experiments"
        )


_stores: list[Any] = []


def share(values: Any | None) -> Any:
    """Send plain values from rank 0 to all ranks.

    Through the launcher's key-value store, before any process group exists: which one there will be depends on the
    config that is being sent.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, number, _ = next(iter(rendezvous("env://")))
    # Without a launcher it is rank 0 that serves it, until it is forgotten: too early for a rank that asks late, and
    # for the process group, which meets at the same port.
    _stores.append(store)
    store = PrefixStore("rm_experiments", store)
    if number == 0:
        store.set("config", json.dumps(values))
    return json.loads(store.get("config"))


def on_main(action: Callable[[], Result]) -> Result:
    """Do `action` on rank 0 only; its result, or the error that it raised, on every rank.

    So that ranks agree on what the file system says, and none waits for one that was refused.
    """
    if world_size() == 1:
        return action()
    from accelerate.utils import broadcast_object_list

    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [(action(), None)]
        except UserError as error:
            box = [(None, error)]
        except Exception as error:
            box = [(None, TrainingError(f"rank 0: {type(error).__name__}: {error}"))]
    # The others wait on the host, half an hour if need be: a collective operation of GPUs gives up sooner.
    largest(0)
    result, refusal = broadcast_object_list(box)[0]
    if refusal is not None:
        raise refusal
    return result


def largest(number: int) -> int:
    """The largest of all ranks' numbers, of which each must ask. No rank waits for its device."""
    if world_size() == 1:
        return number
    import torch
    import torch.distributed

    box = torch.tensor(number)
    torch.distributed.all_reduce(box, op=torch.distributed.ReduceOp.MAX, group=_on_the_host())
    return int(box)


@functools.cache
def _on_the_host() -> Any:
    """A group of all ranks that speaks through the CPU."""
    import torch.distributed

    if torch.distributed.get_backend() == "gloo":
        return torch.distributed.group.WORLD
    return torch.distributed.new_group(backend="gloo")


def leave() -> None:
    """Part from the other ranks after a run that has ended well.

    A thread of the process group that is still there when the interpreter ends aborts the process now and then
    ("terminate called without an active exception").
    """
    if world_size() == 1:
        return
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
