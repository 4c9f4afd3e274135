"""Evaluation of a set of pairs: ours against `evaluate()` of TRL's RewardTrainer.

    python benchmarks/evaluate.py --model small
    python benchmarks/evaluate.py --model small --workload uf --picture evaluate.png --json evaluate.json

The set has `pairs-per-step` x (`steps` + 1) pairs, and a round is one pass over it. The mean losses are checked to be
equal before anything is timed. TRL evaluates in the order of the data set; sorted by hand it pads less.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch
from contenders import CONTENDERS, Ours, Setting, Trl
from measuring import (
    Moment,
    Row,
    machine,
    matrix_product_peak,
    median,
    print_table,
    run_children,
    say,
    serve,
    spread,
)
from train import add_ratios, finish, parser, plain, setting_of, workloads
from workloads import SHAPES, describe, unique_tokens, work

from rm_experiments.evaluation.evaluate import evaluate
from rm_experiments.training.budget import evaluation_budget

VARIANTS = ("ours", "ours, padded", "TRL default", "TRL best, sorted by hand")


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__).parse_args()
    if arguments.as_child:
        serve(_prepare)
        return
    torch.set_num_threads(arguments.threads)
    found: Row = {"machine": machine(arguments.device), "settings": plain(arguments), "workloads": {}}
    say(str(found["machine"]))
    for workload in workloads(arguments):
        found["workloads"][workload] = _measure(arguments, workload)
    finish(arguments, found, "Evaluation")


def _measure(arguments: argparse.Namespace, workload: str) -> Row:
    settings = {one: setting_of(arguments, workload, one).as_row() for one in VARIANTS}
    pairs = setting_of(arguments, workload, "ours").pairs()
    say(f"\n{workload}, {arguments.model}, {arguments.precision}: {describe(pairs)}")
    peak = matrix_product_peak(arguments.device, arguments.precision)
    on_cpu = arguments.device == "cpu"
    facts, figures = run_children(
        __file__, settings, arguments.rounds, on_cpu, lambda facts: _check(facts, arguments.precision)
    )
    peak = max(peak, matrix_product_peak(arguments.device, arguments.precision))
    clock = "cpu" if on_cpu else "wall"
    asked, tokens, scale = work(SHAPES[arguments.model], pairs, training=False), unique_tokens(pairs), 100 / len(pairs)
    rows = [
        {
            "variant": name,
            "CPU s": median(timed, "cpu") * scale,
            "wall s": median(timed, "wall") * scale,
            "spread": spread(timed, clock),
            "unique tokens/s": tokens / median(timed, "wall"),
            "utilisation": asked.needed / median(timed, clock) / peak,
            "utilisation, usual count": asked.usual / median(timed, clock) / peak,
        }
        for name, timed in figures.items()
    ]
    add_ratios(rows, "CPU s" if on_cpu else "wall s")
    say(f"seconds per 100 pairs; peak of matrix products {peak / 1e9:,.0f} GFLOP/s of {clock} time")
    print_table(rows)
    return {"lengths": describe(pairs), "peak": peak, "rows": rows, "facts": facts, "rounds": figures}


def _check(facts: dict[str, Row], precision: str) -> None:
    losses = {name: one["loss"] for name, one in facts.items()}
    if max(losses.values()) - min(losses.values()) > (1e-5 if precision == "fp32" else 5e-3):
        raise SystemExit(f"the variants' mean losses differ: {losses}")
    say(f"the mean losses are equal: {losses['ours']:.6f}")


def _prepare(row: Row) -> tuple[Row, Any]:
    """A variant's process: its mean loss, and a pass over the set."""
    setting = Setting(**row)
    torch.set_num_threads(setting.threads)
    one_pass = _ours(setting) if CONTENDERS[setting.contender].kind is Ours else _trl(setting)

    def timed() -> Row:
        start = Moment.now(setting.device)
        one_pass()
        return (Moment.now(setting.device) - start)._asdict()

    return {"loss": one_pass()}, timed


def _ours(setting: Setting) -> Any:
    ours = Ours(setting)
    budget = evaluation_budget("auto", ours.trainer.token_budget, setting.device)

    def one_pass() -> float:
        records = evaluate(ours.accelerator, ours.reward_model, ours.pairs, ours.batcher, budget)
        return float(np.mean(np.logaddexp(0, -records["margin"])))

    return one_pass


def _trl(setting: Setting) -> Any:
    trl = Trl(setting, evaluates=True)

    def one_pass() -> float:
        loss = float(trl.trainer.evaluate()["eval_loss"])
        assert math.isfinite(loss)
        return loss

    return one_pass


if __name__ == "__main__":
    main()
