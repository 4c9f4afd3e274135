"""Every wrong setting is one line: the key, its value, what is allowed, and what to type."""

from __future__ import annotations

import copy
import functools
from enum import Enum
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rm_experiments import compose
from rm_experiments.config.data_schema import ColumnsConfig, EvalSetConfig
from rm_experiments.config.loss_schema import LossConfig
from rm_experiments.config.loss_validation import loss_settings
from rm_experiments.config.optimizer_schema import OptimizerConfig
from rm_experiments.config.optimizer_validation import optimizer_settings
from rm_experiments.config.schema import Mode, RunConfig
from rm_experiments.config.validation import check
from rm_experiments.errors import ConfigError

MODELS = (
    "llama3_1_8b, llama3_2_1b, llama3_2_3b, modernbert_base, pretrained, pythia_70m, qwen2_5_0_5b, qwen2_5_1_5b, "
    "qwen2_5_7b, qwen3_0_6b, smollm2_135m, tiny"
)
NOT_INT = "of type 'str' could not be converted to Integer"
SOURCE = "must be a file, a glob, a Hub id with split, or a list of them"

# fmt: off
AT_COMPOSITION: dict[str, str] = {
    # Keys that do not exist.
    "lr=1": "lr is not a key; did you mean optimizer.lr?",
    "optimizer.lrr=1": "optimizer.lrr is not a key; did you mean optimizer.lr?",
    "+optimizer.lrr=1": "optimizer.lrr is not a key; did you mean optimizer.lr?",
    "+model.scratch.hidden_sizes=4":
        "model.scratch.hidden_sizes is not a key; did you mean model.scratch.hidden_size?",
    "data.colums.prompt=x": "data.colums is not a key; did you mean data.columns?",
    "modle=tiny": "modle is not a key; did you mean model?",
    "+foo=1": "foo is not a key; rm-train --help lists all keys",
    "+data.eval_sets.a={source:x,foo:1}": "data.eval_sets.a.foo is not a key; did you mean data.eval_sets?",
    "+data.eval_sets.a={source:x,columns:{promt:p}}":
        "data.eval_sets.a.columns.promt is not a key; did you mean data.columns.prompt?",
    # Options that do not exist.
    "model=tinny": f"model=tinny: allowed are {MODELS}; did you mean model=tiny?",
    "eval=step":
        "eval=step: allowed are default, epochs, log_spaced, none, start_end, steps; did you mean eval=steps?",
    "launch=slurm": "launch=slurm: allowed are accelerate, fsdp2, inline, one_node, two_nodes",
    "debug=onestep": "debug=onestep: allowed are one_step, overfit, profile; did you mean debug=one_step?",
    # Values of another type.
    "seed=abc": f"seed: Value 'abc' {NOT_INT}",
    "seed=1.5": "seed: Value '1.5' of type 'float' could not be converted to Integer",
    "seed=null": "seed: field 'seed' is not Optional",
    "train.batch_size=[1]": "train.batch_size: Value '[1]' of type 'list' could not be converted to Integer",
    "train.compile=maybe": "train.compile: Value 'maybe' is not a valid bool (type str)",
    "optimizer.lr=fast": "optimizer.lr: Value 'fast' of type 'str' could not be converted to Float",
    "optimizer.betas=[0.9,x]": "optimizer.betas[1]: Value 'x' of type 'str' could not be converted to Float",
    # Values that are none of a few.
    "train.precision=fp8": "train.precision: Invalid value 'fp8', expected one of [auto, fp32, bf16, fp16]",
    "data.overlength=truncate":
        "data.overlength: Invalid value 'truncate', "
        "expected one of [truncate_prompt, truncate_response, drop, error]",
    # Values that are not there, and overrides that cannot be read.
    "name=???": "name is not set; type name=VALUE",
    "benchmark=llmbar": "data.eval_sets.llmbar.source is not set; type data.eval_sets.llmbar.source=VALUE",
    "+data.eval_sets.a={format:x}": "data.eval_sets.a.source=null: a file or Hub id is needed",
    "+data.eval_sets.a=5": f"data.eval_sets.a.source=5: {SOURCE}",
    "+data.eval_sets.eval=x": "data.eval_sets=eval: is the name of a split; choose another name",
    "seed": "cannot read the override 'seed'; quote values with special characters: \"'key=value'\"",
    # Of the rules below, a few by the same way.
    "train.batch_size=0": "train.batch_size=0: must be a whole number of at least 1",
    "optimizer.lr=-1": "optimizer.lr=-1.0: must be a finite number above 0",
    "checkpoint.metric=eval_loss":
        "checkpoint.mode=max: would keep the worst checkpoint by eval_loss; try checkpoint.mode=min",
}

