"""The trainers that are compared: ours and TRL's RewardTrainer, on the same weights, pairs, optimizer and precision."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from measuring import DTYPES, Moment
from torch import Tensor
from workloads import EOS, PAD, FixedPlan, as_dataset, make_model, make_pairs, make_plan

from rm_experiments.config.schema import Layout, RunConfig
from rm_experiments.data.tokens import TokenizedPairs
from rm_experiments.modeling.layouts.batch import padded_batch
from rm_experiments.modeling.layouts.choice import choose_layout
from rm_experiments.modeling.reward_model import RewardModel
from rm_experiments.training.optimizers.build import build_optimizer
from rm_experiments.training.trainer import Trainer

LR = 1e-4
CHECKED = 3
"""Steps whose losses are compared before anything is timed."""
WARM_UP = 1
"""Steps before the clock starts, in every round."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a process runs."""

    contender: str
    """A name in `CONTENDERS`."""
    workload: str
    model: str
    device: str
    precision: str
    pairs_per_step: int
    steps: int
    """Timed steps of a round."""
    threads: int = 1
    weights: str = "fp32"
    """Type of the weights and of the optimizer's state."""
    budget: int | None = None
    """Tokens of our forward passes; None: what `auto` finds."""
    pairs_per_pass: int | None = None
    """Pairs of a forward pass of the others; None: all of the step."""

    def as_row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def pairs(self) -> TokenizedPairs:
        """The same for every contender."""
        return make_pairs(self.workload, self.pairs_per_step * (WARM_UP + self.steps))

    def plan(self, pairs: TokenizedPairs) -> FixedPlan:
        """The warm-up takes the same pairs in either order, and so do all timed steps together."""
        return make_plan(pairs, self.pairs_per_step, CONTENDERS[self.contender].by_length)

    def passes(self) -> int:
        """Forward passes of a step of the others."""
        return self.pairs_per_step // (self.pairs_per_pass or self.pairs_per_step)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to train."""

    kind: type[Ours] | type[Trl] | type[Plain]
    layout: Layout = Layout.auto
    """Of ours."""
    checkpointing: bool = False
    by_length: bool = False


def make(setting: Setting) -> Ours | Trl | Plain:
    """Ready to train."""
    torch.set_num_threads(setting.threads)
    return CONTENDERS[setting.contender].kind(setting)


class Ours:
    """The product's Trainer on a fixed plan."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.model = make_model(setting.model, setting.device, DTYPES[setting.weights])
        self.reward_model = RewardModel(self.model)
        config = RunConfig()
        config.optimizer.lr, config.scheduler.name = LR, "constant"
        config.train.micro_batch_tokens = setting.budget or "auto"
        mixed = "bf16" if setting.precision == "bf16" else "no"
        self.accelerator = Accelerator(mixed_precision=mixed, cpu=setting.device == "cpu")
        layout = CONTENDERS[setting.contender].layout
        self.batcher, self.note = choose_layout(self.reward_model, layout, PAD, attention_is_set=False)
        self.pairs = setting.pairs()
        self.plan = setting.plan(self.pairs)
        self.trainer = Trainer(
            accelerator=self.accelerator, reward_model=self.reward_model,
            built=build_optimizer(self.reward_model, config.optimizer), pairs=self.pairs, plan=self.plan,
            max_steps=10**9, batcher=self.batcher, config=config,
        )  # fmt: skip

    def first_losses(self, count: int) -> list[float]:
        """Mean losses of the first steps. The plan begins anew afterwards."""
        losses = []
        for _ in range(self.plan.steps_per_epoch):
            self.trainer.step()
            losses.append(self.trainer.window.read()["train_loss"])
            self.trainer.window.reset()
        return losses[:count]

    def train(self) -> Moment:
        """Seconds of a round's steps, after the warm-up; the training metrics are read once."""
        for _ in range(WARM_UP):
            self.trainer.step()
        start = Moment.now(self._setting.device)
        for _ in range(self._setting.steps):
            self.trainer.step()
        self.trainer.window.read()
        self.trainer.window.reset()
        return Moment.now(self._setting.device) - start

    def computed_tokens(self) -> int:
        """Tokens that go through the model in all steps of the plan, padding included."""
        total = 0
        for step in range(self.plan.steps_per_epoch):
            budget = self.trainer.token_budget
            items = self.batcher.items(self.pairs, self.plan.step(step), budget, keep_pairs=True)
            for one in self.batcher.bins(self.pairs, items, budget):
                total += self.batcher.micro_batch(self.pairs, one).batch.num_tokens
        return total


