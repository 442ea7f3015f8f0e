"""Every file, folder, section and configuration key that a document names exists."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from mirror.config import Settings, read_settings
from tests.unit.configurations import environment

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"), ROOT / "tests" / "SCENARIOS.md"]
)
FOLDERS = {
    path.name for base in (ROOT, ROOT / "mirror") for path in base.iterdir() if path.is_dir() and path.name[0] != "."
}
"""The folders whose names begin a path: those of the project, and the packages of `mirror`."""

_PATH = re.compile(r"([\w.-]+(?:/[\w.*-]+)*/?)(?:::(\w+))?")
_DIAGRAM_PATH = re.compile(r"(?<![\w/.])([a-z_]+(?:/[\w.-]+)+)")


def tokens(document: Path) -> Iterator[Token]:
    """Yield every token of *document*, with those inside lines and tables."""
    for token in MarkdownIt().parse(document.read_text()):
        yield token
        yield from token.children or ()


def diagrams(document: Path) -> list[str]:
    """Return the mermaid diagrams of *document*."""
    return [token.content for token in tokens(document) if token.type == "fence" and token.info == "mermaid"]


def named_paths(document: Path) -> Iterator[tuple[str, str]]:
    """Yield each path that *document* names in backticks or in a diagram, with the test after its `::`, if any."""
    for token in tokens(document):
        if token.type == "code_inline" and (found := _PATH.fullmatch(token.content)):
            path = found[1]
            if path.endswith(".py") or ("/" in path and path.partition("/")[0] in FOLDERS):
                yield path, found[2] or ""
    for diagram in diagrams(document):
        for path in _DIAGRAM_PATH.findall(diagram):
            yield path, ""


def located(path: str, document: Path) -> list[Path]:
    """Return what *path* names: from the root, from `mirror/`, or from the document's folder; modules without `.py`.

    A bare file name may be anywhere in the project.
    """
    bases = [ROOT, ROOT / "mirror", document.parent]
    if "/" not in path:
        return [one for folder in ("mirror", "tests", "bench", "deploy") for one in (ROOT / folder).rglob(path)]
    if "*" in path:
        return [one for base in bases for one in base.glob(path)]
    return [one for base in bases for one in (base / path, base / f"{path}.py") if one.exists()]


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of *document*, as GitHub derives them."""
    parsed = MarkdownIt().parse(document.read_text())
    headings = (parsed[at + 1].content for at, token in enumerate(parsed) if token.type == "heading_open")
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_named_in_documents_exist(document: Path) -> None:
    """Files, folders, and tests of a file."""
    for path, test in named_paths(document):
        found = located(path, document)
        assert found, f"{document.name} names {path}, which does not exist"
        assert not test or any(re.search(rf"def {test}\b", one.read_text()) for one in found), f"{path}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_documents_lead_to_files_and_sections(document: Path) -> None:
    """Links within the project; `#section` is a heading of the document that it leads to."""
    for token in tokens(document):
        href = str(token.attrs.get("href", "https://"))
        if href.startswith(("https://", "http://")):
            continue
        path, _, anchor = href.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {href}, which does not exist"
        assert not anchor or anchor in anchors(target), f"{document.name} links to {href}, which has no such section"


def test_architecture_diagrams_name_files() -> None:
    """Each of the three paths of a pull is a diagram of real modules."""
    found = diagrams(ROOT / "docs" / "architecture.md")
    assert len(found) >= 3
    assert all(len(set(_DIAGRAM_PATH.findall(diagram))) >= 5 for diagram in found)


@pytest.mark.parametrize("text", ["`pull/nowhere`", "`tests/none.py`", "`nowhere.py`", "`mirror/none/`"])
def test_missing_path_is_found(text: str, tmp_path: Path) -> None:
    """The checks above are able to fail."""
    document = tmp_path / "page.md"
    document.write_text(f"See {text}.")
    assert [path for path, _ in named_paths(document) if not located(path, document)]


def blocks(language: str) -> list[str]:
    """Return the blocks of that language in all documents."""
    found = (re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL) for document in DOCUMENTS)
    return [block for each in found for block in each]


def test_configurations_shown_are_valid(tmp_path: Path) -> None:
    """Each key exists, and each value is accepted."""
    shown = [text for text in blocks("toml") if tomllib.loads(text).keys() & Settings.model_fields.keys()]
    assert len(shown) >= 2
    for number, text in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        with environment():
            read_settings(file, {}, [])


def test_readme_is_short() -> None:
    """At most 120 lines: details belong in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_package_is_typed() -> None:
    """`py.typed` (PEP 561) is in the package, the wheel ships the whole package, and the classifier says so."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert (ROOT / "mirror" / "py.typed").is_file()
    assert "Typing :: Typed" in project["project"]["classifiers"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["mirror"]}