WHOLE = "must be a whole number of at least 1"
POSITIVE = "must be a finite number above 0"
BY_RULE: dict[str, str] = {
    # Names.
    "name='a b'": "name=a b: 1 to 80 letters, digits, '.', '_' or '-' are allowed; try name=my_run",
    "name=a/b": "name=a/b: 1 to 80 letters, digits, '.', '_' or '-' are allowed; try name=my_run",
    "name=..": "name=..: 1 to 80 letters, digits, '.', '_' or '-' are allowed; try name=my_run",
    f"name={'a' * 81}":
        f"name={'a' * 77}...: 1 to 80 letters, digits, '.', '_' or '-' are allowed; try name=my_run",
    "loss.name=dpo":
        "loss.name=dpo: allowed are bradley_terry, scaled_bradley_terry, robust_bradley_terry, log_exp, hinge, focal, "
        "rao_kupper, davidson, plackett_luce, odin, regression; try loss.name=bradley_terry",
    "optimizer.name=adam":
        "optimizer.name=adam: allowed are adamw, adamw_8bit, adafactor, lion, muon, schedule_free_adamw; "
        "try optimizer.name=adamw",
    "scheduler.name=step":
        "scheduler.name=step: allowed are constant, linear, cosine, warmup_stable_decay; "
        "try scheduler.name=constant",
    "adapter.name=ia3":
        "adapter.name=ia3: allowed are none, lora, rslora, dora, qlora, last_layers, probe; try adapter.name=none",
    "launch.name=slurm": "launch.name=slurm: allowed are inline, accelerate, torchrun; try launch.name=inline",
    # Ranges.
    "seed=-1": "seed=-1: must be a whole number from 0 to 4294967295",
    "seed=4294967296": "seed=4294967296: must be a whole number from 0 to 4294967295",
    "model.dropout=1.0": "model.dropout=1.0: must be at least 0 and below 1",
    "model.dropout=-0.1": "model.dropout=-0.1: must be at least 0 and below 1",
    "model.suggested_lr=0.0": f"model.suggested_lr=0.0: {POSITIVE}",
    "data.max_length=3": "data.max_length=3: must be a whole number of at least 4, or null",
    "data.eval_fraction=0.0": "data.eval_fraction=0.0: must be above 0 and below 1",
    "data.eval_fraction=1.0": "data.eval_fraction=1.0: must be above 0 and below 1",
    "data.max_train_pairs=0": f"data.max_train_pairs=0: {WHOLE}, or null",
    "data.max_eval_pairs=0": f"data.max_eval_pairs=0: {WHOLE}, or null",
    "data.sandbox.num_train_pairs=0": f"data.sandbox.num_train_pairs=0: {WHOLE}",
    "data.sandbox.num_eval_pairs=0": f"data.sandbox.num_eval_pairs=0: {WHOLE}",
    "data.sandbox.label_scale=0.0": f"data.sandbox.label_scale=0.0: {POSITIVE}",
    "data.sandbox.label_noise=0.5": "data.sandbox.label_noise=0.5: must be at least 0 and below 0.5",
    "data.sandbox.length_bias=inf": "data.sandbox.length_bias=inf: must be a finite number",
    "data.sandbox.length_bias=nan": "data.sandbox.length_bias=nan: must be a finite number",
    "data.sandbox.num_responses=9": "data.sandbox.num_responses=9: must be 2 to 8",
    "data.sandbox.num_responses=3 data.sandbox.ties=0.5":
        "data.sandbox.ties=0.5: rankings know none; try data.sandbox.num_responses=2",
    "data.sandbox.world_seed=-1": "data.sandbox.world_seed=-1: must be at least 0",
    "loss.label_smoothing=0.5": "loss.label_smoothing=0.5: must be at least 0 and below 0.5",
    "loss.center_coefficient=-1.0": "loss.center_coefficient=-1.0: must be a finite number, at least 0",
    "loss.barrier_coefficient=inf": "loss.barrier_coefficient=inf: must be a finite number, at least 0",
    "loss.barrier_bound=0.0": f"loss.barrier_bound=0.0: {POSITIVE}",
    "loss.hinge_margin=0.0": f"loss.hinge_margin=0.0: {POSITIVE}",
    "loss.focal_gamma=0.0": f"loss.focal_gamma=0.0: {POSITIVE}",
    "loss.lm_coefficient=1.0": "loss.lm_coefficient=1.0: must be at least 0 and below 1",
    "loss=grm loss.lm_beta=0.0": f"loss.lm_beta=0.0: {POSITIVE}",
    "loss.tie_probability=1.0": "loss.tie_probability=1.0: must be above 0 and below 1",
    "loss.noise_rate=0.5": "loss.noise_rate=0.5: must be above 0 and below 0.5",
    "optimizer.lr=0.0": f"optimizer.lr=0.0: {POSITIVE}",
    "optimizer.lr=nan": f"optimizer.lr=nan: {POSITIVE}",
    "optimizer.lr=inf": f"optimizer.lr=inf: {POSITIVE}",
    "optimizer.weight_decay=-0.1": "optimizer.weight_decay=-0.1: must be a finite number, at least 0",
    "optimizer.weight_decay=inf": "optimizer.weight_decay=inf: must be a finite number, at least 0",
    "optimizer.eps=0.0": f"optimizer.eps=0.0: {POSITIVE}",
    "optimizer.betas=[0.9]":
        "optimizer.betas=[0.9]: two numbers, at least 0 and below 1; try 'optimizer.betas=[0.9,0.999]'",
    "optimizer.betas=[0.9,1.0]":
        "optimizer.betas=[0.9, 1.0]: two numbers, at least 0 and below 1; try 'optimizer.betas=[0.9,0.999]'",
    "optimizer=muon optimizer.momentum=1.0": "optimizer.momentum=1.0: must be at least 0 and below 1",
    "optimizer=muon optimizer.momentum=null": "optimizer.momentum=null: optimizer=muon needs it",
    "launch=fsdp2 optimizer.name=muon optimizer.momentum=0.9":
        "optimizer.name=muon: needs whole weights, and launch.strategy=fsdp has slices of them; try optimizer=adamw",
    "optimizer=adafactor optimizer.beta2_decay=0.5": "optimizer.beta2_decay=0.5: must be a finite number below 0",
    "optimizer=adafactor optimizer.betas=[0.5,0.5]":
        "optimizer.betas=[0.5, 0.5]: no effect with optimizer=adafactor; leave it out",
    "optimizer=lion optimizer.eps=1e-3": "optimizer.eps=0.001: no effect with optimizer=lion; leave it out",
    "optimizer.momentum=0.9": "optimizer.momentum=0.9: no effect with optimizer=adamw; leave it out",
    "optimizer.paged=true": "optimizer.paged=true: no effect with optimizer=adamw; leave it out",
    "optimizer=adamw_8bit optimizer.paged=true train.device=cpu":
        "optimizer.paged=true: is not possible with train.device=cpu; try optimizer.paged=false",
    "optimizer.layer_decay=0.0": "optimizer.layer_decay=0.0: must be above 0 to 1",
    "optimizer.head_lr_ratio=0.0": f"optimizer.head_lr_ratio=0.0: {POSITIVE}",
    "optimizer.lora_b_lr_ratio=16.0":
        "optimizer.lora_b_lr_ratio=16.0: no effect with adapter=none; try adapter=lora",
    "model=pretrained model.name_or_path=x adapter=lora optimizer.name=muon optimizer.momentum=0.9":
        "optimizer.name=muon: is for whole matrices, not for the factors of LoRA; try optimizer=adamw",
    "optimizer.name=schedule_free_adamw":
        "scheduler.name=linear: optimizer=schedule_free_adamw takes the place of a schedule; try scheduler=constant",
    "scheduler.warmup_ratio=1.1": "scheduler.warmup_ratio=1.1: must be 0 to 1",
    "scheduler.warmup_steps=-1": "scheduler.warmup_steps=-1: must be at least 0, or null",
    "scheduler.min_lr_ratio=2.0": "scheduler.min_lr_ratio=2.0: must be 0 to 1",
    "scheduler=warmup_stable_decay scheduler.decay_ratio=0.0":
        "scheduler.decay_ratio=0.0: must be above 0 to 1, or null",
    "train.max_steps=0": f"train.max_steps=0: {WHOLE}, or null",
    "train.num_epochs=0.0": f"train.num_epochs=0.0: {POSITIVE}",
    "train.num_epochs=nan": f"train.num_epochs=nan: {POSITIVE}",
    "train.batch_size=-4": f"train.batch_size=-4: {WHOLE}",
    "train.micro_batch_tokens=0": f"train.micro_batch_tokens=0: {WHOLE}, or auto",
    "train.micro_batch_tokens=many": f"train.micro_batch_tokens=many: {WHOLE}, or auto",
    "train.length_window=0": f"train.length_window=0: {WHOLE}",
    "train.max_grad_norm=0.0": f"train.max_grad_norm=0.0: {POSITIVE}, or null",
    "train.max_grad_norm=inf": f"train.max_grad_norm=inf: {POSITIVE}, or null",
    "train.log_every_steps=0": f"train.log_every_steps=0: {WHOLE}",
    "train.profile_steps=0": f"train.profile_steps=0: {WHOLE}, or null",
    "train.profile_steps=5 train.max_steps=6":
        "train.profile_steps=5: the run has 6 steps, of which 2 warm up; try train.profile_steps=4",
    "train.profile_steps=1 train.max_steps=1":
        "train.profile_steps=1: the run has 1 steps, of which 2 warm up; try train.profile_steps=null",
    "train.early_stopping_patience=0": f"train.early_stopping_patience=0: {WHOLE}, or null",
    "eval.every_steps=0": f"eval.every_steps=0: {WHOLE}, or null",
    "eval.every_fraction=0.0": "eval.every_fraction=0.0: must be above 0 to 1, or null",
    "eval.every_fraction=1.5": "eval.every_fraction=1.5: must be above 0 to 1, or null",
    "eval.every_epochs=0.0": f"eval.every_epochs=0.0: {POSITIVE}, or null",
    "eval.log_spaced=0": f"eval.log_spaced=0: {WHOLE}, or null",
    "eval.micro_batch_tokens=0": f"eval.micro_batch_tokens=0: {WHOLE}, or auto",
    "checkpoint.every_steps=0": f"checkpoint.every_steps=0: {WHOLE}, or null",
    "checkpoint.keep_last=0": f"checkpoint.keep_last=0: {WHOLE}",
    "launch=accelerate launch.num_processes=0": f"launch.num_processes=0: {WHOLE}",
    # The model.
    "model=pretrained": "model.name_or_path=null: a directory or Hub id is needed; try model=tiny",
    "model.name_or_path=x": "model.name_or_path=x: no effect with a model from scratch; try model=pretrained",
    "model.source=pretrained model.name_or_path=x":
        "model.scratch has no effect with model.source=pretrained; try model.scratch=null",
    "model.scratch=null": "model.scratch=null: a model from scratch needs a shape; try model=tiny",
    "model.scratch.num_layers=0": "model.scratch.num_layers=0: must be at least 1",
    "model.scratch.max_positions=0": "model.scratch.max_positions=0: must be at least 1",
    "model.scratch.vocab_size=259":
        "model.scratch.vocab_size=259: must be at least 260 (256 bytes, 4 special tokens)",
    "model.scratch.hidden_size=65":
        "model.scratch.hidden_size=65: must be a multiple of 2 x model.scratch.num_heads=4",
    "model.scratch.num_kv_heads=3": "model.scratch.num_kv_heads=3: must divide model.scratch.num_heads=4",
    # The data.
    "data=local data.train=null":
        "data.train=null: training pairs are needed; try data=local data.train=FILE, or data=sandbox",
    "data.sandbox=null":
        "data.train=null: training pairs are needed; try data=local data.train=FILE, or data=sandbox",
    "data=local data.train=''": f"data.train=: {SOURCE}",
    "data=local data.train=5": f"data.train=5: {SOURCE}",
    "data=local data.train=[]": f"data.train=[]: {SOURCE}",
    "data=local data.train=[a,5]": f"data.train=['a', 5]: {SOURCE}",
    "data=local data.train=x data.eval={a:b}": f"data.eval={{'a': 'b'}}: {SOURCE}",
    "data.train=x.jsonl": "data.train=x.jsonl: no effect with data=sandbox; try data=local",
    "data.eval=x.jsonl": "data.eval=x.jsonl: no effect with data=sandbox; try data=local",
    # The length of the run.
    "data.eval_fraction=0.1": "data.eval_fraction=0.1: no effect with data=sandbox; leave it out",
    "tracking=none tracking.tags=[a]": "tracking.tags=['a']: no effect with tracking=none; leave it out",
    "model.revision=main": "model.revision=main: no effect with a model from scratch; leave it out",
    "eval=none checkpoint.metric=eval_x": "checkpoint.metric=eval_x: no effect with eval=none; leave it out",
    "model.dtype=float16":
        "model.dtype=float16: weights of 16 bits cannot be trained; try train.precision=fp16",
    "train.precision=fp16 train.device=cpu":
        "train.precision=fp16: is not possible with train.device=cpu; try train.precision=bf16",
    "scheduler.warmup_steps=5":
        "scheduler.warmup_steps=5 and scheduler.warmup_ratio=0.05 exclude each other; "
        "add scheduler.warmup_ratio=0",
    "scheduler=constant scheduler.min_lr_ratio=0.1":
        "scheduler.min_lr_ratio=0.1: no effect with scheduler=constant; try scheduler=linear",
    "scheduler.decay_ratio=0.5":
        "scheduler.decay_ratio=0.5: no effect with scheduler=linear; try scheduler=warmup_stable_decay",
    "scheduler=warmup_stable_decay scheduler.decay_ratio=null":
        "scheduler.decay_ratio=null: warmup_stable_decay needs it; try scheduler.decay_ratio=0.1",
    "scheduler=warmup_stable_decay scheduler.decay_ratio=0.96":
        "scheduler.decay_ratio=0.96: with scheduler.warmup_ratio it exceeds 1",
    "launch.num_processes=2": "launch.num_processes=2: launch=inline is one process; try launch=accelerate",
    # Losses and what they do not read.
    "loss.hinge_margin=2.0":
        "loss.hinge_margin=2.0: no effect with loss.name=bradley_terry; try loss=hinge, or leave it out",
    "loss=hinge loss.focal_gamma=1.0":
        "loss.focal_gamma=1.0: no effect with loss.name=hinge; try loss=focal, or leave it out",
    "loss=plackett_luce loss.tie_probability=0.1":
        "loss.tie_probability=0.1: no effect with loss.name=plackett_luce; try loss=rao_kupper, or leave it out",
    "loss.num_heads=0": f"loss.num_heads=0: {WHOLE}",
    "loss.bootstrap=false": "loss.bootstrap=false: no effect without an ensemble; try loss.num_heads=5",
    "loss.name=regression": "loss.name=regression: needs scores of single answers in the data; "
        "try data.sandbox.attributes=true",
    "data.sandbox.attributes=true loss.name=regression loss.attribute_weights=[1.0]":
        "loss.attribute_weights=[1.0]: must be 2 numbers, one per attribute, not all 0",
    "data=local data.train=x loss.name=regression data.columns.attributes=[a] loss.attribute_weights=[1.0]":
        "loss.attribute_weights=[1.0]: no effect with one attribute; leave it out",
    "loss.attribute_weights=[1.0]":
        "loss.attribute_weights=[1.0]: no effect with loss.name=bradley_terry; try loss=regression, or leave it out",
    "loss=odin loss.num_heads=2":
        "loss.num_heads=2: not with loss.name=odin: it has two heads of its own; try leaving it out",
    "loss.length_coefficient=0.5":
        "loss.length_coefficient=0.5: no effect with loss.name=bradley_terry; try loss=odin, or leave it out",
    "launch=fsdp2 loss.name=odin":
        "launch.strategy=fsdp: a model of 2 heads is not spread over processes; try launch.strategy=ddp",
    "loss=davidson loss.noise_rate=0.3":
        "loss.noise_rate=0.3: no effect with loss.name=davidson; try loss=robust_bradley_terry, or leave it out",
    "loss=grm loss.lm_form=kto":
        "loss.lm_form=kto: allowed are sft, dpo, cross_entropy; try loss.lm_form=sft",
    "loss.lm_form=dpo":
        "loss.lm_form=dpo: no effect without a language-model term; try loss.lm_coefficient=0.01",
    "loss=hinge loss.lm_beta=0.2":
        "loss.lm_beta=0.2: no effect without a language-model term; try loss.lm_coefficient=0.01",
    "loss=grm loss.lm_form=cross_entropy loss.lm_beta=0.2":
        "loss.lm_beta=0.2: no effect with loss.lm_form=cross_entropy; try leaving it out",
    "model=qwen2_5_0_5b adapter=probe loss.lm_coefficient=0.01":
        "loss.lm_coefficient=0.01: keeps hidden states as they are, and adapter=probe changes none of them; try "
        "leaving it out",
    "launch=fsdp2 loss.lm_coefficient=0.01":
        "launch.strategy=fsdp: a language-model head (loss.lm_coefficient) is not spread over processes; try "
        "launch.strategy=ddp",
    "loss.barrier_bound=3.0":
        "loss.barrier_bound=3.0: no effect without a barrier; try loss.barrier_coefficient=0.02",
    "loss=scaled_bradley_terry loss.use_margin=true":
        "loss.use_margin=true: not with loss.name=scaled_bradley_terry: the margin is the factor there already; "
        "try leaving it out",
    "loss=robust_bradley_terry loss.label_smoothing=0.1":
        "loss.label_smoothing=0.1: not with loss.name=robust_bradley_terry: it undoes what loss.noise_rate does; "
        "try leaving it out",
    "loss=plackett_luce loss.use_margin=true":
        "loss.use_margin=true: not with loss.name=plackett_luce: a ranking has no margins; try leaving it out",
    "loss=plackett_luce loss.label_smoothing=0.1":
        "loss.label_smoothing=0.1: not with loss.name=plackett_luce: a ranking is a row of choices, not of labels; "
        "try leaving it out",
    "loss=rao_kupper data.ties=drop":
        "data.ties=drop: loss.name=rao_kupper is there for the ties; try data.ties=keep, or loss=bradley_terry",
    # What needs an evaluation.
    "eval=none checkpoint.final=best":
        "checkpoint.final=best needs an evaluation; try eval=default or checkpoint.final=last",
    "eval=none train.early_stopping_patience=3":
        "train.early_stopping_patience needs an evaluation; try eval=default",
    "eval=none data=local data.train=x data.eval=y":
        "data.eval has no effect without an evaluation; try eval=default, or data.eval=null",
    # Adapters.
    "adapter.rank=4": "adapter.rank=4: no effect with adapter=none; try adapter=lora",
    "adapter.alpha=4.0": "adapter.alpha=4.0: no effect with adapter=none; try adapter=lora",
    "adapter.dropout=0.1": "adapter.dropout=0.1: no effect with adapter=none; try adapter=lora",
    "adapter.target_modules=all-linear":
        "adapter.target_modules=all-linear: no effect with adapter=none; try adapter=lora",
    "adapter.name=lora adapter.rank=4 adapter.alpha=8.0 adapter.dropout=0.0":
        "adapter=lora on a model from scratch would freeze random weights; try adapter=none or model=pretrained",
    "adapter.merge=true": "adapter.merge=true: no effect with adapter=none; try adapter=lora",
    "adapter.num_layers=2": "adapter.num_layers=2: no effect with adapter=none; try adapter=last_layers",
    "model=modernbert_base adapter=lora adapter.num_layers=2":
        "adapter.num_layers=2: no effect with adapter=lora; try adapter=last_layers",
    "model=modernbert_base adapter=dora adapter.quant_type=nf4":
        "adapter.quant_type=nf4: no effect with adapter=dora; try adapter=qlora",
    "model=modernbert_base adapter=last_layers adapter.rank=4":
        "adapter.rank=4: no effect with adapter=last_layers; try adapter=lora",
    "model=modernbert_base adapter=last_layers adapter.num_layers=0": f"adapter.num_layers=0: {WHOLE}",
    "model=modernbert_base adapter=last_layers adapter.num_layers=null":
        "adapter.num_layers=null: adapter=last_layers needs a number; try adapter.num_layers=2",
    "adapter.name=last_layers adapter.num_layers=1":
        "adapter=last_layers on a model from scratch would freeze random weights; try adapter=none or "
        "model=pretrained",
    "adapter.name=probe":
        "adapter=probe on a model from scratch would freeze random weights; try adapter=none or model=pretrained",
    "model=modernbert_base adapter=probe model.dropout=0.1":
        "model.dropout=0.1: adapter=probe computes features once, and dropout changes them; try model.dropout=0, or "
        "adapter=last_layers",
    "model=modernbert_base adapter=probe launch.name=accelerate launch.num_processes=2 launch.strategy=fsdp":
        "launch.strategy=fsdp: is not supported with adapter=probe; try launch.strategy=ddp",
    "model=modernbert_base adapter=probe train.gradient_checkpointing=true":
        "train.gradient_checkpointing=true: no effect on a reward head (adapter=probe); try "
        "train.gradient_checkpointing=false",
    "model=modernbert_base adapter=probe train.compile=true":
        "train.compile=true: no effect on a reward head (adapter=probe); try train.compile=false",
    "model=modernbert_base adapter=probe optimizer.layer_decay=0.9":
        "optimizer.layer_decay=0.9: no effect with adapter=probe: no layer is trained; try optimizer.layer_decay=1",
    "model=modernbert_base adapter=probe adapter.num_layers=2":
        "adapter.num_layers=2: no effect with adapter=probe; try adapter=last_layers",
    "model=modernbert_base adapter=lora checkpoint.dtype=bfloat16":
        "checkpoint.dtype=bfloat16: no effect with an adapter, which is float32; try checkpoint.dtype=auto, or "
        "adapter.merge=true",
    "model=modernbert_base adapter=lora adapter.bias=some":
        "adapter.bias=some: allowed are none, all, lora_only; try adapter.bias=none",
    "model=modernbert_base adapter=lora adapter.init_lora_weights=eva":
        "adapter.init_lora_weights=eva: allowed are default, gaussian, orthogonal, pissa, olora; try "
        "adapter.init_lora_weights=default",
    "model=modernbert_base adapter=lora adapter.init_lora_weights=orthogonal adapter.rank=3":
        "adapter.rank=3: adapter.init_lora_weights=orthogonal needs an even one",
    "model=modernbert_base adapter=dora adapter.init_lora_weights=pissa":
        "adapter.init_lora_weights=pissa: does not go with adapter=dora; try adapter=lora",
    "model=modernbert_base adapter=qlora adapter.init_lora_weights=olora":
        "adapter.init_lora_weights=olora: would change weights, which 4 bits cannot hold; try "
        "adapter.init_lora_weights=default",
    "model=modernbert_base adapter=lora adapter.layers_to_transform=[1]":
        "adapter.layers_to_transform=[1]: needs the names of modules; try adapter.target_modules=[q_proj,v_proj]",
    "model=modernbert_base adapter=lora adapter.layers_to_transform=[1,1] adapter.target_modules=[a]":
        "adapter.layers_to_transform=[1, 1]: must be distinct numbers of layers, from 0",
    "model=modernbert_base adapter=lora adapter.target_modules='a['":
        "adapter.target_modules=a[: is no pattern (unterminated character set at position 1); try "
        "adapter.target_modules=[NAME,NAME]",
    "model=modernbert_base adapter=lora adapter.init_lora_weights=pissa launch=fsdp2 launch.num_processes=2":
        "adapter.init_lora_weights=pissa: needs whole weights, which launch.strategy=fsdp spreads; try "
        "adapter.init_lora_weights=default, or launch.strategy=ddp",
    "model=modernbert_base adapter=qlora launch.name=accelerate launch.num_processes=2 launch.strategy=fsdp":
        "launch.strategy=fsdp: weights of 4 bits are not spread; try launch.strategy=ddp",
    "model=modernbert_base adapter=qlora adapter.quant_type=int8":
        "adapter.quant_type=int8: allowed are nf4, fp4; try adapter.quant_type=nf4",
    "model=modernbert_base adapter=qlora adapter.compute_dtype=null":
        "adapter.compute_dtype=null: adapter=qlora needs one of auto, float32, bfloat16, float16",
    "model=modernbert_base adapter=qlora adapter.double_quant=null":
        "adapter.double_quant=null: adapter=qlora needs true or false",
    "model=modernbert_base adapter=qlora train.compile=true":
        "train.compile=true: is not supported with adapter=qlora; try train.compile=false",
    "model=modernbert_base adapter=lora adapter.rank=0": f"adapter.rank=0: {WHOLE}",
    "model=modernbert_base adapter=lora adapter.rank=null": "adapter.rank=null: adapter=lora needs a number",
    "model=modernbert_base adapter=lora adapter.alpha=0.0": f"adapter.alpha=0.0: {POSITIVE}",
    "model=modernbert_base adapter=lora adapter.dropout=1.0":
        "adapter.dropout=1.0: must be at least 0 and below 1",
    # Checkpoints.
    "checkpoint.metric=accuracy":
        "checkpoint.metric=accuracy: must be an evaluation metric as in metrics.jsonl; "
        "try checkpoint.metric=eval_accuracy",
    "objective=loss":
        "objective=loss: must be an evaluation metric as in metrics.jsonl; try objective=eval_accuracy",
    "checkpoint.mode=min":
        "checkpoint.mode=min: would keep the worst checkpoint by eval_accuracy; try checkpoint.mode=max",
    "checkpoint.metric=eval_mine_brier":
        "checkpoint.mode=max: would keep the worst checkpoint by eval_mine_brier; try checkpoint.mode=min",
    "checkpoint.final=best checkpoint.keep_best=false":
        "checkpoint.final=best needs checkpoint.keep_best=true",
    # Tracking.
    "tracking=none tracking.mode=offline":
        "tracking.mode=offline: no effect with tracking=none; try tracking=wandb",
    "tracking=tensorboard tracking.mode=online":
        "tracking.mode=online: no effect with tracking=tensorboard; try tracking=wandb",
    "tracking.tags=['']": "tracking.tags=: a tag has 1 to 64 characters",
    f"tracking.tags=[ok,{'t' * 65}]": f"tracking.tags={'t' * 65}: a tag has 1 to 64 characters",
    "tracking.project=''": "tracking.project=: 1 to 128 characters without / \\ # ? % :",
    "tracking.project=a/b": "tracking.project=a/b: 1 to 128 characters without / \\ # ? % :",
}
# fmt: on

