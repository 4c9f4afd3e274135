"""What all tests share: no network, no W&B account, one thread; a tiny tokenizer, a few pairs, small settings."""

from __future__ import annotations

import atexit
import copy
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Before any test module imports torch or a client of a service: they read these once.
for _name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[_name]
_NOWHERE = Path(tempfile.gettempdir()) / f"rm_experiments_tests_{os.getpid()}"
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # The developer's login must not be found: no key, no netrc, no settings file.
    "WANDB_API_KEY": "",
    "NETRC": str(_NOWHERE / "netrc"),
    "WANDB_CONFIG_DIR": str(_NOWHERE / "wandb_config"),
    "WANDB_CACHE_DIR": str(_NOWHERE / "wandb_cache"),
    # Read and tokenized pairs are kept here, not in the developer's cache.
    "XDG_CACHE_HOME": str(_NOWHERE / "cache"),
}

atexit.register(shutil.rmtree, _NOWHERE, ignore_errors=True)

from rm_experiments.data.pairs import PreferencePair  # noqa: E402

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from rm_experiments.config.schema import RunConfig

SMALL = (
    "tracking=none",
    "train.device=cpu",
    "train.precision=fp32",
    "data.sandbox.num_train_pairs=24",
    "data.sandbox.num_eval_pairs=12",
    "model.scratch.hidden_size=16",
    "model.scratch.intermediate_size=32",
    "model.scratch.num_heads=2",
    "model.scratch.num_kv_heads=1",
    "model.scratch.vocab_size=320",
)


@pytest.fixture(scope="session")
def compose() -> Callable[..., RunConfig]:
    """`compose(*overrides)`: the checked config of a run without tracking on the CPU.

    A tiny model on a tiny sandbox world, unless the overrides choose another model or other data.
    """
    import rm_experiments

    @functools.cache
    def once(overrides: tuple[str, ...]) -> RunConfig:
        chosen = {one.partition("=")[0] for one in overrides}
        unfit = [f"{group}." for group in ("model", "data") if group in chosen]
        small = [one for one in SMALL if not any(one.startswith(prefix) for prefix in unfit)]
        return rm_experiments.compose([*small, *overrides])

    # Hydra takes a fifth of a second.
    return lambda *overrides: copy.deepcopy(once(overrides))


@pytest.fixture(scope="session")
def preferences() -> list[dict[str, str]]:
    """Rows of a file: 40 pairs of 20 prompts in two subsets, one of them with markup."""
    return [
        {
            "prompt": f"What is {number // 2}?",
            "chosen": f"It is {number}." + (" </script>" if number == 3 else ""),
            "rejected": "No idea." * (1 + number % 4),
            "subset": "list" if number % 4 < 2 else "sum",
        }
        for number in range(40)
    ]


