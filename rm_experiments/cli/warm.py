"""Imported by the server from which the jobs of a sweep are forked: all that a run imports, paid once."""

from __future__ import annotations

import contextlib
import gc
import importlib
import signal

_MODULES = (
    "rm_experiments.runner.train", "rm_experiments.reporting.plots", "rm_experiments.reporting.compare_page",
    "transformers.models.llama.modeling_llama", "pyarrow.parquet", "pyarrow.compute", "pandas",
    "matplotlib.backends.backend_agg", "PIL.PngImagePlugin", "scipy.stats", "torch.distributed", "wandb", "peft",
)  # fmt: skip

# Half a million objects that stay: a child would copy their pages only to count them again.
# A terminal's Ctrl-C is for the sweep, which stops its jobs in order; this process ends with the sweep.
signal.signal(signal.SIGINT, signal.SIG_IGN)
gc.disable()
for _name in _MODULES:
    # What is missing here, an extra, say, is answered by the job that needs it.
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)
gc.collect()
gc.freeze()
gc.enable()
