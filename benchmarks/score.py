"""`rm-score` on a file of short rows: time and memory by the number of rows, and against plain transformers.

    python benchmarks/score.py RUN
    python benchmarks/score.py RUN --rows 10000 100000 1000000 --plain 2000

Every command is a process of its own; memory is its peak resident set. The plain contenders are what people write:
one answer at a time, and the `text-classification` pipeline of transformers with a batch size, on the first rows of the
same file; their rewards are compared with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Row, machine, print_table, say
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

WORDS = ("the", "of", "and", "to", "in", "is", "it", "you", "that", "he", "was", "for", "on", "are", "with", "as")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, or a model directory")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--plain", type=int, default=2000, help="rows of the plain contenders")
    parser.add_argument("--answers-per-prompt", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    say(machine("cpu"))
    with tempfile.TemporaryDirectory() as directory:
        rows = []
        for count in arguments.rows:
            source = write_rows(Path(directory) / f"{count}.jsonl", count, arguments.answers_per_prompt)
            rows.append(score(arguments.run, source, count))
            say(json.dumps(rows[-1]))
        print_table(rows)
        source = write_rows(Path(directory) / "plain.jsonl", arguments.plain, arguments.answers_per_prompt)
        ours = score(arguments.run, source, arguments.plain)
        scored = Path(directory) / "plain.jsonl.out.jsonl"
        rewards = [json.loads(line)["reward"] for line in scored.read_text(encoding="utf-8").splitlines()]
        print_table([ours, *plain(arguments.run, source, rewards, arguments.threads)])


def write_rows(path: Path, count: int, answers_per_prompt: int) -> Path:
    """Short rows; the answers of a prompt follow each other."""
    dice = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        prompt = ""
        for number in range(count):
            if number % answers_per_prompt == 0:
                prompt = " ".join(dice.choices(WORDS, k=dice.randint(5, 15)))
            answer = " ".join(dice.choices(WORDS, k=dice.randint(2, 20)))
            file.write(json.dumps({"id": number, "prompt": prompt, "response": answer}) + "\n")
    return path


def score(run: str, source: Path, count: int) -> Row:
    """Time and memory of one command."""
    command = [
        sys.executable, "-m", "rm_experiments.cli.score", f"checkpoint={run}", f"input={source}",
        f"output={source}.out.jsonl", "train.device=cpu",
    ]  # fmt: skip
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"rm-score ended with status {status}; its error is above")
    return {
        "contender": "rm-score", "rows": count, "wall s": wall, "CPU s": used.ru_utime + used.ru_stime,
        "rows/s": count / wall, "peak MB": used.ru_maxrss / 1024,
    }  # fmt: skip


def plain(run: str, source: Path, expected: list[float], threads: int) -> list[Row]:
    """The same rewards by plain transformers, without the time of imports and loading."""
    import torch

    torch.set_num_threads(threads)
    directory = Path(run) / "final" if (Path(run) / "final").is_dir() else Path(run)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype="float32").eval()
    texts = []
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False))
    found = []
    for size in (1, 32):
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
        cpu, began = time.process_time(), time.perf_counter()
        given = classify(texts, function_to_apply="none", batch_size=size, add_special_tokens=False)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        off = max(abs(one["score"] - two) for one, two in zip(given, expected, strict=True))
        found.append({
            "contender": f"pipeline, batches of {size}", "rows": len(texts), "wall s": wall, "CPU s": cpu,
            "rows/s": len(texts) / wall, "largest difference": off,
        })  # fmt: skip
    return found


if __name__ == "__main__":
    main()
