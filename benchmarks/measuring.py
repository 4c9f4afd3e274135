"""Measuring honestly: each variant in a process of its own, one at work at a time, round after round (A B A B).

CPU time is that of all threads; on a machine that others use, too, it says more than wall time. A process per variant
keeps what one does to its process (settings of the allocator, caches, fragmentation) from another's figures.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Moment(NamedTuple):
    """A point in time of this process."""

    cpu: float
    wall: float

    @classmethod
    def now(cls, device: str = "cpu") -> Moment:
        """Once the device has done everything that it was given."""
        if device == "cuda":
            torch.cuda.synchronize()
        return cls(time.process_time(), time.perf_counter())

    def __sub__(self, other: Any) -> Moment:
        """Seconds between two moments."""
        return Moment(self.cpu - other.cpu, self.wall - other.wall)


class Child:
    """A variant in a process of its own: `script --as-child SETTING`, which calls `serve`."""

    def __init__(self, script: str, setting: Row) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, "--as-child", json.dumps(setting)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(setting["threads"])},
        )  # fmt: skip
        self.facts: Row = self._answer()
        """What it found out before the first round."""

    def round(self) -> Row:
        """One round's figures."""
        assert self._process.stdin is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a variant's process ended with code {self._process.wait()}; its error is above")
        answer: Row = json.loads(line)
        return answer


def serve(prepare: Callable[[Row], tuple[Row, Callable[[], Row]]]) -> None:
    """The other end of a `Child`: `prepare` makes facts and a round of the setting; answers until it is let go."""
    setting = json.loads(sys.argv[2])
    # Libraries print to standard output what they like; the answers have a channel of their own.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(row: Row) -> None:
        channel.write(json.dumps(row) + "\n")
        channel.flush()

    facts, one_round = prepare(setting)
    answer(facts)
    for _ in sys.stdin:
        answer(one_round())


def run_children(
    script: str, settings: dict[str, Row], rounds: int, together: bool, check: Callable[[dict[str, Row]], None]
) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """Facts and rounds of each setting, in processes of `script`.

    Args:
        together: whether all are there at once and take turns, after a `check` of their facts. Else one after the other
            (a GPU's memory may not hold them all), and the check comes last.
    """
    facts: dict[str, Row] = {}
    figures: dict[str, list[Row]] = {name: [] for name in settings}
    if together:
        children = {name: Child(script, setting) for name, setting in settings.items()}
        facts = {name: child.facts for name, child in children.items()}
        check(facts)
        for _ in range(rounds):
            for name, child in children.items():
                figures[name].append(child.round())
        for child in children.values():
            child.close()
        return facts, figures
    for name, setting in settings.items():
        child = Child(script, setting)
        facts[name], figures[name] = child.facts, [child.round() for _ in range(rounds)]
        child.close()
    check(facts)
    return facts, figures


def run_command(
    command: Sequence[str], environment: dict[str, str] | None = None, code: int = 0, until: Path | None = None
) -> Row:
    """CPU and wall seconds of a process and all that it starts, or until the file `until` is there and not empty.

    Raises:
        SystemExit: when it ends with another code; what it said is shown.
    """
    _adopt_orphans()
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=said, stderr=subprocess.STDOUT
        )
        reached = None
        while until is not None and reached is None and process.poll() is None:
            time.sleep(0.005)
            if until.exists() and until.stat().st_size:
                reached = time.perf_counter() - start
        if process.returncode is None:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = time.perf_counter() - start
            row = {"cpu": usage.ru_utime + usage.ru_stime + _of_orphans(), "wall": wall}
        if process.returncode != code or (until is not None and reached is None):
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}\n{said.read()[-3000:]}")
    return row if reached is None else {"cpu": float("nan"), "wall": reached}


def _adopt_orphans() -> None:
    """Become the parent of what a command leaves behind (prctl(2), PR_SET_CHILD_SUBREAPER): its CPU time counts."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _of_orphans() -> float:
    """CPU seconds of processes that the command did not wait for itself, the server of a sweep, say, once they end."""
    seconds = 0.0
    while True:
        try:
            _, _, usage = os.wait3(0)
        except ChildProcessError:
            return seconds
        seconds += usage.ru_utime + usage.ru_stime


def median(rows: Iterable[Row], key: str) -> float:
    """Over rounds."""
    return statistics.median(row[key] for row in rows)


def spread(rows: Sequence[Row], key: str) -> str:
    """The smallest and the largest, in percent of the median."""
    middle, values = median(rows, key), [row[key] for row in rows]
    return f"{100 * (min(values) / middle - 1):+.0f} to {100 * (max(values) / middle - 1):+.0f}%"


def matrix_product_peak(device: str, precision: str, seconds: float = 1.0) -> float:
    """Operations per second of a large square matrix product: of CPU time on a CPU, of wall time on a GPU."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < until:
        repeats = 10 if device == "cuda" else 1
        torch.mm(a, b)
        start = Moment.now(device)
        for _ in range(repeats):
            torch.mm(a, b)
        taken = Moment.now(device) - start
        best = max(best, 2 * size**3 * repeats / (taken.wall if device == "cuda" else taken.cpu))
    return best


def machine(device: str = "cpu") -> Row:
    """Where figures come from."""
    names = {"torch": "", "transformers": "", "accelerate": "", "trl": ""}
    for name in names:
        try:
            names[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            names[name] = "missing"
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((one.split(":", 1)[1].strip() for one in lines if one.startswith("model name")), processor)
    return {
        "commit": _commit(),
        "processor": f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "python": platform.python_version(),
        **names,
    }


def _commit() -> str:
    """Of the package that is measured."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def say(text: str = "") -> None:
    """Print at once."""
    print(text, flush=True)


def print_table(rows: Sequence[Row]) -> None:
    """As Markdown; the columns of the first row."""
    names = list(rows[0])
    cells = [names, *([_shown(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for number, line in enumerate(cells):
        aligned = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        say("| " + " | ".join(aligned) + " |")
        if not number:
            say("|" + "|".join("-" * (width + 1) + ("-" if not at else ":") for at, width in enumerate(widths)) + "|")
    say()


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write_json(path: Path, found: Row) -> None:
    """Figures with the machine and the command that made them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = f"python {' '.join(sys.argv)}"
    path.write_text(json.dumps({"command": command, **found}, indent=1) + "\n", encoding="utf-8")


def write_picture(path: Path, title: str, unit: str, groups: dict[str, dict[str, float]]) -> None:
    """Bars of each group (a workload), a bar per variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(groups), figsize=(5.5 * len(groups), 3.2), squeeze=False, layout="tight")
    for place, (name, bars) in zip(axes[0], groups.items(), strict=True):
        names = list(bars)[::-1]
        values = [bars[one] for one in names]
        colours = ["#2a6f97" if one.startswith("ours") else "#b0b0b0" for one in names]
        drawn = place.barh(names, values, color=colours)
        place.bar_label(drawn, labels=[f"{one:.3g}" for one in values], padding=3)
        place.set_title(name)
        place.set_xlabel(unit)
        place.spines[["top", "right"]].set_visible(False)
        place.margins(x=0.15)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
