"""One family, all weights, LoRA or a probe: trained three steps, its layouts compared, saved, and loaded by others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rm_experiments.config.adapter_schema import AdapterConfig
from rm_experiments.config.schema import Layout, ModelConfig
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.errors import ConfigError
from rm_experiments.modeling.adapters import add_adapter
from rm_experiments.modeling.directory import copied_weights, plain_model, plain_rewards, save_model
from rm_experiments.modeling.features import Pooling, features_of, find_pooling
from rm_experiments.modeling.layouts.batch import FeatureBatch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.layouts.layout import Batcher
from rm_experiments.modeling.loading import load_saved, open_saved
from rm_experiments.modeling.reward_model import RewardModel, build_reward_model, load_model_config
from tests.modeling.float64 import NothingNarrower

NUM_STEPS = 3
MODES = {
    "full": AdapterConfig(),
    "LoRA": AdapterConfig(name="lora", rank=2, alpha=8, dropout=0.0, target_modules="all-linear"),
    "probe": AdapterConfig(name="probe"),
}
"""What is trained."""
_LAYOUTS = (Layout.padded, Layout.packed, Layout.shared_prefix)


@dataclass(kw_only=True)
class Checked:
    """What was found, as largest differences."""

    rewards: np.ndarray[Any, Any]
    """[2 n] after training, by the layout that was trained with."""
    moved: float
    """How much training changed the rewards."""
    trained_in: Layout
    layouts: dict[Layout, tuple[float, float] | None] = field(default_factory=dict)
    """Of rewards and of gradients against `padded` in float64, relative to the largest; None: not supported."""
    plain: float = 0.0
    """Of a reward after loading by plain transformers (peft), each text alone."""
    plain_batch: float = 0.0
    """The same with all texts in one batch."""
    own: float = 0.0
    """Of a reward after loading by our own tools."""
    from_features: float = 0.0
    """Of a probe: of a reward by the head alone, as it is trained, against the whole model."""


def check_family(
    base: Path, mode: str, tokenizer: PreTrainedTokenizerBase, pairs: TokenizedPairs, directory: Path
) -> Checked:
    """Train, compare layouts, save into `directory`, load again.

    Args:
        base: of `models.write_base`.
    """
    config = ModelConfig(name_or_path=str(base))
    built = build_reward_model(config, load_model_config(config, tokenizer), 0)
    torch.manual_seed(1)
    adapter = add_adapter(built, MODES[mode])
    model = built.reward_model
    pristine = copy.deepcopy(model)
    pooling = find_pooling(model, 0) if mode == "probe" else None
    batcher, _ = choose_layout(model, Layout.auto, 0, False)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    before = _rewards(model, batcher, pairs)
    features = None if pooling is None else _features(model, batcher, pairs, pooling)
    for _ in range(NUM_STEPS):
        _backward(_rewards(model, batcher, pairs) if features is None else model(features))
        optimizer.step()
        optimizer.zero_grad()
        model.release()
    model.eval()
    with torch.no_grad():
        rewards = _rewards(model, batcher, pairs)
        alone = rewards if features is None else model(features)
    found = Checked(
        rewards=rewards.double().numpy(), moved=_largest(rewards, before), trained_in=batcher.layout,
        from_features=_largest(alone, rewards),
    )  # fmt: skip
    pristine.load_state_dict(model.state_dict())
    found.layouts = _compare_layouts(pristine, pairs)
    save_model(directory, model, adapter, tokenizer, torch.float32, copied_weights(model, adapter))
    loaded, _ = plain_model(directory, adapter is not None)
    sequences = [pairs.sequence(one).tolist() for one in range(2 * len(pairs))]
    found.plain = float(np.abs(plain_rewards(loaded, tokenizer, sequences, 1) - found.rewards).max())
    found.plain_batch = float(np.abs(plain_rewards(loaded, tokenizer, sequences) - found.rewards).max())
    own = load_saved(open_saved(str(directory))).eval()
    with torch.no_grad():
        again = _rewards(own, choose_layout(own, Layout.auto, 0, False)[0], pairs)
    found.own = _largest(again, rewards)
    return found


def _rewards(model: RewardModel, batcher: Batcher, pairs: TokenizedPairs) -> Tensor:
    """[2 n], in the order of the pairs, in one forward pass."""
    items = batcher.items(pairs, np.arange(len(pairs)), 10**6, keep_pairs=True)
    micro = batcher.micro_batch(pairs, items)
    return model(micro.batch)[micro.places].index_select(0, torch.from_numpy(np.argsort(micro.sequences)))


def _features(model: RewardModel, batcher: Batcher, pairs: TokenizedPairs, pooling: Pooling) -> FeatureBatch:
    """Of the sequences in the order of the pairs, by the whole backbone."""
    items = batcher.items(pairs, np.arange(len(pairs)), 10**6, keep_pairs=True)
    micro = batcher.micro_batch(pairs, items)
    assert not isinstance(micro.batch, FeatureBatch)
    model.eval()
    with torch.no_grad():
        found = features_of(model, micro.batch, pooling)[micro.places]
    return FeatureBatch(features=found.index_select(0, torch.from_numpy(np.argsort(micro.sequences))))


def _backward(rewards: Tensor) -> None:
    chosen, rejected = rewards.view(-1, 2).unbind(1)
    (-torch.nn.functional.logsigmoid(chosen - rejected).mean()).backward()


def _compare_layouts(model: RewardModel, pairs: TokenizedPairs) -> dict[Layout, tuple[float, float] | None]:
    """Every layout against `padded`, in float64."""
    expected: tuple[Tensor, dict[str, Tensor]] | None = None
    found: dict[Layout, tuple[float, float] | None] = {}
    for layout in _LAYOUTS:
        # The last one may change the model itself: copies of adapters take longer than all the rest.
        one = (model if layout is _LAYOUTS[-1] else copy.deepcopy(model)).double().eval()
        try:
            batcher, _ = choose_layout(one, layout, 0, False)
        except ConfigError:
            found[layout] = None
            continue
        with NothingNarrower():
            rewards = _rewards(one, batcher, pairs)
        _backward(rewards)
        one.release()
        gradients = {name: value.grad for name, value in one.named_parameters() if value.grad is not None}
        if expected is None:
            expected = rewards.detach(), gradients
        largest = max(float(value.abs().max()) for value in expected[1].values())
        assert gradients.keys() == expected[1].keys()
        off = max(_largest(value, expected[1][name]) for name, value in gradients.items())
        found[layout] = _largest(rewards, expected[0]) / float(expected[0].abs().max()), off / largest
    return found


def _largest(one: Tensor, two: Tensor) -> float:
    return float((one - two).detach().abs().max())


def table(rows: Sequence[tuple[str, str, Checked]]) -> str:
    """As in docs/models.md."""
    header = ["Family", "Trained", "Layouts", "Rewards against padded", "Gradients", "Reload, alone", "in one batch",
              "by rm-eval", "Head alone"]  # fmt: skip
    lines = [header, ["---", "---", "---", *["--:"] * 6]]
    for family, mode, one in rows:
        supported = {layout: values for layout, values in one.layouts.items() if values is not None}
        names = ", ".join(layout.value for layout in supported)
        worst = [max(values[number] for values in supported.values()) for number in (0, 1)]
        figures = [_figure(value) if len(supported) > 1 else "" for value in worst]
        reloads = [_figure(value) for value in (one.plain, one.plain_batch, one.own)]
        alone = _figure(one.from_features) if mode == "probe" else ""
        lines.append([family, mode, names, *figures, *reloads, alone])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"
