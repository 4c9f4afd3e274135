"""A long fuzz of rm-serve by its own OpenAPI document.

python -m tests.serving --checkpoint DIR --examples 200
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rm_experiments.config.serve_schema import LimitsConfig, ServeConfig
from tests.serving.fuzz import Locked, fuzz
from tests.serving.running import loaded, running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=100, help="requests of each kind for each route")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    opened, model = loaded(arguments.checkpoint)
    locked = Locked(model)
    config = ServeConfig(checkpoint="x", limits=LimitsConfig(body_bytes=100_000, answers=64))
    with running(config, {"tiny": (opened, locked)}) as server:
        outcome = fuzz(server, locked, arguments.examples, arguments.seed)
        good = server.post("/score", {"prompt": "What is 2+2?", "response": "4."})
    print(outcome.table())
    for message, number in outcome.refused.most_common(12):
        print(f"{number:6} mended requests refused: {message}")
    for one in outcome.problems[:20]:
        print(one)
    if good.status != 200 or outcome.problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
