"""Xet's two kinds of upload read back into files: xorbs, which hold compressed chunks, and shards, which say whose.

After the public specification of the protocol, https://huggingface.co/docs/xet, as far as the client's uploads go.
"""

from __future__ import annotations

import struct

_ENTRY = 48
"""Bytes of each record of a shard."""
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30
_STORED, _LZ4, _GROUPED_LZ4 = 0, 1, 2


def chunks(xorb: bytes, count: int) -> list[bytes]:
    """The first `count` chunks of a xorb: 8 bytes of header each (version, two lengths of 3 bytes, a kind between)."""
    found, at = [], 0
    for _ in range(count):
        packed, kind, length = (int.from_bytes(xorb[at + i : at + j], "little") for i, j in ((1, 4), (4, 5), (5, 8)))
        content = xorb[at + 8 : at + 8 + packed]
        if kind != _STORED:
            content = lz4_frame(content)
        if kind == _GROUPED_LZ4:
            content = ungrouped(content)
        assert kind in (_STORED, _LZ4, _GROUPED_LZ4)
        assert len(content) == length
        found.append(content)
        at += 8 + packed
    return found


def files(shard: bytes, xorbs: dict[str, bytes]) -> dict[str, bytes]:
    """SHA-256 -> content of the files that a shard describes."""
    found, at = {}, _ENTRY
    while shard[at : at + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY
        content = b""
        for number in range(count):
            record = shard[at + number * _ENTRY :]
            _, length, first, end = struct.unpack_from("<IIII", record, 32)
            part = b"".join(chunks(xorbs[hexadecimal(record)], end)[first:])
            assert len(part) == length
            content += part
        at += count * _ENTRY * (2 if flags & _VERIFIED else 1)
        assert flags & _WITH_SHA256
        found[hexadecimal(shard[at:])] = content
        at += _ENTRY
    return found


def hexadecimal(record: bytes) -> str:
    """The hash that a record begins with: four numbers of 8 bytes."""
    return "".join(f"{one:016x}" for one in struct.unpack_from("<4Q", record))


def ungrouped(content: bytes) -> bytes:
    """Every fourth byte together, undone."""
    whole, at = bytearray(len(content)), 0
    for lane in range(4):
        size = len(range(lane, len(content), 4))
        whole[lane::4] = content[at : at + size]
        at += size
    return bytes(whole)


def lz4_frame(frame: bytes) -> bytes:
    """A frame of independent blocks without checksums."""
    assert frame[:4] == b"\x04\x22\x4d\x18"
    assert frame[4] == 0x60
    found, at = b"", 7
    while size := int.from_bytes(frame[at : at + 4], "little"):
        length = size & 0x7FFFFFFF
        block = frame[at + 4 : at + 4 + length]
        found += block if size >> 31 else lz4_block(block)
        at += 4 + length
    return found


def lz4_block(block: bytes) -> bytes:
    """Literals, and copies of what came before, in turn."""
    found, at = bytearray(), 0

    def more(length: int) -> int:
        nonlocal at
        if length == 15:
            while True:
                length += block[at]
                at += 1
                if block[at - 1] != 255:
                    break
        return length

    while at < len(block):
        token = block[at]
        at += 1
        literals = more(token >> 4)
        found += block[at : at + literals]
        at += literals
        if at >= len(block):
            break
        distance = int.from_bytes(block[at : at + 2], "little")
        at += 2
        length = more(token & 15) + 4
        start = len(found) - distance
        seen = found[start:]
        # A copy may reach into itself.
        found += (bytes(seen) * (length // distance + 1))[:length]
    return bytes(found)
