"""The language-model term: its values, and a step's gradient against plain cross-entropy of a causal language model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM

from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.loss_validation import LM_FORMS
from rm_experiments.config.optimizer_schema import OptimizerConfig
from rm_experiments.config.schema import Layout, RunConfig
from rm_experiments.config.validation import check
from rm_experiments.data.tokens import TRUNCATED_REJECTED
from rm_experiments.errors import NonFiniteError
from rm_experiments.modeling import language_head
from rm_experiments.modeling.layouts.answers import answer_tokens
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.runner.prepare import Prepared, prepare
from rm_experiments.training.labels import labelled
from rm_experiments.training.language_loss import LANGUAGE_FORMS, language_losses
from rm_experiments.training.optimizers.groups import parameter_groups
from rm_experiments.training.state import collect_state, collect_values, load_state, write_state
from rm_experiments.training.trainer import Trainer
from tests.modeling.float64 import NothingNarrower
from tests.training.making import make_trainer

Compose = Callable[..., RunConfig]
WORLD = (
    "data.sandbox.num_train_pairs=20", "data.sandbox.num_eval_pairs=4", "train.batch_size=8", "train.layout=padded",
    "optimizer.lr=1", "scheduler=constant", "scheduler.warmup_ratio=0", "train.max_grad_norm=null",
    "model.scratch.hidden_size=16", "model.scratch.intermediate_size=32", "model.scratch.num_heads=2",
    "model.scratch.num_kv_heads=1", "model.scratch.vocab_size=320", "loss=grm", "loss.lm_coefficient=0.3",
)  # fmt: skip


def term(log_pi: list[float], lengths: list[int], label: list[float], **settings: Any) -> list[float]:
    zeros = torch.zeros(len(label), dtype=torch.float64)
    labels = labelled(zeros, zeros, label=torch.tensor(label, dtype=torch.float64))
    values = torch.tensor(log_pi, dtype=torch.float64)
    return language_losses(values, torch.tensor(lengths), labels, LossConfig(**settings)).tolist()


def test_values_by_hand() -> None:
    nls = [math.log(1 + math.exp(-x)) for x in (-2.0, -0.6, 0.8, -0.8)]
    assert term([-20.0, -6.0], [10, 4], [1.0, 0.5]) == pytest.approx(nls[:2])
    assert term([-20.0, -6.0], [10, 4], [1.0, 0.5], lm_beta=0.03) == pytest.approx(
        [math.log(1 + math.exp(0.6)), math.log(1 + math.exp(0.18))]
    )
    assert term([-20.0, -6.0, 0.0], [10, 4, 0], [1.0, 0.5, 1.0], lm_form="cross_entropy") == [2.0, 1.5, 0.0]
    pairs = [-12.0, -20.0, -20.0, -12.0, -12.0, -20.0]
    assert term(pairs, [1] * 6, [1.0, 1.0, 0.75], lm_form="dpo") == pytest.approx(
        [nls[2], nls[3], 0.75 * nls[2] + 0.25 * nls[3]]
    )


def test_an_answer_of_any_length_overflows_nothing() -> None:
    assert term([-1e6, 0.0], [9, 9], [1.0, 1.0]) == [1e5, math.log(2)]


@pytest.mark.parametrize("form", LM_FORMS)
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    log_pi = -5 * torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    number = 3 if LANGUAGE_FORMS[form].both else 6
    zeros = torch.zeros(number, dtype=torch.float64)
    labels = labelled(zeros, zeros, label=torch.linspace(0.5, 1, number, dtype=torch.float64))
    config, lengths = LossConfig(lm_form=form, lm_beta=0.7), torch.arange(1, 7)
    assert torch.autograd.gradcheck(
        lambda x: language_losses(x, lengths, labels, config), log_pi.requires_grad_(), atol=1e-8
    )


def test_a_head_of_its_own_is_no_layer_and_no_reward_head(trainer_of: Callable[..., Trainer]) -> None:
    model = trainer_of().reward_model
    config = OptimizerConfig(name="muon", lr=0.1, layer_decay=0.5, head_lr_ratio=7.0, weight_decay=0.3)
    groups, names = parameter_groups(model, config, model.is_head)
    scales = {
        name: (group["lr_scale"], group["by_muon"], group["weight_decay"])
        for name, group in zip(names, (one for one in groups for _ in one["params"]), strict=True)
    }
    assert scales["language_head.model.lm_head.weight"] == (1.0, False, 0.3)
    assert scales["model.score.weight"] == (7.0, False, 0.3)
    assert scales["model.model.embed_tokens.weight"][0] < 0.5


def test_names_are_those_of_validation() -> None:
    assert tuple(LANGUAGE_FORMS) == LM_FORMS


@pytest.fixture(scope="module")
def settings(compose: Compose) -> RunConfig:
    """To be copied: quicker than to compose them."""
    return compose(*WORLD)


@pytest.fixture(scope="module")
def prepared(settings: RunConfig) -> Prepared:
    """20 pairs: an epoch has steps of 8, 8 and 4. To be read only."""
    return prepare(settings)


@pytest.fixture
def trainer_of(settings: RunConfig, accelerator: Accelerator, prepared: Prepared) -> Callable[..., Trainer]:
    """Trainers in float64 by plain gradient descent, from the same weights and random numbers."""

    def make(*, tokens: int = 10**6, layout: str = "padded", tied: bool = False, **loss: Any) -> Trainer:
        config, own = copy.deepcopy(settings), copy.copy(prepared)
        config.train.micro_batch_tokens, config.train.layout = tokens, Layout(layout)
        config.loss = replace(config.loss, **loss)
        own.model_config = copy.deepcopy(prepared.model_config)
        own.model_config.tie_word_embeddings = tied
        return make_trainer(check(config), own, accelerator, exact=True)

    return make


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.reward_model.named_parameters()}


def plain_gradients(trainer: Trainer, prepared: Prepared, form: str, share: float) -> dict[str, Tensor]:
    """Of the first step's objective, by a causal language model of transformers, each sequence alone."""
    reward_model, pairs = trainer.reward_model, prepared.train
    own: Any = reward_model.language_head
    model = AutoModelForCausalLM.from_config(own.model.config).double()
    model.model.load_state_dict(reward_model.backbone.state_dict())
    model.lm_head.load_state_dict(own.model.lm_head.state_dict())
    head = copy.deepcopy(reward_model.model.score)
    total = torch.zeros((), dtype=torch.float64)
    for pair in trainer.plan.step(0):
        rewards, log_pi, lengths = [], [], []
        for side in (0, 1):
            ids = torch.from_numpy(pairs.sequence(2 * pair + side).astype(np.int64))[None]
            labels = ids.clone()
            labels[:, : pairs.num_prompt_tokens[pair]] = -100
            found = model(input_ids=ids, labels=labels, output_hidden_states=True)
            per_token = cross_entropy(found.logits[0, :-1], labels[0, 1:])
            # That transformers' own loss is this one, if in float32.
            assert float(found.loss.detach()) == pytest.approx(float(per_token.detach()), rel=1e-5)
            length = int((labels[0, 1:] != -100).sum())
            assert length == ids.shape[1] - pairs.num_prompt_tokens[pair] > 0
            log_pi.append(-per_token * length)
            rewards.append(head(found.hidden_states[-1][0, -1])[0])
            lengths.append(length)
        term = {
            "sft": -logsigmoid(0.1 * log_pi[0]), "dpo": -logsigmoid(0.1 * (log_pi[0] - log_pi[1])),
            "cross_entropy": -log_pi[0] / lengths[0],
        }[form]  # fmt: skip
        loss = -logsigmoid(rewards[0] - rewards[1])
        total = total + ((1 - share) * loss + share * term) / len(trainer.plan.step(0))
    total.backward()
    tied = model.config.tie_word_embeddings
    found_by_name = {f"model.{name}": one.grad for name, one in model.named_parameters() if name != "lm_head.weight"}
    found_by_name["model.score.weight"] = head.weight.grad
    return found_by_name if tied else {**found_by_name, "language_head.model.lm_head.weight": model.lm_head.weight.grad}


