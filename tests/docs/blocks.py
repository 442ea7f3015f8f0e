"""Parse the blocks of a document: commands, files, and changes to another machine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

COMMANDS = {"console", "sh"}
FILES = {"toml", "json", "yaml", "text"}
MOVES = {"<!-- elsewhere -->": False, "<!-- back here -->": True}
"""Comments in a document: the blocks that follow are for another machine without upstreams, or for the first again."""

_NAMED = re.compile(r"`([\w./~-]*\w\.(?:toml|json|ya?ml|conf|txt))`")


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and the output lines that the document shows; … in a line stands for any text."""

    text: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A file and its content. *path* is None if the text before names none."""

    language: str
    path: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Move:
    """A change to another machine, or back to the first."""

    back: bool


Block = Command | File | Move


def blocks(document: Path) -> Iterator[Block]:
    """Yield all blocks of a document, in order.

    Raises:
        ValueError: if no check exists for a block's language.
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
                yield from _console_commands(token.content)
            case "fence" if token.info == "sh":
                yield Command(token.content)
            case "fence" if token.info in FILES:
                named = _NAMED.findall(before)
                yield File(token.info, named[-1] if named else None, token.content)
                before = ""
            case "fence" if token.info == "mermaid":
                pass  # tests/unit/test_documents.py checks the files that a diagram names
            case "fence":
                raise ValueError(f"{document.name}: a block of {token.info or 'no language'} cannot be checked")
            case _:
                pass


def _console_commands(text: str) -> Iterator[Command]:
    """Yield the commands behind a $ (with continuation lines), each with the output lines up to the next."""
    command, shown = "", list[str]()
    for line in text.splitlines():
        if command.endswith("\\"):
            command += f"\n{line}"
        elif line.startswith("$ "):
            if command:
                yield Command(_without_comment(command), tuple(shown))
            command, shown = line[2:], []
        else:
            shown.append(line)
    if not command:
        raise ValueError(f"a console without a command: {text}")
    yield Command(_without_comment(command), tuple(shown))


def _without_comment(command: str) -> str:
    """Remove the comment at the end of a line."""
    return re.sub(r"\s{2,}# .*$", "", command)


def missing_line(shown: tuple[str, ...], output: str) -> str | None:
    """Return the first shown line that the output lacks, in this order; None if it has all."""
    lines = iter([" ".join(line.split()) for line in output.splitlines()])
    for one in shown:
        normalized = " ".join(one.split())
        pattern = ".*".join(re.escape(part) for part in normalized.split("…"))
        if normalized and not any(re.fullmatch(pattern, line) for line in lines):
            return one
    return None
