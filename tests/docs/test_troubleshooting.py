"""Every message that docs/troubleshooting.md explains is one that the program prints."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown import ROOT
from tests.docs.said import is_said

ROWS = [
    line.split(" | ")[0].removeprefix("| ")
    for line in (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| what you see")
]
MESSAGES = [found[1] for row in ROWS if (found := re.fullmatch(r"`(.+)`", row.strip())) is not None]


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_in_the_source(message: str) -> None:
    assert is_said(message)


def test_a_message_that_nobody_prints_is_noticed() -> None:
    assert len(MESSAGES) > 25
    assert is_said("optimizer.lrr is not a key; did you mean optimizer.lr?")
    assert is_said("... is being written by ...; wait for it, or choose another ...")
    assert not is_said("run_dir=DIR: is being used by ...; wait for it")
    assert not is_said("the program has crashed")
