"""Two runs in one directory at once, and a finished run that is started again."""

from __future__ import annotations

import re
import shutil
import signal
import time

from tests.faults.comparing import snapshot
from tests.faults.outcome import Fault, ensure
from tests.faults.processes import Child, Ended
from tests.faults.workbench import Reference, Trial

_SECONDS = 2.0
"""In which a command answers once it has come to a directory that is taken."""


def twice_once(trial: Trial) -> str:
    """Start two; one goes on and the other is refused. In every second trial the first one is killed then."""
    reference = trial.choose_variant()
    first = trial.fork()
    time.sleep(trial.rng.choice([0.0, trial.rng.uniform(0.0, 0.05), trial.rng.uniform(0.0, 0.8 * reference.seconds)]))
    second = trial.fork()
    if trial.number % 2:
        return _holder_killed(trial, first, second)
    children = [first, second]
    ended = [one.wait() for one in children]
    codes = sorted(one.code for one in ended)
    if codes == [0, 0]:
        ensure(any("already complete" in one.stdout for one in ended), "both ended with 0 and neither was refused")
        where = "one after the other"
    else:
        ensure(codes == [0, 2], f"exit codes {codes}, not 0 and 2: {[one.last_lines for one in ended]}")
        loser = 0 if ended[0].code else 1
        where = _check_refused(trial, ended[loser], children[1 - loser].pid, reference)
    trial.check(reference)
    return where


def _check_refused(trial: Trial, ended: Ended, holder: int, reference: Reference) -> str:
    """Whether it was told who is at work there, in one line, and at once."""
    lines = ended.stderr.strip().splitlines()
    ensure(len(lines) == 1, f"the refused command said {len(lines)} lines: {ended.last_lines}")
    late = ended.seconds - 2 * reference.claimed
    trial.measured["from the directory to the refusal"] = max(0.0, late)
    ensure(trial.bench.patient or late <= _SECONDS, f"the refused command ended only after {ended.seconds:.1f} s")
    if "was finished by another process" in lines[0]:
        return "refused, finished meanwhile"
    ensure(re.search(rf"\b{holder}\b", lines[0]), f"the refusal does not name process {holder}: {lines[0]}")
    return "refused, holder named"


def _holder_killed(trial: Trial, first: Child, second: Child) -> str:
    """The lock of a killed process holds nobody up."""
    while first.running and second.running:
        time.sleep(0.002)
    holder, other = (first, second) if first.running else (second, first)
    refused = other.wait()
    ensure(refused.code in (0, 2), f"exit code {refused.code}, not 0 or 2: {refused.last_lines}")
    time.sleep(trial.rng.uniform(0.0, 0.3))
    holder.send(signal.SIGKILL)
    code = holder.wait().code
    trial.finish()
    return "holder killed" if code == -signal.SIGKILL else "holder had ended"


def finished_once(trial: Trial) -> str:
    """Start a finished run three times more: nothing is done, and nothing changes."""
    reference = trial.choose_variant()
    shutil.copytree(reference.path, trial.run_dir, symlinks=True)
    before = snapshot(trial.run_dir)
    for attempt in range(3):
        ended = trial.fork().wait()
        ensure(ended.code == 0, f"start {attempt + 1} of a finished run: exit code {ended.code}: {ended.last_lines}")
        ensure("already complete" in ended.stdout, f"does not say that it is complete: {ended.stdout.strip()[:200]}")
        after = snapshot(trial.run_dir)
        changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        ensure(not changed, f"start {attempt + 1} of a finished run changed {', '.join(changed[:4])}")
    return "three starts"


TWICE = Fault("twice", "two runs in one directory at once, the holder killed or not", 0.1, twice_once)
FINISHED = Fault("finished", "a finished run started three times more", 0.02, finished_once)
