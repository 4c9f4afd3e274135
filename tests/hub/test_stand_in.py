"""The stand-in's own reading of what goes up by Xet, on frames made by hand."""

from __future__ import annotations

import struct

import pytest

from tests.hub import xet


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (b"\x30abc", b"abc"),
        # Two letters, then 9 bytes from 2 back: a copy that reaches into itself.
        (b"\x25ab\x02\x00", b"ab" + b"ababababa"),
        # 15 + 3 literals.
        (b"\xf0\x03" + b"x" * 18, b"x" * 18),
        # A copy of 15 + 255 + 1 + 4 bytes, then a letter.
        (b"\x1fa\x01\x00\xff\x01\x10b", b"a" * 276 + b"b"),
    ],
)
def test_an_lz4_block(block: bytes, content: bytes) -> None:
    assert xet.lz4_block(block) == content


def test_a_frame_of_a_packed_and_a_stored_block() -> None:
    blocks = struct.pack("<I", 4) + b"\x30abc" + struct.pack("<I", 1 << 31 | 2) + b"de" + struct.pack("<I", 0)

    assert xet.lz4_frame(b"\x04\x22\x4d\x18\x60\x40\x82" + blocks) == b"abcde"


@pytest.mark.parametrize(("grouped", "content"), [(b"aebfcd", b"abcdef"), (b"aeibfcgdh", b"abcdefghi"), (b"", b"")])
def test_grouped_bytes(grouped: bytes, content: bytes) -> None:
    assert xet.ungrouped(grouped) == content
