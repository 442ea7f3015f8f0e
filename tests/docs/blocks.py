"""The blocks of a document: commands, files, and where the reader is to go to another machine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

COMMANDS = {"console", "sh"}
FILES = {"toml", "json", "yaml", "text"}
MOVES = {"<!-- elsewhere -->": False, "<!-- back here -->": True}
"""In a document: what follows is done on another machine, from where no upstream is reached; on the first one again."""

_NAMED = re.compile(r"`([\w./~-]*\w\.(?:toml|json|ya?ml|conf|txt))`")


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed, and what the document shows of the answer; a … in that may be anything."""

    text: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """What a file is to hold. *path*: None where the text before names none."""

    language: str
    path: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Move:
    """To another machine, or back to the first."""

    back: bool


Block = Command | File | Move


def blocks(document: Path) -> Iterator[Block]:
    """All blocks of a document, in order.

    Raises:
        ValueError: a block is of a language that nobody knows how to check.
    """
    before = ""
    for token in MarkdownIt().parse(document.read_text()):
        match token.type:
            case "inline":
                before = token.content
            case "html_block" if token.content.startswith("<!--"):
                yield Move(MOVES[token.content.strip()])
            case "code_block":
                lines = token.content.replace("\\\n", " ").splitlines()
                yield from (Command(line) for line in lines if line)
            case "fence" if token.info == "console":
                yield from _typed(token.content)
            case "fence" if token.info == "sh":
                yield Command(token.content)
            case "fence" if token.info in FILES:
                named = _NAMED.findall(before)
                yield File(token.info, named[-1] if named else None, token.content)
                before = ""
            case "fence" if token.info == "mermaid":
                pass  # tests/unit/test_documents.py checks the files that a diagram names
            case "fence":
                raise ValueError(f"{document.name}: a block of {token.info or 'no language'}: how is it to be checked?")
            case _:
                pass


def _typed(text: str) -> Iterator[Command]:
    """Lines behind a $ (and those that a backslash continues), each with what follows up to the next."""
    typed, shown = "", list[str]()
    for line in text.splitlines():
        if typed.endswith("\\"):
            typed += f"\n{line}"
        elif line.startswith("$ "):
            if typed:
                yield Command(_bare(typed), tuple(shown))
            typed, shown = line[2:], []
        else:
            shown.append(line)
    if not typed:
        raise ValueError(f"a console without a command: {text}")
    yield Command(_bare(typed), tuple(shown))


def _bare(typed: str) -> str:
    """Without the remark at the end of a line: interactive shells know none."""
    return re.sub(r"\s{2,}# .*$", "", typed)


def answers(shown: tuple[str, ...], said: str) -> str | None:
    """The first of the shown lines that is not in what was said, in this order; None if all are."""
    lines = iter([" ".join(line.split()) for line in said.splitlines()])
    for one in shown:
        words = " ".join(one.split())
        pattern = ".*".join(re.escape(part) for part in words.split("…"))
        if words and not any(re.fullmatch(pattern, line) for line in lines):
            return one
    return None
