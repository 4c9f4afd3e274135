"""Training steps: ours against TRL's RewardTrainer.

    pip install -e '.[bench]'
    python benchmarks/train.py                                   # hh and uf lengths, the small model, CPU
    python benchmarks/train.py --model mid --workload uf --picture train.png --json train.json
    python benchmarks/train.py --device cuda --precision bf16

Same weights, pairs, precision, optimizer and pairs per step; the losses of the first steps are checked to be equal
before anything is timed. Each variant has a process of its own; they take turns, and medians are printed.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contenders import CHECKED, CONTENDERS, WARM_UP, Setting, assert_close, make
from measuring import (
    Row,
    machine,
    matrix_product_peak,
    median,
    print_table,
    run_children,
    say,
    serve,
    spread,
    write_json,
    write_picture,
)
from workloads import SHAPES, WORKLOADS, describe, unique_tokens, work

VARIANTS = (
    "ours", "ours, padded", "ours, padded, by length",
    "TRL default", "TRL best, random order", "TRL best, sorted by hand",
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--budgets", type=int, nargs="+", help="instead: ours by these tokens of a forward pass")
    arguments = options.parse_args()
    if arguments.as_child:
        serve(_prepare)
        return
    torch.set_num_threads(arguments.threads)
    found: Row = {"machine": machine(arguments.device), "settings": plain(arguments), "workloads": {}}
    say(str(found["machine"]))
    for workload in workloads(arguments):
        found["workloads"][workload] = _measure(arguments, workload)
    finish(arguments, found, "Training")


def _measure(arguments: argparse.Namespace, workload: str) -> Row:
    settings = {one: setting_of(arguments, workload, one) for one in VARIANTS}
    if arguments.budgets:
        ours = settings["ours"]
        settings = {f"ours, {one} tokens": replace(ours, budget=one) for one in arguments.budgets}
    pairs = next(iter(settings.values())).pairs()
    say(f"\n{workload}, {arguments.model}, {arguments.precision}: {describe(pairs)}")
    peak = matrix_product_peak(arguments.device, arguments.precision)
    rows_of_settings = {name: one.as_row() for name, one in settings.items()}
    on_cpu = arguments.device == "cpu"
    facts, figures = run_children(
        __file__, rows_of_settings, arguments.rounds, on_cpu, lambda facts: _check(settings, facts)
    )
    peak = max(peak, matrix_product_peak(arguments.device, arguments.precision))
    clock = "cpu" if on_cpu else "wall"
    per_pair = 100 / (arguments.steps * arguments.pairs_per_step)
    rows = [
        {
            "variant": name,
            "CPU s": median(timed, "cpu") * per_pair,
            "wall s": median(timed, "wall") * per_pair,
            "spread": spread(timed, clock),
            "unique tokens/s": facts[name]["unique_tokens"] / median(timed, "wall"),
            "utilisation": facts[name]["work"]["needed"] / median(timed, clock) / peak,
            "utilisation, usual count": facts[name]["work"]["usual"] / median(timed, clock) / peak,
            "computed / unique": facts[name]["computed_per_unique"],
        }
        for name, timed in figures.items()
    ]
    add_ratios(rows, "CPU s" if on_cpu else "wall s")
    say(f"seconds per 100 pairs; peak of matrix products {peak / 1e9:,.0f} GFLOP/s of {clock} time")
    print_table(rows)
    return {"lengths": describe(pairs), "peak": peak, "rows": rows, "facts": facts, "rounds": figures}


def add_ratios(rows: list[Row], key: str) -> None:
    """How many times as long as ours each variant takes."""
    ours = rows[0]
    for row in rows:
        row["x ours"] = row[key] / ours[key]


def _check(settings: dict[str, Setting], facts: dict[str, Row]) -> None:
    """The first step is the same for all; the following ones are for those that go through the pairs in one order."""
    first, of_order = next(iter(facts.values()))["losses"], {}
    for name, setting in settings.items():
        losses = facts[name]["losses"]
        expected = of_order.setdefault(CONTENDERS[setting.contender].by_length, losses)
        assert_close(name, losses[:1], first[:1], setting.precision)
        assert_close(name, losses, expected, setting.precision)
    say(f"the losses of the first {CHECKED} steps are equal: {', '.join(f'{one:.6f}' for one in first)}")


def _prepare(row: Row) -> tuple[Row, Any]:
    """A variant's process: the facts of its setting, and a round."""
    setting = Setting(**row)
    contender = make(setting)
    timed = contender.pairs.select(contender.plan.order[WARM_UP * setting.pairs_per_step :])
    facts = {
        "losses": contender.first_losses(CHECKED),
        "computed_per_unique": contender.computed_tokens() / unique_tokens(contender.pairs),
        "unique_tokens": unique_tokens(timed),
        "work": vars(work(SHAPES[setting.model], timed, training=True)),
        "note": getattr(contender, "note", ""),
    }
    return facts, lambda: contender.train()._asdict()


def parser(description: str, timed: bool = True) -> argparse.ArgumentParser:
    """The options that comparisons share; some are for those that take time."""
    options = argparse.ArgumentParser(
        description=description.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--workload", choices=[*WORKLOADS, "both"], default="both", help="lengths of the pairs")
    options.add_argument("--model", choices=list(SHAPES), default="small", help="shape of the Qwen2 decoder")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where it runs")
    options.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of every variant")
    options.add_argument("--pairs-per-step", type=int, default=8, help="of every variant")
    options.add_argument("--steps", type=int, default=10, help="steps of a round, beside the warm-up")
    options.add_argument(
        "--threads", type=int, default=os.cpu_count(),
        help="of every variant; 1 where others use the machine, too: threads that wait for each other use CPU time",
    )  # fmt: skip
    if timed:
        options.add_argument("--rounds", type=int, default=3, help="rounds of each variant")
        options.add_argument("--picture", type=Path, help="PNG to write")
    options.add_argument("--json", type=Path, help="file for all figures")
    options.add_argument("--as-child", help=argparse.SUPPRESS)
    return options


def workloads(arguments: argparse.Namespace) -> list[str]:
    """Those that were asked for."""
    return list(WORKLOADS) if arguments.workload == "both" else [arguments.workload]


def setting_of(arguments: argparse.Namespace, workload: str, contender: str) -> Setting:
    """What a variant's process is told."""
    return Setting(
        contender=contender, workload=workload, model=arguments.model, device=arguments.device,
        precision=arguments.precision, pairs_per_step=arguments.pairs_per_step, steps=arguments.steps,
        threads=arguments.threads,
    )  # fmt: skip


def plain(arguments: argparse.Namespace) -> Row:
    """For JSON."""
    return {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}


def finish(arguments: argparse.Namespace, found: Row, title: str) -> None:
    """Write what was asked for."""
    if arguments.json:
        write_json(arguments.json, found)
    if arguments.picture:
        key = "CPU s" if arguments.device == "cpu" else "wall s"
        groups = {name: {row["variant"]: row[key] for row in one["rows"]} for name, one in found["workloads"].items()}
        what = "CPU" if arguments.device == "cpu" else "wall"
        title = f"{title}: {what} seconds per 100 pairs, {arguments.model} model, {arguments.precision}"
        write_picture(arguments.picture, title, key, groups)


if __name__ == "__main__":
    main()