BOUNDS = [
    "seed=0", "seed=4294967295", "model.dropout=0.99", "data.max_length=4",
    "data=local data.train=x data.eval_fraction=0.999",
    "data.sandbox.label_noise=0.499", "data.sandbox.length_bias=-3.0", "loss.label_smoothing=0.499",
    "loss.center_coefficient=0.0", "loss=plackett_luce loss.center_coefficient=0.1 loss.barrier_coefficient=0.1",
    "loss=hinge loss.use_margin=true loss.label_smoothing=0.1", "loss=davidson loss.tie_probability=0.01",
    "loss=robust_bradley_terry loss.noise_rate=0.49",
    "optimizer.lr=1000.0", "optimizer.lr=1e-30", "optimizer.betas=[0.0,0.0]",
    "optimizer.weight_decay=0.0", "scheduler.warmup_ratio=0.0", "scheduler.warmup_ratio=1.0",
    "scheduler.warmup_ratio=0.0 scheduler.warmup_steps=0", "scheduler.min_lr_ratio=1.0",
    "scheduler=warmup_stable_decay scheduler.decay_ratio=0.95", "train.max_steps=1", "train.batch_size=1",
    "train.num_epochs=0.001", "train.micro_batch_tokens=1", "train.max_grad_norm=null", "eval.every_fraction=1.0",
    "eval.log_spaced=1", "checkpoint.keep_last=1", "model.scratch.vocab_size=260", "model.scratch.num_kv_heads=1",
    "train.precision=bf16 train.device=cpu", "name=A.b-c_1", f"name={'a' * 80}", f"tracking.tags=[{'t' * 64}]",
    "checkpoint.metric=eval_loss checkpoint.mode=min", "eval=none", "eval=none train.early_stopping_patience=null",
    "train.max_steps=5 train.num_epochs=1e7", "launch=accelerate launch.num_processes=1",
]  # fmt: skip


