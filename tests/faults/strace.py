"""strace at the end of our needle: what a process asks the system to do, and a SIGKILL right before one such call."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.outcome import Lost
from tests.faults.processes import Child

STRACE = shutil.which("strace")
CHANGING = (
    "write", "writev", "pwrite64", "sendfile", "copy_file_range", "ftruncate", "openat", "rename", "renameat",
    "renameat2", "fsync", "fdatasync", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "symlink", "symlinkat",
)  # fmt: skip
"""Calls that change files, on this architecture and on those that have only the newer ones."""
_LINE = re.compile(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$")
_WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT")
_WITHIN = re.compile(r'[/"]run/[^">]*')


@dataclass(frozen=True)
class Call:
    """One completed call, or one that the process did not live to see the end of."""

    thread: int
    name: str
    number: int
    """Of the calls of this name in this thread, from 1."""
    text: str
    """Arguments and result, descriptors with their paths."""

    @property
    def failed(self) -> bool:
        """Whether it did nothing."""
        return " = -1 " in self.text

    @property
    def paths(self) -> list[str]:
        """Paths in the run's directory that it names, as it was called there, without `run/`."""
        return [one[len('"run/') :] for one in _WITHIN.findall(self.text)]

    @property
    def writes(self) -> bool:
        """Whether it changes files: opening for reading is no such call."""
        return self.name != "openat" or bool(_WRITING.search(self.text))


class Tracer:
    """strace attached to a process and to all that it starts."""

    def __init__(self, child: Child, log: Path, inject: str | None = None, calls: tuple[str, ...] = CHANGING) -> None:
        """`inject` is the argument of strace's option of that name; the child must be waiting."""
        assert STRACE is not None
        self.log = log
        known = [f"?{one}" for one in calls]
        command = [
            STRACE, "-f", "-y", "-s", "16", "-o", str(log), "-e", f"trace={','.join(known)}", "-e", "signal=none",
            *(["-e", f"inject={inject}"] if inject else []), "-p", str(child.pid),
        ]  # fmt: skip
        errors = log.with_suffix(".err")
        with errors.open("wb") as file:
            self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        deadline = time.monotonic() + 20
        while "attached" not in errors.read_text():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise Lost(f"strace did not attach: {errors.read_text()}")
            time.sleep(0.002)

    def close(self) -> None:
        """Let the process go, if it is still there."""
        if self._popen.poll() is None:
            self._popen.terminate()
        self._popen.wait(20)


def calls(log: Path) -> list[Call]:
    """The calls of a log in the order in which they were completed; one that never was comes when it began."""
    numbers: dict[tuple[int, str], int] = {}
    begun: dict[tuple[int, str], Call] = {}
    found: list[Call] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread = int(match[1])
        if match[4] is not None:
            start = begun.pop((thread, match[4]), None)
            if start is not None:
                found.append(Call(thread, start.name, start.number, start.text + match[5]))
            continue
        key = (thread, match[2])
        numbers[key] = numbers.get(key, 0) + 1
        call = Call(thread, match[2], numbers[key], match[3].removesuffix("<unfinished ...>"))
        if match[3].endswith("<unfinished ...>"):
            begun[key] = call
        else:
            found.append(call)
    return found + list(begun.values())
