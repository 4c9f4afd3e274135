"""Texts as comparisons see them: without case, typography and spacing."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

# Signs that tell two answers apart in mathematics and code: -5 and 5, C# and C. Other punctuation counts as a space.
_KEPT_SIGNS = "#%&*-/@\\_"
# Curly quotes, dashes, ellipsis and no-break space.
_TYPOGRAPHY = "\u2019\u201c\u201d\u2014\u2013\u2018\u2026\u00a0"
_BATCH_CHARS = 1 << 18
_SPACE = 32
_FIRST_IDEOGRAPH = 0x3040
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def normal_form(text: str) -> str:
    """The text as comparisons see it.

    Unicode NFKC, then case folding; invisible format characters vanish; white space, control characters and
    punctuation become spaces, save the signs `# % & * - / @ \\ _`, which tell answers in mathematics and code apart;
    symbols such as `+ = < $` and emoji stay; runs of spaces become one. A text of punctuation alone keeps it.
    """
    return normal_forms([text])[0]


def normal_forms(texts: Sequence[str]) -> list[str]:
    """The normal forms of many texts, several times as fast as one by one."""
    forms = [""] * len(texts)
    plain: list[tuple[int, str]] = []
    others: list[tuple[int, str]] = []
    for index, text in enumerate(texts):
        if not text.isascii():
            text = _without_typography(text)
        if text.isascii():
            plain.append((index, text))
        else:
            others.append((index, unicodedata.normalize("NFKC", text).casefold()))
    for batch in _batches(plain):
        data = " ".join(text for _, text in batch).encode() + b" "
        codes = np.frombuffer(data.translate(_ascii_table()), dtype=np.uint8)
        _collapse(batch, codes, "ascii", forms)
    for batch in _batches(others):
        data = (" ".join(text for _, text in batch) + " ").encode("utf-32-le", "surrogatepass")
        _collapse(batch, _unicode_table()[np.frombuffer(data, dtype="<u4")], "utf-32-le", forms)
    for index, form in enumerate(forms):
        if not form:
            forms[index] = " ".join(texts[index].split())
    return forms


def words_of(form: str) -> list[bytes]:
    """The words of a normal form, in UTF-8: without symbols and signs.

    A word is a run of letters, digits and combining marks, or one Chinese or Japanese character.
    """
    if form.isascii():
        return form.encode().translate(_ascii_words_table()).split()
    codes = _unicode_words_table()[np.frombuffer(form.encode("utf-32-le", "surrogatepass"), dtype="<u4")]
    spaced = codes.tobytes().decode("utf-32-le")
    if codes.max() >= _FIRST_IDEOGRAPH:
        spaced = _IDEOGRAPH.sub(r" \g<0> ", spaced)
    words: list[bytes] = spaced.encode().split()
    return words


def stable_hash(form: str) -> int:
    """64 bits that are the same in every process, unlike Python's own hash; 0 of an empty text only."""
    if not form:
        return 0
    digest = hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space and invisible format characters at most."""
    return all(one.isspace() or unicodedata.category(one) == "Cf" for one in text)


def _without_typography(text: str) -> str:
    # An English text with curly quotes then takes the short way of ASCII; one scan per sign is faster than translate.
    for sign in _TYPOGRAPHY:
        if sign in text:
            text = text.replace(sign, " ")
    return text


def _batches(texts: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for one in texts:
        batch.append(one)
        size += len(one[1])
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _collapse(batch: list[tuple[int, str]], codes: NDArray[np.integer], encoding: str, forms: list[str]) -> None:
    """Make one space of each run and cut the texts of the batch, each followed by a space, apart again.

    Args:
        codes: [n] characters of all texts after the table; 0 vanishes.
        forms: the result is put there, at the numbers in `batch`.
    """
    lengths = np.array([len(text) + 1 for _, text in batch])
    if encoding != "ascii":
        visible = codes != 0
        lengths = _counts(visible, lengths)
        codes = codes[visible]
    keep = codes != _SPACE
    keep[1:] |= keep[:-1]
    kept = _counts(keep, lengths)
    text = codes[keep].tobytes().decode(encoding, "surrogatepass" if encoding != "ascii" else "strict")
    start = 0
    for (index, _), length in zip(batch, kept.tolist(), strict=True):
        # The first space after a text is kept with it; the first one before the first text may be, too.
        forms[index] = text[start : start + length].strip(" ")
        start += length


def _counts(mask: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many are true within each of the consecutive stretches of the given positive lengths."""
    starts = np.cumsum(lengths) - lengths
    return np.add.reduceat(mask.view(np.uint8), starts, dtype=np.int64)


@cache
def _ascii_table() -> bytes:
    signs = _KEPT_SIGNS.encode()
    kept = (chr(code).isalnum() or code in signs or unicodedata.category(chr(code))[0] == "S" for code in range(128))
    return bytes(code if keep else _SPACE for code, keep in enumerate(kept)).lower() + b" " * 128


@cache
def _ascii_words_table() -> bytes:
    return bytes(code if chr(code).isalnum() else _SPACE for code in range(128)).lower() + b" " * 128


@cache
def _unicode_table() -> NDArray[np.uint32]:
    """[1114112] the character that stands for each in the normal form; 0: none."""
    table = np.arange(0x110000, dtype="<u4")
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category == "Cf":
            table[code] = 0
        elif category[0] in "ZP" or category == "Cc":
            table[code] = _SPACE
    for sign in _KEPT_SIGNS:
        table[ord(sign)] = ord(sign)
    table[0x2010] = ord("-")
    return table


@cache
def _unicode_words_table() -> NDArray[np.uint32]:
    """[1114112] every letter, digit and mark, and a space for the other characters."""
    table = np.full(0x110000, _SPACE, dtype="<u4")
    for code in range(0x110000):
        if unicodedata.category(chr(code))[0] in "LNM":
            table[code] = code
    return table