@functools.cache
def base(choices: tuple[str, ...]) -> RunConfig:
    """The config of these group choices; one that is not yet valid is composed all the same."""
    completed = {"data=local": ["data.train=x"], "model=pretrained": ["model.name_or_path=x"]}
    config = compose([*choices, *(one for choice in choices for one in completed.get(choice, []))])
    if "model=pretrained" in choices:
        config.model.name_or_path = None
    return config


def changed(line: str) -> RunConfig:
    """The config of `line` before it is checked: group choices are composed, other keys are set."""
    parts = OverridesParser.create().parse_overrides(line.split(" ") if "'a b'" not in line else [line])
    groups = {"data", "model", "loss", "optimizer", "scheduler", "eval", "launch", "adapter", "tracking"}
    config = copy.deepcopy(base(tuple(part.input_line or "" for part in parts if part.key_or_group in groups)))
    for part in parts:
        *path, name = part.key_or_group.split(".")
        if not path and name in groups:
            continue
        section: Any = functools.reduce(getattr, path, config)
        before, value = getattr(section, name), part.value()
        # A quoted text becomes plain text, the name of a choice becomes the choice.
        setattr(section, name, type(before)(value) if isinstance(before, Enum) else plain(value))
    return config


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(one) for one in value]
    return getattr(value, "text", value)


