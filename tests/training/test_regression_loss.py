"""Scores of single answers, a head for each attribute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import rm_experiments
from rm_experiments.config.heads import SINGLE, Heads, heads_of
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.schema import RunConfig
from rm_experiments.data.sandbox.annotators import ratings
from rm_experiments.data.sandbox.tasks import gold_reward
from rm_experiments.data.sandbox.world import iter_train
from rm_experiments.evaluation.evaluate import objective_of
from rm_experiments.evaluation.metrics import metrics
from rm_experiments.evaluation.records import SCORES, make_records, read_records
from rm_experiments.runner.prepare import prepare
from rm_experiments.training.labels import labelled
from rm_experiments.training.losses import losses_of

Compose = Callable[..., RunConfig]
CONFIG = LossConfig(name="regression")


def matrix(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_squared_errors_by_hand() -> None:
    nan = float("nan")
    pairs = labelled(
        matrix([1, 2], [0, 0], [5, 5]), matrix([0, 1], [1, 1], [5, 5]),
        scores_chosen=matrix([3, 2], [nan, 2], [nan, nan]), scores_rejected=matrix([0, 4], [nan, nan], [nan, nan]),
    )  # fmt: skip
    assert losses_of(pairs, CONFIG).tolist() == [(4 + 0 + 0 + 9) / 4, 4, 0]
    single = labelled(matrix([1.0])[0], matrix([0.5])[0], scores_chosen=matrix([2]), scores_rejected=matrix([0]))
    assert losses_of(single, CONFIG).tolist() == [(1 + 0.25) / 2]
    # Nothing to compare with: no scores, or a model of which the sum alone is known.
    assert losses_of(labelled(matrix([1.0])[0], matrix([0.5])[0]), CONFIG).tolist() == [0]
    alone = labelled(matrix([1.0])[0], matrix([0.5])[0], scores_chosen=matrix([1, 2]), scores_rejected=matrix([1, 2]))
    assert losses_of(alone, CONFIG).tolist() == [0]


def test_the_metric_is_left_out_where_no_score_is_known(compose: Compose) -> None:
    """0 would be the best value there is."""
    prepared = prepare(compose("data.sandbox.attributes=true", "loss=regression"))
    pairs = prepared.evaluation["eval"]
    heads = Heads(kind="attributes", names=("quality", "length"), weights=(1.0, 0.0))
    records = make_records(pairs, np.zeros((2 * len(pairs), 2)), heads)
    objective = objective_of(CONFIG)
    scores = np.stack([records["scores_chosen"], records["scores_rejected"]], axis=1)
    assert metrics(records, objective, 10)["objective"] == pytest.approx((scores**2).mean())
    # Half of the pairs are unknown: the mean is over the others.
    some = {name: np.where(np.arange(len(pairs))[:, None] % 2, np.nan, records[name]) for name in SCORES}
    known = (scores[::2] ** 2).mean()
    assert metrics({**records, **some}, objective, 10)["objective"] == pytest.approx(known)
    for lacking in (
        {name: value for name, value in records.items() if name not in SCORES},
        {**records, **{name: records[name][:, :1] for name in SCORES}},
    ):
        assert "objective" not in metrics(lacking, objective, 10)


def test_unknown_scores_have_no_gradient() -> None:
    scores = matrix([3, float("nan")])
    rewards = [matrix([1, 2]).requires_grad_() for _ in range(2)]

    def objective(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return losses_of(labelled(chosen, rejected, scores_chosen=scores, scores_rejected=scores), CONFIG)

    assert torch.autograd.gradcheck(objective, tuple(rewards))
    (gradient,) = torch.autograd.grad(objective(*rewards).sum(), rewards[0])
    assert gradient.tolist() == [[2 * (1 - 3) / 2, 0.0]]


def test_the_reward_is_the_heads_weighted_sum(compose: Compose) -> None:
    config = compose("loss=regression", "data.sandbox.attributes=true", "loss.attribute_weights=[2,-1]")
    heads = heads_of(config)
    assert (heads.kind, heads.names, heads.weights) == ("attributes", ("quality", "length"), (2.0, -1.0))
    assert heads_of(compose("loss=regression", "data.sandbox.attributes=true")).weights == (0.5, 0.5)
    one = compose("loss=regression", "data=local", "data.train=x", "data.columns.attributes=[score]")
    assert heads_of(one) == SINGLE


def test_ratings_of_the_sandbox_by_hand(compose: Compose) -> None:
    sandbox = compose("data.sandbox.label_scale=4").data.sandbox
    assert sandbox is not None
    pair = next(iter_train(sandbox))
    prompt, answer = str(pair.prompt), str(pair.chosen)
    gold = gold_reward(prompt, answer)
    assert ratings(sandbox, prompt, answer, 0.5) == [pytest.approx(gold), len(answer.split()) / 10]
    assert ratings(sandbox, prompt, answer, 0.75)[0] == pytest.approx(gold + np.log(3) / 4, abs=1e-3)


def test_a_run_learns_each_attribute_by_its_own_head(compose: Compose, tmp_path: Path) -> None:
    config = compose(
        "loss=regression", "data.sandbox.attributes=true", "loss.attribute_weights=[1,0]", "train.max_steps=40",
        "data.sandbox.num_train_pairs=200", "data.sandbox.num_eval_pairs=40", "train.batch_size=16",
        "optimizer.lr=5e-3", "eval=start_end",
    )  # fmt: skip
    config.run_dir = str(tmp_path / "run")
    result = rm_experiments.train(config)
    records = read_records(tmp_path / "run" / "eval" / "step_00000040" / "eval.parquet")
    before = read_records(tmp_path / "run" / "eval" / "step_00000000" / "eval.parquet")
    assert np.array_equal(records["reward_chosen"], records["heads_chosen"][:, 0])
    errors = [
        float(np.mean([(one[f"heads_{side}"] - one[f"scores_{side}"]) ** 2 for side in ("chosen", "rejected")]))
        for one in (before, records)
    ]
    assert errors[1] < errors[0] / 2
    # The metric is the mean over both sides and attributes.
    assert result.metrics["eval_objective"] == pytest.approx(errors[1], rel=1e-6)
