"""A saved directory checked in a process of its own: nothing of the training, and no random number of it, is touched.

`python -m rm_experiments.modeling.verifying` reads the arguments of `check_reload` as JSON and prints what was found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rm_experiments.errors import TrainingError
from rm_experiments.modeling.reload import Reloaded

_TYPES = {"float64", "float32", "bfloat16", "float16"}


def verify_elsewhere(directory: Path, *, adapter: bool, narrowest: Any, saved: Any) -> Reloaded:
    """`check_reload` in a fresh process on the CPU, which does not see a signal that stops this one.

    Raises:
        TrainingError: when the directory does not load, or gives other rewards than those of its probe rows.
    """
    asked = {
        "directory": str(directory), "adapter": adapter,
        "narrowest": str(narrowest).removeprefix("torch."), "saved": str(saved).removeprefix("torch."),
    }  # fmt: skip
    # Ranks of a distributed run tell their children so; this one stands alone.
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-m", "rm_experiments.modeling.verifying", json.dumps(asked)],
        capture_output=True, text=True, start_new_session=True,
        env={**kept, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        raise TrainingError(f"the saved model could not be checked: {reason}")
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise TrainingError(answer["error"])
    return Reloaded(**answer)


def main(text: str) -> dict[str, Any]:
    """What the process answers: the fields of `Reloaded`, or `error`."""
    import torch
    from transformers.utils import logging as transformers_logging

    from rm_experiments.modeling.reload import check_reload

    asked = json.loads(text)
    assert {asked["narrowest"], asked["saved"]} <= _TYPES
    transformers_logging.disable_progress_bar()
    try:
        found = check_reload(
            Path(asked["directory"]), adapter=asked["adapter"], loading=None,
            narrowest=getattr(torch, asked["narrowest"]), saved=getattr(torch, asked["saved"]),
        )  # fmt: skip
    except TrainingError as error:
        return {"error": str(error)}
    return vars(found)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))  # noqa: T201