@pytest.mark.parametrize(("override", "message"), AT_COMPOSITION.items(), ids=AT_COMPOSITION)
def test_a_wrong_override_is_refused_while_composing(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override])

    assert str(caught.value) == message


def test_a_key_of_a_section_that_is_null_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^data\.sandbox\.label_noise"):
        compose(["data=local", "data.train=x", "data.sandbox.label_noise=0.1"])


def test_an_interpolation_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^seed: Interpolation key 'foo' not found$"):
        compose(["seed=${foo}"])


@pytest.mark.parametrize(("line", "message"), BY_RULE.items(), ids=BY_RULE)
def test_a_setting_out_of_range_or_against_another_is_refused(line: str, message: str) -> None:
    config = changed(line)

    with pytest.raises(ConfigError) as caught:
        check(config)

    assert str(caught.value) == message


@pytest.mark.parametrize("line", BOUNDS)
def test_a_setting_at_the_edge_of_its_range_is_accepted(line: str) -> None:
    config = changed(line)

    assert check(config) is config


@pytest.mark.parametrize("metric", ["eval_loss", "eval_objective", "eval_ece", "eval_brier", "eval_a_loss"])
def test_a_lower_is_better_metric_keeps_the_lowest(metric: str) -> None:
    config = changed("seed=0")
    config.checkpoint.metric, config.checkpoint.mode = metric, Mode.min

    assert check(config) is config

    config.checkpoint.mode = Mode.max
    with pytest.raises(ConfigError, match=f"would keep the worst checkpoint by {metric}"):
        check(config)


