"""A process that has imported everything and forks a child per request, which saves the seconds that imports take.

`python -m tests.faults.server REQUESTS REPLIES` (two file descriptors). The server itself runs no kernel of torch and
has one thread, so a child is as good as a fresh process: it has a session of its own, gets real signals, and runs the
command's own `main` at the top level of the interpreter, which then ends as it always does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PRELOADED = (
    "rm_experiments.cli.train", "rm_experiments.runner.train", "rm_experiments.reporting.plots",
    "transformers.models.llama.modeling_llama", "transformers.models.llama.configuration_llama",
    "pyarrow.parquet", "matplotlib.backends.backend_agg", "scipy.stats", "torch.distributed",
    "pandas", "pyarrow.compute", "PIL.PngImagePlugin", "hydra._internal.core_plugins.basic_launcher",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.truncate"}


def leave_pictures_blank() -> None:
    """Nothing is drawn on the pictures, which takes half of a tiny run's time and is not compared."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def draw(canvas: Any) -> None:
        canvas.renderer = canvas.get_renderer()
        canvas.renderer.clear()

    canvas_class: Any = FigureCanvasAgg
    canvas_class.draw = draw


def serve(requests: int, replies: int) -> dict[str, Any] | None:
    """Fork a child per request and say how each ends. Returns in a child, with its request; else at the end."""
    children: dict[int, tuple[int, int]] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([requests, *children], [], [])
        for ended in [one for one in ready if one != requests]:
            number, pid = children.pop(ended)
            os.close(ended)
            _say(replies, {"id": number, "code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})
        if requests not in ready:
            continue
        chunk = os.read(requests, 65536)
        if not chunk:
            for handle in children:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            return None
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            request: dict[str, Any] = json.loads(line)
            pid = os.fork()
            if pid == 0:
                for descriptor in (requests, replies, *children):
                    os.close(descriptor)
                return request
            children[os.pidfd_open(pid)] = (request["id"], pid)
            _say(replies, {"id": request["id"], "pid": pid})


def _say(replies: int, values: dict[str, Any]) -> None:
    os.write(replies, json.dumps(values).encode() + b"\n")


def become(request: dict[str, Any]) -> None:
    """Make this child what the request asks for, up to the call of the command."""
    os.setsid()
    os.chdir(request["cwd"])
    for number, key in ((1, "out"), (2, "err")):
        descriptor = os.open(request[key], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(request["env"])
    sys.argv = ["rm-train", *request["arguments"]]
    while request["hold"] and not os.path.exists(request["hold"]):
        time.sleep(0.002)
    if request["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], request["file_limit"]))
    if request["kill_at"] is not None:
        kill_at_change(request["kill_at"])


def kill_at_change(number: int) -> None:
    """SIGKILL this process right before the `number`-th time that its Python code changes a file of the run.

    The coarser way where strace is missing: what libraries write in other languages is not seen.
    """
    seen, fsync = 0, os.fsync

    def count() -> None:
        nonlocal seen
        seen += os.path.isdir("run")
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            count()

    def flush(descriptor: Any) -> None:
        count()
        fsync(descriptor)

    sys.addaudithook(hook)
    vars(os)["fsync"] = flush


def main() -> None:
    """Import, serve, and in a child run the command."""
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    requests, replies = (int(one) for one in sys.argv[1:3])
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    leave_pictures_blank()
    gc.collect()
    gc.freeze()
    names = [Path(f"/proc/self/task/{one}/comm").read_text().strip() for one in os.listdir("/proc/self/task")]
    # pyarrow's allocator puts its thread in order itself when a process forks.
    _say(replies, {"id": -1, "threads": len(names) - names.count("jemalloc_bg_thd")})
    request = serve(requests, replies)
    if request is None:
        return
    become(request)
    from rm_experiments.cli.entry import rm_train

    rm_train()


if __name__ == "__main__":
    main()