@pytest.fixture(scope="session")
def evaluated(preferences: list[dict[str, str]]) -> Callable[..., dict[str, Any]]:
    """`evaluated(margins, rows)`: the records of a model with these margins, of all rows or these of `preferences`."""
    import numpy as np

    from rm_experiments.data.pairs import pair_id, prompt_id
    from rm_experiments.evaluation.records import COLUMNS

    def records(margins: Sequence[float], rows: Sequence[int] | None = None) -> dict[str, Any]:
        numbers = list(range(len(preferences)) if rows is None else rows)
        margin = np.array(margins, dtype=np.float64)
        assert len(margin) == len(numbers)
        known = [preferences[one] for one in numbers]
        pairs = [PreferencePair(id=str(at), **one) for at, one in zip(numbers, known, strict=True)]
        texts = {
            "id": [str(one) for one in numbers], "prompt_id": [prompt_id(one) for one in pairs],
            "pair_id": [pair_id(one) for one in pairs], "subset": [one["subset"] for one in known],
        }  # fmt: skip
        ones, zeros = np.ones(len(margin)), np.zeros(len(margin))
        tokens, cut = ones.astype(np.int32), zeros.astype(bool)
        lengths = {f"num_chars_{side}": np.array([len(one[side]) for one in known]) for side in ("chosen", "rejected")}
        columns: dict[str, Any] = {
            **{name: np.array(values, dtype=object) for name, values in texts.items()}, **lengths,
            "reward_chosen": margin / 2, "reward_rejected": -margin / 2, "margin": margin, "target_margin": zeros,
            "weight": ones, "label": ones, "num_tokens_chosen": tokens, "num_tokens_rejected": tokens,
            "truncated_chosen": cut, "truncated_rejected": cut, "group": np.arange(len(margin)),
            "answer_chosen": tokens - 1, "answer_rejected": tokens,
        }  # fmt: skip
        return {name: columns[name] for name in COLUMNS}

    return records


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """`write_run(path, {step: {set: records}}, config, summary)`: a directory as a finished run leaves it.

    `config=None` leaves no config.yaml, `summary=None` no summary.json; `final` is the step of the model in `final/`.
    """
    import yaml

    from rm_experiments.evaluation.metrics import prefixed, record_metrics
    from rm_experiments.evaluation.records import write_records

    def write(
        path: Path, evaluations: dict[int, dict[str, Any]], config: dict[str, Any] | None = None,
        summary: dict[str, Any] | None = None, final: int | None = None,
    ) -> Path:  # fmt: skip
        path.mkdir(parents=True)
        lines: list[dict[str, Any]] = []
        for step, sets in evaluations.items():
            values: dict[str, float] = {}
            for name, records in sets.items():
                write_records(records, path / "eval" / f"step_{step:08d}" / f"{name}.parquet")
                values |= prefixed(record_metrics(records, 50), None if name == "eval" else name)
            if step:
                lines.append({"step": step, "kind": "train", "train_loss": 0.7, "train_accuracy": 0.5})
            lines.append({"step": step, "kind": "eval", **values})
        (path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
        if config is not None:
            text = yaml.safe_dump({"defaults": ["run_schema"], **config}, allow_unicode=True, sort_keys=False)
            (path / "config.yaml").write_text(text, encoding="utf-8")
        if summary is not None:
            (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        if final is not None:
            (path / "final").mkdir()
            (path / "final" / "MANIFEST.json").write_text(json.dumps({"step": final}), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def pairs() -> list[PreferencePair]:
    """Text prompts and answers: of different lengths, with and without margin and subset; one prompt twice."""
    rows: list[tuple[str, str, str, float | None, str | None]] = [
        ("What is a river?", "Water that flows to the sea.", "A stone.", 1.0, "nature"),
        ("What is a river?", "A stream.", "No idea, and I would rather talk about trains.", None, "nature"),
        ("Name two fruits.", "Apple and pear.", "Hammer.", 0.5, None),
        ("Größe? 🙂", "Straße — naïve café.", "日本語", 2.0, "unicode"),
        ("", "An answer without a question.", "", None, None),
        ("Say 'a'.", "a", "b", None, "short"),
        ("Repeat: " + "again and " * 12, "again", "and again " * 9, 0.0, "long"),
    ]
    return [
        PreferencePair(
            id=f"row-{number}", prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, subset=subset
        )
        for number, (prompt, chosen, rejected, margin, subset) in enumerate(rows)
    ]


@pytest.fixture(scope="session")
def chat_pairs() -> list[PreferencePair]:
    """Prompts and answers as turns: with a system turn, over several rounds, and an answer of three turns."""
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "What is a river?"}
    answer = {"role": "assistant", "content": "Water."}
    more = {"role": "user", "content": "More, please."}
    long_answer = {"role": "assistant", "content": "Water that flows to the sea."}
    return [
        PreferencePair(id="system", prompt=[system, user], chosen=[long_answer], rejected=[answer]),
        PreferencePair(id="rounds", prompt=[user, answer, more], chosen=[long_answer], rejected=[answer]),
        PreferencePair(id="turns", prompt=[user], chosen=[answer, more, long_answer], rejected=[answer]),
    ]


@pytest.fixture(scope="session")
def tokenizer(pairs: list[PreferencePair]) -> PreTrainedTokenizerBase:
    """A byte-level BPE of 320 entries at most, prepared as a run prepares it. To be read only."""
    from rm_experiments.data.templates import prepare_tokenizer
    from rm_experiments.modeling.tokenizer import train_tokenizer

    texts = (f"User: {pair.prompt}\n\nAssistant: {answer}" for pair in pairs for answer in (pair.chosen, pair.rejected))
    trained = train_tokenizer(texts, vocab_size=320)
    prepare_tokenizer(trained)
    return trained


@pytest.fixture(scope="session")
def trained_run(compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of four steps with checkpoints and evaluations at 2 and 4. To be read only."""
    import rm_experiments

    path = tmp_path_factory.mktemp("trained") / "run"
    # Neither a multiple of anything, nor all in one forward pass; a limit that cuts some pairs.
    overrides = (
        f"run_dir={path}", "seed=3", "train.max_steps=4", "train.batch_size=8", "eval=steps", "eval.every_steps=2",
        "checkpoint.every_steps=2", "checkpoint.keep_last=2", "checkpoint.keep_best=false",
        "data.sandbox.num_eval_pairs=21", "data.max_length=40", "eval.micro_batch_tokens=300",
    )  # fmt: skip
    assert rm_experiments.train(compose(*overrides)).status == "finished"
    return path


@pytest.fixture
def accelerator(compose: Callable[..., RunConfig]) -> Accelerator:
    """One process on the CPU in float32."""
    from rm_experiments.runner.prepare import make_accelerator

    return make_accelerator(compose().train)
