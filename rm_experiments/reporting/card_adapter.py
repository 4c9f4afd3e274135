"""What a model card says about which weights were trained, and how a model with an adapter is loaded."""

from __future__ import annotations

from rm_experiments.reporting.card_inputs import CardInputs
from rm_experiments.reporting.markdown import code, text

_PAPERS = {
    "lora": "LoRA: Hu et al., ICLR 2022, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685).",
    "rslora": "rsLoRA: Kalajdzievski, 2023, [arXiv:2312.03732](https://arxiv.org/abs/2312.03732).",
    "dora": "DoRA: Liu et al., ICML 2024, [arXiv:2402.09353](https://arxiv.org/abs/2402.09353).",
    "qlora": "QLoRA: Dettmers et al., NeurIPS 2023, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314).",
}


def what_was_trained(card: CardInputs) -> str:
    """The beginning of a sentence that goes on with `trained`."""
    if card.adapter is None:
        return "It was"
    if card.adapter["name"] == "probe":
        return "Its reward head, on a base model that stayed as it was, was"
    if card.adapter["name"] == "last_layers":
        number = card.adapter["num_layers"]
        return f"Its {'top layer' if number == 1 else f'top {number} layers'} and reward head were"
    name = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "qlora": "QLoRA"}[str(card.adapter["name"])]
    return f"Its {name} adapter{', since merged into the weights,' if card.merged else ''} and reward head were"


def trained_cell(card: CardInputs) -> str:
    """What follows the number of trained weights in the table of settings."""
    if card.adapter is None:
        return ""
    if card.adapter["name"] == "probe":
        return ", the reward head"
    if card.adapter["name"] == "last_layers":
        return f", the top {card.adapter['num_layers']} layers and what follows them"
    merged = ", merged into the weights of this directory" if card.merged else ""
    return f", adapter: {text(card.adapter['name'])} of rank {card.adapter['rank']}{merged}"


def citation(card: CardInputs) -> str:
    """A paragraph; empty where there is nothing to cite."""
    paper = None if card.adapter is None else _PAPERS.get(card.adapter["name"])
    return "" if paper is None else f"\n\nThe adapter is {paper}"


def loading_snippet(card: CardInputs) -> tuple[str, str, str]:
    """The imports, the loader's name, and further arguments of `from_pretrained`."""
    if not card.is_adapter:
        loader = "AutoModelForSequenceClassification"
        return f"from transformers import {loader}, AutoTokenizer", loader, ""
    loader = "AutoPeftModelForSequenceClassification"
    more = "" if card.quantization is None else ", BitsAndBytesConfig"
    imports = f"from peft import {loader}\nfrom transformers import AutoTokenizer{more}"
    return imports, loader, "" if card.quantization is None else f", quantization_config={card.quantization}"


def needs(card: CardInputs) -> str:
    """What a reader of the snippet must know; begins with a space."""
    if not card.is_adapter:
        return ""
    base = " The base model is loaded from where adapter_config.json says."
    if card.quantization is not None:
        base += (
            f" The adapter was trained on a base model of 4 bits: without this {code('quantization_config')} (or with "
            "another library's 4 bits) rewards are others. `rm-merge` makes a full model of it."
        )
    return base
