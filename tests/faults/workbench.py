"""Where trials are done: the server, the undisturbed runs to compare with, and the directory of each trial."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.comparing import differences, summary
from tests.faults.outcome import Lost, ensure
from tests.faults.processes import Child, Ended, ForkServer, spawn
from tests.faults.settings import COMMAND, ORDINARY, PYTHON, TORCHRUN, TWO, VARIANTS, environment

Value = TypeVar("Value")
ONE, TWO_BY_HAND, TORCHRUN_TWO, ACCELERATE_TWO = "one", "ranks", "torchrun", "accelerate"
"""How a run is started: a forked process; two forked ranks; two ranks by torchrun; two by `launch=accelerate`."""


@dataclass(frozen=True)
class Reference:
    """A run that nothing happens to."""

    path: Path
    seconds: float
    """From start to end in a forked process."""
    claimed: float
    """Seconds until it had its directory."""


class Workbench:
    """Shared by all trials."""

    def __init__(self, root: Path, seed: int, patient: bool) -> None:
        self.root, self.seed, self.patient = root, seed, patient
        self.root.mkdir(parents=True, exist_ok=True)
        self.cache = root / "cache"
        self.cache.mkdir(exist_ok=True)
        self.env = environment(self.cache)
        self._server: ForkServer | None = None
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}
        self._making: dict[str, threading.Lock] = {}

    @property
    def server(self) -> ForkServer:
        """Started when it is first needed."""
        with self._lock:
            if self._server is None:
                self._server = ForkServer(self.env)
            return self._server

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def once(self, key: str, make: Callable[[], Value]) -> Value:
        """What `make` gives, made by the first trial that needs it while others wait."""
        with self._lock:
            lock = self._making.setdefault(key, threading.Lock())
        with lock:
            if key not in self._made:
                self._made[key] = make()
            made: Value = self._made[key]
            return made

    def reference(self, variant: str, how: str = ONE) -> Reference:
        """The straight run of a variant. By hand or by torchrun, two ranks are the same."""
        how = TWO_BY_HAND if how == TORCHRUN_TWO else how
        return self.once(f"reference {variant} {how}", lambda: self._reference(variant, how))

    def trial(self, fault: str, number: int) -> Trial:
        """A fresh directory, and the random choices of this trial."""
        place = self.root / f"{fault}_{number:04d}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return Trial(self, place, number, random.Random(f"{self.seed}/{fault}/{number}"))

    def _reference(self, variant: str, how: str) -> Reference:
        trial = self.trial(f"reference_{variant.replace(' ', '_')}_{how}", 0)
        trial.variant = variant
        children = trial.start(how)
        claimed = 0.0
        while children[0].running and not claimed:
            if (trial.run_dir / "config.yaml").exists():
                claimed = time.monotonic() - children[0].started
            time.sleep(0.002)
        ended = [child.wait() for child in children]
        for one in ended:
            ensure(one.code == 0, f"the undisturbed run ended with {one.code}: {one.last_lines}")
        path = trial.run_dir
        # Compared with itself: all that is compared must be there.
        ensure(not (found := differences(path, path)), f"the undisturbed run: {found}")
        return Reference(path, ended[0].seconds, claimed)


class Trial:
    """One run that is disturbed. The command is repeated in this directory until the run is finished."""

    def __init__(self, bench: Workbench, place: Path, number: int, rng: random.Random) -> None:
        self.bench, self.place, self.number, self.rng = bench, place, number, rng
        self.variant = "plain"
        self.extra: tuple[str, ...] = ()
        """Further overrides that do not change the result."""
        self.cwd = place
        """Where the command is typed."""
        self.measured: dict[str, float] = {}
        """Seconds that something took, by what it was."""
        self._attempts = itertools.count(1)
        self._children: list[Child] = []

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""
        return self.cwd / "run"

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty when there is none."""
        return summary(self.run_dir)

    @property
    def command(self) -> tuple[str, ...]:
        """All overrides."""
        return (*COMMAND, *VARIANTS[self.variant], *self.extra)

    def choose_variant(self, names: Sequence[str] = ORDINARY) -> Reference:
        """One at random; returns its straight run."""
        self.variant = self.rng.choice(list(names))
        return self.bench.reference(self.variant)

    def fork(self, *overrides: str, **options: Any) -> Child:
        """Run the command on one process, a child of the server; options of `ForkServer.start`."""
        out, err = self._outputs()
        child = self.bench.server.start([*self.command, *overrides], self.cwd, out, err, **options)
        self._children.append(child)
        return child

    def fresh(self, cache: Path | None = None) -> Child:
        """Run the command as a process that imports everything itself, with a cache of its own if one is named."""
        return self._spawn((*PYTHON, *self.command), cache)

    def start(self, how: str = ONE, *overrides: str) -> list[Child]:
        """Start the command in one of the ways; its launcher, or its two ranks where there is none."""
        if how == ONE:
            return [self.fork(*overrides)]
        if how == TWO_BY_HAND:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            ranks = [shared | {"RANK": one, "LOCAL_RANK": one} for one in ("0", "1")]
            return [self.fork(*overrides, env=env) for env in ranks]
        if how == TORCHRUN_TWO:
            return [self._spawn((*TORCHRUN, *self.command, *overrides), None)]
        ensure(how == ACCELERATE_TWO, f"{how}: no way to start a run")
        return [self._spawn((*PYTHON, *self.command, *TWO, *overrides), None)]

    def finish(self, how: str = ONE, *, same_checkpoints: bool = True) -> Ended:
        """Repeat the command to the end and compare with the straight run."""
        ended = [child.wait() for child in self.start(how)]
        for one in ended:
            ensure(one.code == 0, f"the repeated command ended with {one.code}: {one.last_lines}")
        self.check(self.bench.reference(self.variant, how), same_checkpoints=same_checkpoints)
        return ended[0]

    def check(self, reference: Reference, *, same_checkpoints: bool = True) -> None:
        """Raise Lost unless the run is bit-equal to its reference."""
        found = differences(reference.path, self.run_dir, same_checkpoints=same_checkpoints)
        if found:
            raise Lost("; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else ""))

    def close(self, keep: bool) -> None:
        """End what is still running, and take the directory away unless it is to be looked at."""
        for child in self._children:
            child.end()
        if not keep:
            shutil.rmtree(self.place, ignore_errors=True)

    def _outputs(self) -> tuple[Path, Path]:
        attempt = next(self._attempts)
        return self.place / f"attempt_{attempt}.out", self.place / f"attempt_{attempt}.err"

    def _spawn(self, command: Sequence[str], cache: Path | None) -> Child:
        env = self.bench.env if cache is None else {**self.bench.env, "XDG_CACHE_HOME": str(cache)}
        child = spawn(command, self.cwd, env, *self._outputs())
        self._children.append(child)
        return child


@contextlib.contextmanager
def workbench(root: Path, seed: int, patient: bool = False) -> Iterator[Workbench]:
    """A workbench whose server ends with the block; a patient one loses no trial to the clock."""
    bench = Workbench(root, seed, patient)
    try:
        yield bench
    finally:
        bench.close()
