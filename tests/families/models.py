"""Tiny random models of known families: as base models on disk, as a run gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerBase

_WINDOW = 8
_SHAPE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_MIXED = {"sliding_window": _WINDOW, "layer_types": ["full_attention", "sliding_attention"]}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, SmolLM2": ("llama", {"tie_word_embeddings": True}),
    "Qwen2, Qwen2.5": ("qwen2", {"use_sliding_window": True, **_MIXED}),
    "Qwen3": ("qwen3", {"head_dim": 8}),
    "Gemma 2": ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 3.0, **_MIXED}),
    "Gemma 3 (text)": ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, **_MIXED}),
    "Mistral": ("mistral", {"sliding_window": _WINDOW}),
    "Phi 1, 1.5, 2": ("phi", {"num_key_value_heads": 2}),
    "Phi 3, 3.5, 4": ("phi3", {"sliding_window": _WINDOW}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", _MIXED),
    "SmolLM3": ("smollm3", {}),
    "GPT-NeoX, Pythia": ("gpt_neox", {}),
    "GPT-2": ("gpt2", _GPT2),
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("bert", {}),
    "RoBERTa": ("roberta", {"max_position_embeddings": 66, "type_vocab_size": 1}),
    "DeBERTa-v3": ("deberta-v2", {
        "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0, "pooler_hidden_size": 16,
    }),
    "ModernBERT": ("modernbert", {
        "local_attention": _WINDOW, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2,
    }),
}  # fmt: skip
FAMILIES = {**DECODERS, **ENCODERS}
"""What users call them -> transformers' model type, and what differs from `_SHAPE`."""


def write_base(directory: Path, family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """A base model without a reward head: a language model, or a bare encoder, of random weights in float32."""
    kind, more = FAMILIES[family]
    # Spare rows, as real models have: transformers adds a token of Qwen2's own to a tokenizer without it.
    config = AutoConfig.for_model(kind, **{**_SHAPE, **more}, vocab_size=len(tokenizer) + 4)
    torch.manual_seed(0)
    model = (AutoModelForCausalLM if family in DECODERS else AutoModel).from_config(config)
    # As transformers begins, attention is nearly uniform, and a wrong mask or position would hardly show.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
