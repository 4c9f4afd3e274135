"""Imported by the server from which the jobs of a sweep are forked: all that a run imports, paid once."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import threading

from rm_experiments.launch.signals import HANDLED

_MODULES = (
    "rm_experiments.runner.train", "rm_experiments.reporting.plots", "rm_experiments.reporting.compare_page",
    "transformers.models.llama.modeling_llama", "pyarrow.parquet", "pyarrow.compute", "pandas",
    "matplotlib.backends.backend_agg", "PIL.PngImagePlugin", "scipy.stats", "torch.distributed", "wandb", "peft",
)  # fmt: skip

_parent, _done = os.getppid(), threading.Event()


def _end_with_parent() -> None:
    """A refused command is over at once; what it began to import would hold its terminal for seconds."""
    while not _done.wait(0.05):
        if os.getppid() != _parent:
            os._exit(0)


_watching = threading.Thread(target=_end_with_parent, daemon=True)
_watching.start()
# A terminal's Ctrl-C is for the sweep, which stops its jobs in order; this process ends with the sweep. Blocked, not
# ignored: what a job is sent in its first moments waits until it can answer.
signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
# Half a million objects that stay: a child would copy their pages only to count them again.
gc.disable()
for _name in _MODULES:
    # What is missing or broken here, an extra, say, is answered by the job that needs it.
    with contextlib.suppress(Exception):
        importlib.import_module(_name)
gc.collect()
gc.freeze()
gc.enable()
# No thread may be left when a job is forked.
_done.set()
_watching.join()