@pytest.mark.parametrize(
    ("form", "layout", "tokens", "tied"),
    [
        ("sft", "padded", 10**6, False),
        ("sft", "shared_prefix", 200, True),
        ("sft", "packed", 200, False),
        ("dpo", "shared_prefix", 10**6, False),
        ("dpo", "padded", 1, True),
        ("cross_entropy", "shared_prefix", 1, False),
    ],
)
def test_a_step_is_that_of_plain_cross_entropy(
    trainer_of: Callable[..., Trainer], prepared: Prepared, form: str, layout: str, tokens: int, tied: bool
) -> None:
    trainer = trainer_of(lm_form=form, layout=layout, tokens=tokens, tied=tied)
    with NothingNarrower():
        expected = plain_gradients(trainer, prepared, form, 0.3)
        before = weights(trainer)
        assert trainer.step()
    moved = {name: before[name] - value for name, value in weights(trainer).items()}
    assert moved.keys() == expected.keys()
    assert ("language_head.model.lm_head.weight" in moved) is not tied
    for name, value in expected.items():
        assert float((moved[name] - value).abs().max()) < 1e-12, name
        assert float(value.abs().max()) > 1e-6, name


def test_parts_of_the_tokens_add_up(trainer_of: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer_of()
    assert whole.step()
    monkeypatch.setattr(language_head, "_LOGITS", 320 * 7)
    parts = trainer_of()
    assert parts.step()
    one, two = weights(whole), weights(parts)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-14
    assert parts.window.read() == pytest.approx(whole.window.read(), rel=1e-12)


def test_a_loss_of_the_whole_step_takes_the_term_too(trainer_of: Callable[..., Trainer]) -> None:
    alone = trainer_of(name="plackett_luce")
    several = trainer_of(name="plackett_luce", tokens=200)
    plain = trainer_of(tokens=200)
    for one in (alone, several, plain):
        assert one.step()
    first, second, third = weights(alone), weights(several), weights(plain)
    # With two responses it is Bradley-Terry.
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-12
    assert max(float((first[name] - third[name]).abs().max()) for name in first) < 1e-12


def test_the_term_is_logged_beside_the_loss(trainer_of: Callable[..., Trainer]) -> None:
    found = {}
    for form in LM_FORMS:
        trainer = trainer_of(lm_form=form)
        assert trainer.step()
        found[form] = trainer.window.read()
    # Before the first update each of 320 tokens is about as likely.
    assert found["cross_entropy"]["train_lm_loss"] == pytest.approx(math.log(320), abs=0.5)
    assert found["dpo"]["train_lm_loss"] != found["sft"]["train_lm_loss"]
    assert {one["train_loss"] for one in found.values()} == {found["sft"]["train_loss"]}
    assert found["sft"]["train_loss"] == pytest.approx(math.log(2), abs=0.05)
    without = trainer_of(lm_coefficient=0.0)
    assert without.step()
    assert without.window.read().keys() == found["sft"].keys() - {"train_lm_loss"}


@pytest.mark.parametrize("name", ["bradley_terry", "plackett_luce"])
def test_answers_that_a_broken_head_cannot_write_stop_the_step(
    trainer_of: Callable[..., Trainer], prepared: Prepared, name: str
) -> None:
    trainer = trainer_of(name=name, tokens=200)
    assert trainer.reward_model.language_head is not None
    with torch.no_grad():
        trainer.reward_model.language_head.model.lm_head.weight[5] = float("nan")
    with pytest.raises(NonFiniteError, match=r"^step 1, rank 0: non-finite loss in rows ") as raised:
        trainer.step()
    assert sorted(raised.value.rows) == sorted(prepared.train.ids_of_pairs(trainer.plan.step(0)))


def test_state_brings_a_trained_head_back(trainer_of: Callable[..., Trainer], tmp_path: Any) -> None:
    trainer, other = trainer_of(), trainer_of()
    assert trainer.step()
    tensors = collect_state(trainer)
    assert list(tensors["language_head"]) == ["model.lm_head.weight"]
    write_state(tmp_path, tensors, collect_values(trainer, {}))
    assert load_state(tmp_path, other) == []
    head = "language_head.model.lm_head.weight"
    assert torch.equal(weights(other)[head], weights(trainer)[head])
    assert not torch.equal(tensors["language_head"]["model.lm_head.weight"], weights(trainer_of())[head])
    assert "language_head" not in collect_state(trainer_of(tied=True))


def test_the_term_may_be_switched_on_and_off_between_stop_and_going_on(
    trainer_of: Callable[..., Trainer], tmp_path: Any
) -> None:
    for number, (first, second) in enumerate(((0.0, 0.3), (0.3, 0.0))):
        trainer, other = (trainer_of(tied=True, lm_coefficient=one) for one in (first, second))
        assert trainer.step()
        write_state(tmp_path / str(number), collect_state(trainer), collect_values(trainer, {}))
        (line,) = load_state(tmp_path / str(number), other)
        assert line == "the loss has other terms than before, and the current window of training metrics starts anew"
        assert other.step()
        assert ("train_lm_loss" in other.window.read()) is (second > 0)


def test_the_end_of_an_answer_that_was_cut_is_not_learned(prepared: Prepared) -> None:
    pairs = copy.copy(prepared.train)
    pairs.outcome = pairs.outcome.copy()
    pairs.outcome[0] = TRUNCATED_REJECTED
    sequences = np.arange(2)
    batch = padded_batch([pairs.raw_sequence(one) for one in sequences], 0)
    found = answer_tokens(pairs, sequences, torch.arange(2), batch)
    chosen, rejected = (pairs.sequence(one)[pairs.num_prompt_tokens[0] :].tolist() for one in sequences)
    assert found.targets.tolist() == [*chosen, *rejected[:-1]]
    assert found.lengths.tolist() == [len(chosen), len(rejected) - 1]
    assert len(found.rows) == len(found.targets)
