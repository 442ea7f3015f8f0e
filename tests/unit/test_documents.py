"""Documents point at what exists."""

import re
import tomllib
from pathlib import Path

import pytest

from mirror.config import Settings, read_settings
from tests.unit.configurations import environment

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"), ROOT / "tests" / "SCENARIOS.md"]
)
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one.exists()], ids=lambda path: path.name)
def test_what_a_document_names_is_there(document: Path) -> None:
    """Tests that show a promise, and files that are linked to."""
    text = document.read_text()
    for path, name in _TEST.findall(text):
        assert (ROOT / path).is_file(), path
        assert not name or re.search(rf"def {name}\b", (ROOT / path).read_text()), f"{path}::{name}"
    for target in _LINK.findall(text):
        assert (document.parent / target).exists(), target


def blocks(language: str) -> list[str]:
    """The blocks of that language in all documents."""
    found = (re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL) for document in DOCUMENTS)
    return [block for each in found for block in each]


def test_every_configuration_that_is_shown_can_be_used(tmp_path: Path) -> None:
    """Each key is one, each value makes sense."""
    shown = [text for text in blocks("toml") if tomllib.loads(text).keys() & Settings.model_fields.keys()]
    assert len(shown) >= 2
    for number, text in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        with environment():
            read_settings(file, {}, [])
