"""A command as it is typed, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


def exit_code(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], program: str, *arguments: str) -> int:
    """Of `program arguments`; 0 when `main` returns."""
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
