"""`train.profile_steps`: where the time of a few optimizer steps goes, in files of the run's directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, schedule

from rm_experiments.config.rules import PROFILE_WARM_UP
from rm_experiments.launch.watchdog import Watchdog
from rm_experiments.training.checkpoints import remove

PROFILE_DIR, TRACE_FILE, OPERATORS_FILE = "profile", "trace.json.gz", "operators.txt"
_ROWS = 40
"""Rows of the table of operators."""


class StepProfiler:
    """Watches the first steps of a process: some to warm up, which are not recorded, then those that are.

    What is computed stays the same. Of several processes the main one is recorded; the others count along.
    """

    def __init__(
        self, steps: int | None, run_dir: Path, accelerator: Accelerator, watchdog: Watchdog, say: Callable[[str], None]
    ) -> None:
        """
        Args:
            steps: optimizer steps to record, after `PROFILE_WARM_UP` others; None: nothing is done.
            run_dir: gets `profile/`; one that an earlier attempt left is replaced.
            say: told where the files are.
        """
        self._left = 0 if steps is None else PROFILE_WARM_UP + steps
        self._active = steps or 0
        self._directory, self._accelerator = run_dir / PROFILE_DIR, accelerator
        self._watchdog, self._say = watchdog, say
        self._cuda = accelerator.device.type == "cuda"
        self._recorded: list[int] = []
        """Numbers of the steps."""
        self._seconds = 0.0
        self._profile: profile | None = None
        self._between = False
        """Whether a step is over that the profiler takes to go on."""

    def watch(self, step: Callable[[], bool], number: int) -> bool:
        """Take a step.

        Args:
            step: takes it, and returns whether it was taken.
            number: its number in the run, from 1.
        """
        if not self._left:
            return step()
        self._go_on()
        begun = self._now()
        if not step():
            return False
        if self._left <= self._active:
            self._recorded.append(number)
            self._seconds += self._now() - begun
        self._left -= 1
        self._between = True
        if not self._left:
            self._write()
        return True

    def finish(self) -> None:
        """Training is over: write what was recorded if steps are missing, as after going on from a late checkpoint."""
        if self._left:
            self._left = 0
            self._write()

    def stop(self) -> None:
        """Watch no longer, whatever was seen: only one profiler can be at work in a process."""
        self._left = 0
        watched, self._profile = self._profile, None
        if watched is not None:
            watched.stop()

    def _go_on(self) -> None:
        if self._profile is None and self._accelerator.is_main_process:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
            # Its library would write lines for its own developers to stderr.
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")
            plan = schedule(wait=0, warmup=PROFILE_WARM_UP, active=self._active, repeat=1)
            self._profile = profile(activities=activities, schedule=plan)
            self._profile.start()
        elif self._profile is not None and self._between:
            self._profile.step()
        self._between = False

    def _write(self) -> None:
        """On every process: the others wait for the main one, which may take a while."""
        watched = self._profile
        self.stop()
        with self._watchdog.paused():
            if self._recorded and watched is not None:
                self._leave_files(watched)
            self._accelerator.wait_for_everyone()
        if not self._recorded:
            self._say(f"No step was profiled: the first {PROFILE_WARM_UP} of a process warm up, and no other came.")

    def _leave_files(self, watched: profile) -> None:
        steps = self._recorded
        head = (
            f"steps {steps[0]} to {steps[-1]}, {self._seconds / len(steps):.4g} seconds each while they were profiled"
        )
        order = f"self_{'cuda' if self._cuda else 'cpu'}_time_total"
        table = watched.key_averages().table(sort_by=order, row_limit=_ROWS)
        aside = self._directory.with_name(f".new_{PROFILE_DIR}.partial")
        remove(aside)
        aside.mkdir()
        watched.export_chrome_trace(str(aside / TRACE_FILE))
        (aside / OPERATORS_FILE).write_text(f"{head}\n{table}\n", encoding="utf-8")
        remove(self._directory)
        aside.rename(self._directory)
        self._say(
            f"Profiled {head}: see {self._directory / OPERATORS_FILE}; {self._directory / TRACE_FILE} opens in "
            "https://ui.perfetto.dev"
        )

    def _now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.monotonic()