@pytest.mark.parametrize("metric", ["eval_mean_reward", "eval_num_pairs", "eval_length_correlation"])
@pytest.mark.parametrize("mode", list(Mode))
def test_a_metric_without_a_direction_takes_either_mode(metric: str, mode: Mode) -> None:
    config = changed("seed=0")
    config.checkpoint.metric, config.checkpoint.mode = metric, mode

    assert check(config) is config


def test_other_scores_in_an_evaluation_set_are_refused() -> None:
    config = changed("data=local data.train=x loss.name=regression data.columns.attributes=[wit,truth]")
    config.data.eval_sets = {"more": EvalSetConfig(source="y", columns=ColumnsConfig(attributes=["truth", "wit"]))}
    message = (
        r"^data.eval_sets.more.columns.attributes=\[truth,wit\]: must be those of the training data, \[wit,truth\]"
    )
    with pytest.raises(ConfigError, match=message):
        check(config)
    config.data.eval_sets["more"].columns.attributes = ["wit", "truth"]
    assert check(config) is config


def test_only_the_settings_that_are_read_are_shown() -> None:
    plain = {"name": "bradley_terry", "use_margin": False, "label_smoothing": 0.0, "center_coefficient": 0.0}
    assert loss_settings(LossConfig()) == {**plain, "barrier_coefficient": 0.0}
    assert loss_settings(LossConfig(barrier_coefficient=0.1, num_heads=3)) == {
        **plain, "barrier_coefficient": 0.1, "barrier_bound": 5.0, "num_heads": 3, "bootstrap": True
    }  # fmt: skip
    assert loss_settings(LossConfig(name="regression", attribute_weights=[2.0, 1.0])) == {
        "name": "regression", "attribute_weights": [2.0, 1.0]
    }  # fmt: skip
    assert loss_settings(LossConfig(name="plackett_luce")).keys() == {
        "name", "center_coefficient", "barrier_coefficient"
    }  # fmt: skip
    language = {**plain, "barrier_coefficient": 0.0, "lm_coefficient": 0.1, "lm_form": "sft", "lm_beta": 0.1}
    assert loss_settings(LossConfig(lm_coefficient=0.1)) == language
    del language["lm_beta"]
    language["lm_form"] = "cross_entropy"
    assert loss_settings(LossConfig(lm_coefficient=0.1, lm_form="cross_entropy")) == language
    lion = OptimizerConfig(name="lion", lr=0.5, eps=None, layer_decay=0.5)
    assert optimizer_settings(lion) == {
        "name": "lion", "lr": 0.5, "weight_decay": 0.0, "betas": [0.9, 0.999], "layer_decay": 0.5
    }  # fmt: skip
