"""A saved model from Python: the rewards are those of the run, alone, in a batch, as pairs or as many answers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

import rm_experiments
from rm_experiments import RewardModel
from rm_experiments.config.compose import load_config_yaml
from rm_experiments.config.schema import RunConfig
from rm_experiments.data.answers import Answers, answers_of
from rm_experiments.data.pairs import PreferencePair, answer_messages, pair_id, prompt_messages
from rm_experiments.data.sandbox import generate
from rm_experiments.errors import CheckpointError, ConfigError, DataError
from rm_experiments.evaluation.records import Records, read_records
from rm_experiments.scoring.model import Scores


@pytest.fixture(scope="module")
def model(trained_run: Path) -> RewardModel:
    return RewardModel.load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def wide(trained_run: Path) -> RewardModel:
    """The same, in which nothing is cut."""
    return RewardModel.load(trained_run, device="cpu", max_length=300)


@pytest.fixture(scope="module")
def records(trained_run: Path) -> Records:
    """Of the last evaluation in training."""
    return read_records(trained_run / "eval" / "step_00000004" / "eval.parquet")


@pytest.fixture(scope="module")
def pairs(trained_run: Path, records: Records) -> list[PreferencePair]:
    """The evaluation pairs, in the order of the records."""
    sandbox = load_config_yaml(trained_run / "config.yaml").data.sandbox
    assert sandbox is not None
    known = {pair_id(one): one for one in generate(sandbox).eval}
    return [known[one] for one in records["pair_id"]]


def rewards_of(scores: list[Scores]) -> np.ndarray:
    return np.array([one.rewards for one in scores])


def test_rewards_are_those_of_the_run(model: RewardModel, pairs: list[PreferencePair], records: Records) -> None:
    expected = np.stack([records["reward_chosen"], records["reward_rejected"]], axis=1)
    # Some pairs are cut, both sides alike.
    assert records["truncated_chosen"].any()
    encoded = model.encode([answers_of(one) for one in pairs])
    assert rewards_of(model.compute(encoded)) == pytest.approx(expected, abs=1e-6)
    one_by_one = [model.score(one.prompt, [one.chosen, one.rejected]) for one in pairs]
    assert np.array(one_by_one) == pytest.approx(expected, abs=1e-6)


def test_an_answer_has_its_reward_whatever_is_beside_it(wide: RewardModel, pairs: list[PreferencePair]) -> None:
    short = pairs[:8]
    alone = [wide.score(one.prompt, one.chosen) for one in short]
    assert wide.score([one.prompt for one in short], [one.chosen for one in short]) == pytest.approx(alone, abs=1e-6)
    turns = [[*prompt_messages(one.prompt), *answer_messages(one.chosen)] for one in short]
    assert wide.score_messages(turns) == pytest.approx(alone, abs=1e-6)
    assert wide.score_messages(turns[0]) == pytest.approx(alone[0], abs=1e-6)
    # The prompt of all rows and one answer to all: equal prompts are computed once, and no row gets another's reward.
    rows = [Answers(prompt=one.prompt, answers=[two.chosen]) for one in short[:3] for two in short[:4]]
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    shuffled = rewards_of(wide.compute(wide.encode([rows[at] for at in order])))[:, 0]
    each = [wide.score(row.prompt, row.answers[0]) for row in rows]
    assert shuffled[np.argsort(order)] == pytest.approx(each, abs=1e-6)
    assert len(set(np.round(each, 7))) > 6


def test_small_passes_and_other_layouts_give_the_same(trained_run: Path, model: RewardModel) -> None:
    answers = [f"word {number} and so on" for number in range(9)]
    expected = model.score("Say something.", answers)
    for layout, budget in (("padded", 64), ("packed", 64), ("shared_prefix", 1)):
        other = RewardModel.load(trained_run / "final", device="cpu", layout=layout, micro_batch_tokens=budget)
        assert other.score("Say something.", answers) == pytest.approx(expected, abs=1e-6)
        assert (other.token_budget, other.precision) == (budget, "fp32")


def test_what_is_computed_once(wide: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[int] = []
    forward = type(wide._network).forward
    monkeypatch.setattr(
        type(wide._network), "forward",
        lambda self, batch: (tokens.append(batch.num_tokens), forward(self, batch))[1],
    )  # fmt: skip
    prompt = "One prompt that is asked of everybody here"
    encoded = wide.encode([Answers(prompt=prompt, answers=[one]) for one in ("a", "b", "a", "c c")])
    found = rewards_of(wide.compute(encoded))[:, 0]
    assert found[0] == found[2]
    lengths = [len(one.ids[0]) for one in encoded]
    shared = encoded[0].num_prompt_tokens
    assert shared > 5
    # The prompt and the equal answer once each; more may be shared than the prompt, which ends before its last word.
    assert sum(tokens) <= lengths[0] + lengths[1] + lengths[3] - 2 * shared


def test_progress_and_nothing_to_do(model: RewardModel) -> None:
    seen: list[int] = []
    encoded = model.encode([Answers(prompt="a", answers=["b", "c"]), Answers(prompt="d", answers=["e"])])
    model.compute(encoded, seen.append)
    assert sum(seen) == 3
    assert model.compute([]) == []
    assert model.score("a", []) == model.score([], []) == []


def test_an_ensemble_tells_how_far_its_heads_are_apart(compose: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = compose(f"run_dir={tmp_path / 'run'}", "loss=ensemble", "train.max_steps=1", "checkpoint.final=last")
    rm_experiments.train(config)
    model = RewardModel.load(tmp_path / "run", device="cpu")
    (scores,) = model.compute(model.encode([Answers(prompt="Hi", answers=["Hello!", "No."])]))
    heads = np.array(scores.heads)
    assert heads.shape == (2, len(model.heads))
    assert scores.rewards == pytest.approx(heads.mean(axis=1).tolist(), abs=1e-12)
    assert scores.sds == pytest.approx(heads.std(axis=1).tolist(), abs=1e-12)
    assert min(scores.sds) > 0


def test_wrong_calls_are_one_line(model: RewardModel, trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="response: one for 2 prompts; give one to each"):
        model.score(["a", "b"], "c")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="response: 1 for 2 prompts; give one to each"):
        model.score(["a", "b"], ["c"])
    with pytest.raises(CheckpointError, match="no such directory; name a model directory, a run or a Hub id"):
        RewardModel.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"holds 2 models; name one, such as .*step_00000004$"):
        RewardModel.load(trained_run / "checkpoints")
    with pytest.raises(
        ConfigError, match=r"data.overlength=cut: one of truncate_prompt, truncate_response, drop, error"
    ):
        RewardModel.load(trained_run, overlength="cut")
    with pytest.raises(ConfigError, match=r"train.device=tpu: one of auto, cuda, mps, cpu is allowed"):
        RewardModel.load(trained_run, device="tpu")
    with pytest.raises(ConfigError, match=r"eval.micro_batch_tokens=0: must be a whole number of at least 1, or auto"):
        RewardModel.load(trained_run, device="cpu", micro_batch_tokens=0)
    strict = RewardModel.load(trained_run, device="cpu", overlength="error", max_length=12)
    with pytest.raises(DataError, match=r"row 0: \d+ tokens exceed data.max_length=12"):
        strict.score("a b c d e f g h i j k l m n o p q", "r")


def test_turns_are_read_as_in_files(wide: RewardModel) -> None:
    call = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": None}}}]
    calling = {"role": "assistant", "content": None, "tool_calls": call}
    plain = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**call[0], "function": {"name": "f", "arguments": {"x": 1}}}],
    }
    assert wide.score("a", [calling]) == wide.score("a", [plain])
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert wide.score_messages(parts) == wide.score_messages(shared) == wide.score("a", "b")
    assert wide.score("a", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]) == wide.score(
        "a", "b"
    )
    for wrong, message in ((None, "has no answer|is null"), (5, "row 0: column 'response' is the number 5")):
        with pytest.raises(DataError, match=message):
            wide.score("a", wrong)  # type: ignore[call-overload]
    with pytest.raises(DataError, match="row 0: its dialogue ends with a turn of the role user"):
        wide.score_messages([{"role": "user", "content": "a"}])


def test_models_of_different_precision_share_a_process(trained_run: Path, model: RewardModel) -> None:
    # A trainer's own state, as in a script that loads a model for its rewards.
    Accelerator(cpu=True, mixed_precision="no")
    before = model.score("Say hi.", "Hi!")
    half = RewardModel.load(trained_run, device="cpu", precision="bf16")
    rounded = half.score("Say hi.", "Hi!")
    assert (model.precision, half.precision) == ("fp32", "bf16")
    assert model.score("Say hi.", "Hi!") == before
    assert 1e-7 < abs(rounded - before) < 0.05
    assert AcceleratorState().mixed_precision == "no"


def test_a_reward_that_is_no_number_is_refused(trained_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(trained_run / "final", broken)
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"] *= float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    model = RewardModel.load(broken, device="cpu")
    with pytest.raises(DataError, match="row 0: its reward is not finite; try precision='fp32'"):
        model.score("a", "b")
