"""Known families: trained, laid out, saved, and loaded by plain transformers and peft with equal rewards."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rm_experiments.config.schema import Layout
from tests.families.check import MODES, Checked, check_family, table
from tests.families.data import make_pairs, make_tokenizer
from tests.families.models import DECODERS, ENCODERS, FAMILIES, write_base

SAME_REWARDS = 1e-5
SAME_LAYOUT = 1e-10
ONLY_PADDED = ("DeBERTa-v3",)
QUICK_PROBES = ("Llama, SmolLM2", "BERT", "DeBERTa-v3")
"""A last token, a first one below a pooler of the backbone, and one below a pooler of the head."""


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Checked]:
    root, tokenizer = tmp_path_factory.mktemp("families"), make_tokenizer()
    pairs = make_pairs(tokenizer)

    def checked(family: str, mode: str) -> Checked:
        base: Path = root / str(list(FAMILIES).index(family))
        if not base.exists():
            write_base(base, family, tokenizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check_family(base, mode, tokenizer, pairs, base / mode)

    return checked


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        pytest.param(
            family,
            mode,
            marks=pytest.mark.long if mode == "probe" and family not in QUICK_PROBES else (),
        )
        for family in FAMILIES
        for mode in MODES
    ],
)
def test_rewards_are_the_same_in_every_layout_and_after_loading(
    check: Callable[[str, str], Checked], family: str, mode: str
) -> None:
    found = check(family, mode)
    scale = max(1.0, float(np.abs(found.rewards).max()))
    # Texts are told apart, and training did something: else all that follows would hold of any model.
    assert np.diff(np.sort(found.rewards)).min() > 1e-4
    assert found.moved > 1e-3
    layouts = {Layout.padded, Layout.packed, Layout.shared_prefix}
    if family in ENCODERS:
        layouts = {Layout.padded} if family in ONLY_PADDED else {Layout.padded, Layout.packed}
    assert {layout for layout, values in found.layouts.items() if values is not None} == layouts
    assert found.trained_in is [Layout.padded, Layout.packed, Layout.shared_prefix][len(layouts) - 1]
    for values in found.layouts.values():
        assert values is None or max(values) <= SAME_LAYOUT
    assert max(found.plain, found.plain_batch, found.own, found.from_features) <= SAME_REWARDS * scale


def test_families_of_the_documentation_are_these() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for family in (*DECODERS, *ENCODERS):
        for mode in MODES:
            assert f"| {family} | {mode} |" in text, (family, mode)


def test_table_shows_the_largest_difference_of_all_layouts() -> None:
    found = Checked(
        rewards=np.zeros(2), moved=1.0, trained_in=Layout.packed, plain=1.2e-7, plain_batch=0.0, own=2e-8,
        layouts={Layout.padded: (0.0, 0.0), Layout.packed: (3e-16, 4e-16), Layout.shared_prefix: None},
    )  # fmt: skip
    lines = table([("BERT", "full", found)]).splitlines()
    found.from_features = 3e-8
    assert table([("BERT", "probe", found)]).endswith("| 2e-08 | 3e-08 |")
    assert lines[2] == "| BERT | full | padded, packed | 3e-16 | 4e-16 | 1e-07 | 0 | 2e-08 |  |"