class Trl:
    """TRL's RewardTrainer, through its own `train()`."""

    def __init__(self, setting: Setting, evaluates: bool = False) -> None:
        import datasets
        from transformers import PrinterCallback
        from transformers.utils import logging
        from trl import RewardConfig, RewardTrainer

        warnings.filterwarnings("ignore")
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        contender = CONTENDERS[setting.contender]
        self._setting = setting
        self.model = make_model(setting.model, setting.device, DTYPES[setting.weights])
        self.pairs = setting.pairs()
        self.plan = setting.plan(self.pairs)
        self._output = tempfile.TemporaryDirectory(prefix="trl_")
        # The rest is as TRL has it: fused AdamW, betas 0.9 and 0.999, no decay, gradients clipped at 1, log every 10.
        arguments = RewardConfig(
            output_dir=self._output.name,
            per_device_train_batch_size=setting.pairs_per_step // setting.passes(),
            gradient_accumulation_steps=setting.passes(),
            max_steps=WARM_UP + setting.steps, learning_rate=LR, lr_scheduler_type="constant",
            gradient_checkpointing=contender.checkpointing, bf16=setting.precision == "bf16",
            train_sampling_strategy="sequential", use_cpu=setting.device == "cpu", report_to="none",
            save_strategy="no", disable_tqdm=True, per_device_eval_batch_size=setting.pairs_per_step,
        )  # fmt: skip
        dataset = as_dataset(self.pairs, self.plan.order)
        by_length = np.argsort(-self.pairs.pair_lengths, kind="stable")
        evaluated = as_dataset(self.pairs, by_length) if contender.by_length else dataset
        self.trainer = RewardTrainer(
            model=self.model, args=arguments, train_dataset=dataset, processing_class=_tokenizer(),
            eval_dataset=evaluated if evaluates else None,
        )  # fmt: skip
        self.trainer.remove_callback(PrinterCallback)
        assert len(self.trainer.train_dataset) == len(dataset), "TRL dropped pairs"

    def first_losses(self, count: int) -> list[float]:
        """Losses of the first steps."""
        losses: list[float] = []
        compute = self.trainer.compute_loss

        def recorded(*arguments: Any, **options: Any) -> Any:
            found = compute(*arguments, **options)
            losses.append((found[0] if isinstance(found, tuple) else found).item())
            return found

        self.trainer.compute_loss = recorded
        self.trainer.train()
        del self.trainer.compute_loss
        return np.array(losses).reshape(-1, self._setting.passes()).mean(axis=1)[:count].tolist()

    def train(self) -> Moment:
        """Seconds of a round's steps, after the warm-up; without what TRL does before the first and after the last."""
        with self._step_ends() as ends:
            self.trainer.train()
        return ends[-1] - ends[WARM_UP - 1]

    @contextlib.contextmanager
    def _step_ends(self) -> Iterator[list[Moment]]:
        from transformers import TrainerCallback

        ends: list[Moment] = []
        device, last = self._setting.device, WARM_UP + self._setting.steps

        class Watch(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                # A GPU is waited for at the ends of the timed part only.
                ends.append(Moment.now(device if state.global_step in (WARM_UP, last) else "cpu"))

        watch = Watch()
        self.trainer.add_callback(watch)
        yield ends
        self.trainer.remove_callback(watch)

    def computed_tokens(self) -> int:
        """Tokens that go through the model in all steps of the plan, padding included."""
        return _padded_tokens(self.pairs, self.plan, self._setting.passes())


class Plain:
    """The passes that TRL makes, written out with transformers alone: padded rows, a mask, SDPA."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.model = make_model(setting.model, setting.device, DTYPES[setting.weights])
        if CONTENDERS[setting.contender].checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.pairs = setting.pairs()
        self.plan = setting.plan(self.pairs)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        self.model.train()

    def first_losses(self, count: int) -> list[float]:
        """Losses of the first steps. The plan begins anew afterwards."""
        return [self._step(one).item() for one in range(self.plan.steps_per_epoch)][:count]

    def train(self) -> Moment:
        """Seconds of a round's steps, after the warm-up."""
        for one in range(WARM_UP):
            self._step(one)
        start = Moment.now(self._setting.device)
        for one in range(self._setting.steps):
            self._step(WARM_UP + one)
        return Moment.now(self._setting.device) - start

    def computed_tokens(self) -> int:
        """Tokens that go through the model in all steps of the plan, padding included."""
        return _padded_tokens(self.pairs, self.plan, self._setting.passes())

    def _step(self, index: int) -> Tensor:
        device, total = self._setting.device, torch.zeros((), device=self._setting.device)
        passes = np.array_split(self.plan.step(index), self._setting.passes())
        for members in passes:
            numbers = np.concatenate([2 * members, 2 * members + 1])
            rows = padded_batch([self.pairs.sequence(int(one)) for one in numbers], PAD)
            mask = torch.arange(rows.ids.shape[1]) < rows.lengths[:, None]
            half = self._setting.precision == "bf16"
            with torch.autocast(device, torch.bfloat16, enabled=half):
                rewards = self.model(input_ids=rows.ids.to(device), attention_mask=mask.long().to(device)).logits
            chosen, rejected = rewards[:, 0].float().chunk(2)
            loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean() / len(passes)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total


def _padded_tokens(pairs: TokenizedPairs, plan: FixedPlan, passes: int) -> int:
    steps = [plan.step(one) for one in range(plan.steps_per_epoch)]
    parts = [part for one in steps for part in np.array_split(one, passes)]
    return int(sum(2 * len(one) * pairs.pair_lengths[one].max() for one in parts))


def _tokenizer() -> Any:
    """TRL needs one for the id of its padding token."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": PAD, "<eos>": EOS, "<unk>": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def assert_close(name: str, found: list[float], expected: list[float], precision: str) -> None:
    """The first loss must be the same; the following ones show that the optimizer does the same, too."""
    first, later = (1e-5, 1e-3) if precision == "fp32" else (5e-3, 5e-2)
    difference = np.abs(np.array(found) - np.array(expected))
    if len(found) != len(expected) or difference[0] > first or difference.max() > later:
        raise SystemExit(f"{name}: losses of the first steps are {found}, not {expected}")


CONTENDERS = {
    "ours": Contender(kind=Ours),
    "ours, padded": Contender(kind=Ours, layout=Layout.padded),
    "ours, padded, by length": Contender(kind=Ours, layout=Layout.padded, by_length=True),
    "TRL default": Contender(kind=Trl, checkpointing=True),
    "TRL best, random order": Contender(kind=Trl),
    "TRL best, sorted by hand": Contender(kind=Trl, by_length=True),
    "like TRL default": Contender(kind=Plain, checkpointing=True),
    "like TRL best, random order": Contender(kind=Plain),
    "like TRL best, sorted by hand": Contender(kind=Plain, by_length=True),
}
"""`TRL default`: gradient checkpointing. `best`: without it. TRL cannot sort by length: by hand means a data set that
lies in this order, and a sampler that keeps it. `like TRL`: the same passes without TRL's bookkeeping, where it is not
installed."""
