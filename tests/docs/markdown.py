"""What the pages hold: fenced blocks, spans of code, and the commands in both."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^( *)```(\w*)$")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One program with its arguments, as it is typed; `...` and leading assignments of variables taken off."""

    where: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence is not None:
            opened, inside = (number, fence[1], fence[2]), []
        elif opened is not None and fence is not None:
            found.append(Block(path.name, opened[0], opened[2], tuple(inside)))
            opened = None
        elif opened is not None:
            inside.append(line.removeprefix(opened[1]))
    assert opened is None, f"{path.name}: a block that does not end"
    return found


def spans(path: Path) -> list[tuple[str, str]]:
    """(where, text) of what stands in backquotes outside of blocks, over the ends of lines too."""
    text = path.read_text(encoding="utf-8")
    # Blocks keep their line breaks, so that positions stay those of the page.
    outside = re.sub(r"(?ms)^ *```.*?^ *```$", lambda found: re.sub(r"[^\n]", "", found[0]), text)
    found = []
    # A span may go over the end of a line, never over that of a paragraph.
    at = 0
    for paragraph in re.split(r"(\n\s*\n)", outside):
        for one in _SPAN.finditer(paragraph.replace("\n", " ")):
            line = outside.count("\n", 0, at + one.start()) + 1
            found.append((f"{path.name}:{line}", one[2].replace("\\|", "|")))
        at += len(paragraph)
    return found


def typed(where: str, text: str) -> list[Command]:
    """The commands of one line of a shell, `&&` between them, a comment behind.

    Raises:
        ValueError: for a quote that does not end.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[Command] = []
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if word in ("&&", "|", ";", "&"):
            while words and _ASSIGNMENT.fullmatch(words[0]):
                words = words[1:]
            if words:
                found.append(Command(where, tuple(one for one in words if one != "...")))
            words = []
        else:
            words.append(word)
    return found


def shell_lines(block: Block) -> Iterator[tuple[str, str, list[str]]]:
    """(where, line, the output below it) of a block of commands; continued lines are put together.

    Output there is only in a block whose commands begin with `$ `.
    """
    shown = any(line.startswith("$ ") for line in block.lines)
    waiting = ""
    current: tuple[str, str, list[str]] | None = None
    for number, line in enumerate(block.lines, block.line + 1):
        if line.endswith("\\"):
            waiting += line[:-1] + " "
            continue
        whole, waiting = waiting + line, ""
        if shown and not whole.startswith("$ "):
            assert current is not None, f"{block.where}: output before the first command"
            current[2].append(whole)
            continue
        if current is not None:
            yield current
        current = (f"{block.page}:{number}", whole.removeprefix("$ ").strip(), [])
    if current is not None:
        yield current
