"""Peak memory of training: ours against TRL's RewardTrainer.

    python benchmarks/memory.py --model small
    python benchmarks/memory.py --model 0.5B --device cuda --precision bf16 --json memory.json

Each variant trains `steps` + 1 steps in a process of its own. On a CPU: its largest resident memory, less what it held
before the first step. On CUDA: torch's largest allocated memory, less the same. What is left without gradients and the
two moments of AdamW, which every variant has, is activations and the like.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from contenders import Setting, make
from measuring import Child, Row, machine, print_table, say, serve, write_json
from train import parser, plain, setting_of, workloads
from workloads import describe

VARIANTS = ("ours", "ours, padded", "TRL default", "TRL best, random order", "TRL best, sorted by hand")
MEGA = 2**20


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, timed=False).parse_args()
    if arguments.as_child:
        serve(_prepare)
        return
    found: Row = {"machine": machine(arguments.device), "settings": plain(arguments), "workloads": {}}
    say(str(found["machine"]))
    for workload in workloads(arguments):
        pairs = setting_of(arguments, workload, "ours").pairs()
        say(f"\n{workload}, {arguments.model}, {arguments.precision}: {describe(pairs)}")
        rows = []
        for name in VARIANTS:
            child = Child(__file__, setting_of(arguments, workload, name).as_row())
            rows.append({"variant": name, **child.round()})
            child.close()
        for row in rows:
            row["x ours"] = row["peak MB"] / rows[0]["peak MB"]
        print_table(rows)
        found["workloads"][workload] = {"lengths": describe(pairs), "rows": rows}
    if arguments.json:
        write_json(arguments.json, found)


def _prepare(row: Row) -> tuple[Row, Any]:
    """A variant's process: set up, and the peak of one round."""
    setting = Setting(**row)
    contender = make(setting)
    size = sum(one.numel() * one.element_size() for one in contender.model.parameters() if one.requires_grad)

    def peak() -> Row:
        on_gpu = setting.device == "cuda"
        before = torch.cuda.memory_allocated() if on_gpu else _resident("VmRSS")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            # The peak so far, of imports say, is forgotten (proc(5)).
            Path("/proc/self/clear_refs").write_text("5")
        contender.train()
        most = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")
        return {
            "before MB": before / MEGA,
            "peak MB": (most - before) / MEGA,
            "without gradients and moments MB": (most - before - 3 * size) / MEGA,
        }

    return {}, peak


def _resident(name: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main()
