"""A whole job, from the command to the saved model: reading, tokenizing, one epoch, evaluation, saving.

    python benchmarks/job.py --model tiny                               # sandbox pairs
    python benchmarks/job.py --model small --train FILE --eval FILE     # pairs in any layout that data.train takes

One run, and a sweep over 8 seeds: ours as `rm-train --multirun`, TRL as a script (trl_script.py) that is run 8 times.
Same model directory, files, template, batch size, learning rate, schedule and precision. That both train on the same
number of tokens is checked. Every job begins with empty caches.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import Row, machine, median, print_table, run_command, say, spread, write_json, write_picture
from workloads import SHAPES, make_model

from rm_experiments.config.data_schema import DataConfig, SandboxConfig
from rm_experiments.data.cache import DataCache
from rm_experiments.data.pairs import answer_messages, prompt_messages
from rm_experiments.data.splits import Split, load_splits
from rm_experiments.data.templates import prepare_tokenizer
from rm_experiments.modeling.tokenizer import train_tokenizer

LR = 1e-4
VOCABULARY = 4096
TRL_SCRIPT = Path(__file__).with_name("trl_script.py")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--train", help="pairs; without it sandbox pairs")
    parser.add_argument("--eval", help="pairs; without it a part of the training pairs")
    parser.add_argument("--pairs", type=int, default=1000, help="training pairs at most")
    parser.add_argument("--eval-pairs", type=int, default=200, help="evaluation pairs at most")
    parser.add_argument("--model", choices=list(SHAPES), default="tiny", help="shape of the Qwen2 decoder")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where it runs")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of every job")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per step")
    parser.add_argument("--runs", type=int, default=8, help="runs of the sweep")
    parser.add_argument("--rounds", type=int, default=3, help="how often each job is done")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every job; see train.py")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    found: Row = {"machine": machine(arguments.device), "groups": {}}
    say(str(found["machine"]))
    with tempfile.TemporaryDirectory() as directory:
        job = Job(arguments, Path(directory))
        say(job.description)
        for name, runs in (("one run", 1), (f"{arguments.runs} runs", arguments.runs)):
            found["groups"][name] = _compare(job, name, runs, arguments.rounds)
    if arguments.json:
        write_json(arguments.json, found)
    if arguments.picture:
        bars = {name: {row["job"]: row["CPU s"] for row in rows} for name, rows in found["groups"].items()}
        write_picture(arguments.picture, "From the command to the model: CPU seconds", "CPU s", bars)


def _compare(job: Job, name: str, runs: int, rounds: int) -> list[Row]:
    jobs: dict[str, Callable[[], Row]] = {
        "ours": lambda: job.ours(runs),
        "TRL default": lambda: job.trl(runs, checkpointing=True),
        "TRL without checkpointing": lambda: job.trl(runs, checkpointing=False),
    }
    figures: dict[str, list[Row]] = {one: [] for one in jobs}
    for _ in range(rounds):
        for one, run in jobs.items():
            figures[one].append(run())
    tokens = {row["tokens"] for timed in figures.values() for row in timed}
    if len(tokens) > 1:
        raise SystemExit(f"the jobs trained on different numbers of tokens: {sorted(tokens)}")
    ours = median(figures["ours"], "cpu")
    rows = [
        {
            "job": one, "CPU s": median(timed, "cpu"), "wall s": median(timed, "wall"),
            "spread of CPU": spread(timed, "cpu"), "x ours": median(timed, "cpu") / ours,
        }
        for one, timed in figures.items()
    ]  # fmt: skip
    say(f"\n{name}, {tokens.pop():,} tokens each, medians of {rounds}")
    print_table(rows)
    return rows


class Job:
    """Files of the jobs, and how each is done."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self._arguments = arguments
        self._directory = directory
        self._number = 0
        self._environment = {"OMP_NUM_THREADS": str(arguments.threads)}
        config = DataConfig(train=arguments.train, eval=arguments.eval)
        if arguments.train is None:
            sandbox = SandboxConfig(num_train_pairs=arguments.pairs, num_eval_pairs=arguments.eval_pairs)
            config.sandbox = sandbox
        splits = load_splits(config, 0, True, DataCache(None))
        train, evaluation = splits.train, splits.evaluation["eval"]
        texts = _write(train, arguments.pairs, directory / "train.jsonl")
        _write(evaluation, arguments.eval_pairs, directory / "eval.jsonl")
        tokenizer = train_tokenizer(texts, VOCABULARY)
        prepare_tokenizer(tokenizer)
        tokenizer.save_pretrained(directory / "model")
        make_model(arguments.model, "cpu").save_pretrained(directory / "model")
        self.description = (
            f"{min(arguments.pairs, len(train.rows))} pairs of {train.source}, "
            f"{min(arguments.eval_pairs, len(evaluation.rows))} to evaluate; {arguments.model} model"
        )

    def ours(self, runs: int) -> Row:
        """`rm-train`, or a sweep of it, one job after the other."""
        fresh = self._fresh()
        options = [
            "model=pretrained", f"model.name_or_path={self._directory / 'model'}", "data=local",
            f"data.train={self._directory / 'train.jsonl'}", f"data.eval={self._directory / 'eval.jsonl'}",
            f"data.cache_dir={fresh / 'cache'}", "data.max_length=1024", "tracking=none", "eval=none",
            "eval.at_end=true", f"train.batch_size={self._arguments.batch_size}", f"optimizer.lr={LR}",
            f"train.device={self._arguments.device}", f"train.precision={self._arguments.precision}",
        ]  # fmt: skip
        where = f"run_dir={fresh / 'run'}"
        if runs > 1:
            seeds = ",".join(map(str, range(runs)))
            options = ["--multirun", f"seed={seeds}", "launch.concurrent_runs=1", *options]
            where = f"hydra.sweep.dir={fresh / 'run'}"
        row = run_command([sys.executable, "-m", "rm_experiments", *options, where], self._environment)
        models = list((fresh / "run").rglob("final/model.safetensors"))
        assert len(models) == runs, models
        lines = map(json.loads, (models[0].parents[1] / "metrics.jsonl").read_text().splitlines())
        return {**row, "tokens": max(int(line.get("train_total_tokens", 0)) for line in lines)}

    def trl(self, runs: int, checkpointing: bool) -> Row:
        """The script once for each seed; the data set's cache is shared, as it is by default."""
        fresh, rows = self._fresh(), []
        for seed in range(runs):
            setting = {
                "model": str(self._directory / "model"), "train": str(self._directory / "train.jsonl"),
                "eval": str(self._directory / "eval.jsonl"), "output": str(fresh / f"run{seed}"), "seed": seed,
                "lr": LR, "batch_size": self._arguments.batch_size, "precision": self._arguments.precision,
                "device": self._arguments.device, "checkpointing": checkpointing, "numbers": str(fresh / "numbers"),
            }  # fmt: skip
            environment = {"HF_DATASETS_CACHE": str(fresh / "cache"), **self._environment}
            rows.append(run_command([sys.executable, str(TRL_SCRIPT), json.dumps(setting)], environment))
            assert (fresh / f"run{seed}" / "model.safetensors").exists()
        numbers = json.loads((fresh / "numbers").read_text())
        return {key: sum(row[key] for row in rows) for key in ("cpu", "wall")} | {"tokens": int(numbers["tokens"])}

    def _fresh(self) -> Path:
        self._number += 1
        path = self._directory / f"job{self._number}"
        os.makedirs(path)
        return path


def _write(split: Split, count: int, path: Path) -> list[str]:
    """The first pairs as JSON lines of messages, which both sides read; the texts of the answers."""
    texts = []
    with path.open("w", encoding="utf-8") as file:
        for pair in split.table.pairs(split.rows[:count]):
            chosen, rejected = answer_messages(pair.chosen), answer_messages(pair.rejected)
            row = {"prompt": prompt_messages(pair.prompt), "chosen": chosen, "rejected": rejected}
            file.write(json.dumps(row) + "\n")
            texts += [message["content"] for message in (*row["prompt"], *chosen, *rejected)]
    return texts


if __name__ == "__main__":
    main()
