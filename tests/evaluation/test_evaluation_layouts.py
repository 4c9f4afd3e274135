"""Records of an evaluation do not depend on the layout: ordinary pairs, and those of several responses with ties."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rm_experiments.config.schema import Layout, RunConfig
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.evaluation.evaluate import evaluate
from rm_experiments.evaluation.records import COLUMNS
from rm_experiments.modeling.layouts.batch import Batch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import RewardModel, build_reward_model
from rm_experiments.runner.prepare import Prepared, prepare

FLAT = (Layout.packed, Layout.shared_prefix)
COMPUTED = ("reward_chosen", "reward_rejected", "margin")
BUDGETS = (1, 60, 333, 1_000_000)


def responses(prompt: int) -> dict[str, Any]:
    """Four responses: the first two of even prompts tie; the prompts grow, one is empty."""
    texts = ["no", "yes", "well yes", "yes, and more of it"][: 2 + prompt % 3]
    return {
        "prompt": f"question {prompt} " * prompt, "responses": texts,
        "scores": [prompt % 2, 1, 2, 3][: len(texts)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def prepared(compose: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(responses(number)) + "\n" for number in range(9)), encoding="utf-8")
    return {
        "pairs": prepare(compose("data.sandbox.num_eval_pairs=25")),
        "responses": prepare(compose("data=local", f"data.train={path}", f"data.eval={path}")),
    }


class Counted(RewardModel):
    """Knows the sizes of its forward passes."""

    tokens: list[int]

    def forward(self, batch: Batch) -> torch.Tensor:
        self.tokens.append(batch.num_tokens)
        return super().forward(batch)


@pytest.fixture(scope="module")
def evaluated(
    compose: Callable[..., RunConfig], prepared: dict[str, Prepared]
) -> Callable[[Accelerator, str, Layout, int], tuple[dict[str, np.ndarray], list[int]]]:
    """Records, and the tokens of each forward pass."""

    def run(
        accelerator: Accelerator, name: str, layout: Layout, budget: int
    ) -> tuple[dict[str, np.ndarray], list[int]]:
        built = build_reward_model(compose().model, prepared[name].model_config, 0)
        reward_model = Counted(built.reward_model.model)
        reward_model.tokens = []
        batcher, _ = choose_layout(reward_model, layout, int(prepared[name].tokenizer.pad_token_id), False)
        assert batcher.layout is layout
        reward_model.tokens = []
        records = evaluate(accelerator, reward_model, prepared[name].evaluation["eval"], batcher, budget)
        return records, reward_model.tokens

    return run


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("layout", FLAT)
@pytest.mark.parametrize("name", ["pairs", "responses"])
def test_records_are_those_of_padded_rows(
    accelerator: Accelerator, prepared: dict[str, Prepared], evaluated: Callable[..., Any], name: str,
    layout: Layout, budget: int,
) -> None:  # fmt: skip
    expected, _ = evaluated(accelerator, name, Layout.padded, 200)
    records, _ = evaluated(accelerator, name, layout, budget)
    assert list(records) == list(COLUMNS)
    assert np.ptp(expected["reward_chosen"]) > 0.01
    for column in COLUMNS:
        if column in COMPUTED:
            assert records[column] == pytest.approx(expected[column], abs=1e-6), column
        else:
            assert records[column].tolist() == expected[column].tolist(), column
    if name == "responses":
        assert {0.5, 1.0} == set(records["label"].tolist())
        assert len(set(records["weight"].round(6).tolist())) == 3
        # One response is one number, in however many pairs it is.
        rewards: dict[bytes, set[float]] = {}
        pairs = prepared[name].evaluation["eval"]
        for pair in range(len(pairs)):
            for side, column in enumerate(COMPUTED[:2]):
                sequence = pairs.sequence(2 * pair + side).tobytes()
                rewards.setdefault(sequence, set()).add(float(records[column][pair]))
        assert max(max(values) - min(values) for values in rewards.values()) <= 1e-6


def shared_tokens(pairs: TokenizedPairs) -> int:
    """Tokens of all pairs, what the sequences of a prompt begin with and equal sequences counted once."""
    total = 0
    for prompt in set(pairs.prompts.tolist()):
        members = np.flatnonzero(pairs.prompts == prompt)
        distinct = {tuple(pairs.sequence(2 * one + side).tolist()) for one in members for side in (0, 1)}
        longest = min(map(len, distinct)) - 1 if len(distinct) > 1 else 0
        common = max(size for size in range(longest + 1) if len({one[:size] for one in distinct}) == 1)
        total += common + sum(len(one) - common for one in distinct)
    return total


@pytest.mark.parametrize("name", ["pairs", "responses"])
def test_nothing_is_computed_that_a_layout_spares(
    accelerator: Accelerator, prepared: dict[str, Prepared], evaluated: Callable[..., Any], name: str
) -> None:
    pairs = prepared[name].evaluation["eval"]
    tokens = {layout: evaluated(accelerator, name, layout, 333)[1] for layout in (Layout.padded, *FLAT)}
    assert sum(tokens[Layout.packed]) == int(pairs.lengths.sum()) < sum(tokens[Layout.padded])
    assert sum(tokens[Layout.shared_prefix]) == shared_tokens(pairs) < sum(tokens[Layout.packed])
    for layout in tokens:
        assert max(tokens[layout]) <= 333
    # The fullest comes first, so that running out of memory shows at once.
    for layout in FLAT:
        assert tokens[layout] == sorted(tokens[layout], reverse=True)


@pytest.mark.parametrize("layout", FLAT)
def test_model_is_left_as_it_was(
    compose: Callable[..., RunConfig], accelerator: Accelerator, prepared: dict[str, Prepared], layout: Layout
) -> None:
    one = prepared["pairs"]
    reward_model = build_reward_model(compose().model, one.model_config, 0).reward_model.train()
    batcher, _ = choose_layout(reward_model, layout, int(one.tokenizer.pad_token_id), False)
    before = {name: value.clone() for name, value in reward_model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(accelerator, reward_model, one.evaluation["eval"], batcher, 500)
    assert {module.training for module in reward_model.modules()} == {True}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in reward_model.state_dict().items())
    # Gradients can be computed afterwards: nothing of inference mode is left in the model.
    batch = batcher.micro_batch(one.train, batcher.items(one.train, np.arange(3), 500, keep_pairs=True)).batch
    reward_model(batch).sum().backward()
    reward_model.release()
    assert all(parameter.grad is not None for parameter in reward_model.parameters())
