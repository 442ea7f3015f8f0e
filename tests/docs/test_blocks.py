"""What is taken out of a document, and what is held against what was said."""

from pathlib import Path

import pytest

from tests.docs.blocks import Command, File, Move, answers, blocks

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

What is in `mirror.example` goes into `/etc/some/file.toml`:

```toml
key = 1
```

<!-- elsewhere -->

```yaml
a: b
```
"""


def test_every_block_is_found_in_its_order(tmp_path: Path) -> None:
    """Indented, typed, of a file that the text before names, and of one that it does not."""
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
def test_a_block_that_nobody_can_check_is_refused(tmp_path: Path, text: str) -> None:
    """So that none is left out unseen."""
    (tmp_path / "page.md").write_text(text)

    with pytest.raises(ValueError, match=r"block|console"):
        list(blocks(tmp_path / "page.md"))


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (("one two", "three"), None),
        (("one …", "…three…"), None),
        (("three", "one two"), "one two"),  # not in this order
        (("one",), "one"),  # a part of a line is no line
        (("four",), "four"),
        (("", "three"), None),
    ],
)
def test_shown_lines_are_looked_for_in_what_was_said(shown: tuple[str, ...], missing: str | None) -> None:
    """In order, whole, with … for anything."""
    assert answers(shown, "one    two\nzero\nthree\n") == missing
