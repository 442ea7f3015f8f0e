"""Parsing of document blocks, and comparison of shown lines with a command's output."""

from pathlib import Path

import pytest

from tests.docs.blocks import Command, File, Move, blocks, missing_line

PAGE = """
Type

    make it

and then

```console
$ first \\
    --long
shown
$ second                     # a remark
```

The content of `mirror.example` goes into `/etc/some/file.toml`:

```toml
key = 1
```

<!-- elsewhere -->

```yaml
a: b
```
"""


def test_all_blocks_are_parsed_in_order(tmp_path: Path) -> None:
    """Indented and console commands, a file whose path the text before names, and a file without a path."""
    (tmp_path / "page.md").write_text(PAGE)

    assert list(blocks(tmp_path / "page.md")) == [
        Command("make it"),
        Command("first \\\n    --long", ("shown",)),
        Command("second"),
        File("toml", "/etc/some/file.toml", "key = 1\n"),
        Move(back=False),
        File("yaml", None, "a: b\n"),
    ]


@pytest.mark.parametrize("text", ["```bash\nls\n```", "```\nls\n```", "```console\nno prompt\n```"])
def test_block_without_check_is_refused(tmp_path: Path, text: str) -> None:
    """An unknown block must not be silently skipped."""
    (tmp_path / "page.md").write_text(text)

    with pytest.raises(ValueError, match=r"block|console"):
        list(blocks(tmp_path / "page.md"))


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (("one two", "three"), None),
        (("one …", "…three…"), None),
        (("three", "one two"), "one two"),  # wrong order
        (("one",), "one"),  # a part of a line does not match
        (("four",), "four"),
        (("", "three"), None),
    ],
)
def test_shown_lines_are_compared_with_output(shown: tuple[str, ...], missing: str | None) -> None:
    """Lines match in order and as a whole; … matches any text."""
    assert missing_line(shown, "one    two\nzero\nthree\n") == missing
