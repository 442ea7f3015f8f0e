"""The layers: which package may import which, and which modules are pure."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.layers import DOCSTRING, IMPURE, LAYERS, PURE, ROOT, docstring

LAYER_OF = {name: number for number, (names, _) in enumerate(LAYERS) for name in names}


def imports(file: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, at any depth: modules, and names from them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


PACKAGE_OF = {file: file.relative_to(ROOT).parts[0].removesuffix(".py") for file in ROOT.rglob("*.py")}
IMPORTS = [(file, name) for file in PACKAGE_OF for name in imports(file)]


def test_every_package_has_a_layer() -> None:
    """A package that is missing from the list would not be checked."""
    assert set(PACKAGE_OF.values()) - {"__init__"} == set(LAYER_OF)


def test_the_layout_stays_small() -> None:
    """At most 20 packages and modules at the top, in at most 12 layers."""
    assert len(LAYER_OF) <= 20
    assert len(LAYERS) <= 12


def test_the_package_docstring_is_generated_from_the_list() -> None:
    """`make reference` writes it."""
    assert DOCSTRING.read_text() == docstring()


def test_packages_import_only_lower_layers() -> None:
    """A pull goes down the layers only; answers come back up as values."""
    own = [(PACKAGE_OF[file], name.split(".")[1]) for file, name in IMPORTS if name.startswith("mirror.")]
    assert len(own) > 100
    wrong = {(one, other) for one, other in own if one != other and LAYER_OF[other] >= LAYER_OF[one]}
    assert wrong == set()


def test_pure_modules_have_no_io() -> None:
    """The vocabulary and the decisions import no event loop, network, file system or clock."""
    for entry in PURE:
        assert (ROOT / entry).exists(), entry
    pure = [(str(file.relative_to(ROOT)), name) for file, name in IMPORTS]
    found = [(file, name) for file, name in pure if file.startswith(PURE) and name.split(".")[0] in IMPURE]
    assert found == []


def test_http_client_and_server_code_have_one_place_each() -> None:
    """The client belongs to upstream/, the server to server/; both halves of the admin socket to admin/."""
    used = {(str(file.relative_to(ROOT)), name) for file, name in IMPORTS if name.split(".")[0] == "aiohttp"}
    assert {file.split("/")[0] for file, _ in used} == {"upstream", "server", "admin"}
    for file, name in used:
        serves = name.startswith("aiohttp.web")
        allowed = {"upstream": not serves, "server": serves, "admin": serves is not (file == "admin/client.py")}
        assert allowed[file.split("/")[0]], (file, name)


def test_only_the_assembly_names_classes_of_the_disk_store() -> None:
    """All others know the protocols of storage/protocols.py, which another store can implement, and the values."""
    shared = {"protocols.py", "facts.py", "index_json.py", "threads.py"}
    classes = {
        f"mirror.storage.{file.stem}.{node.name}"
        for file in (ROOT / "storage").glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and file.name not in shared
    }
    assert {"mirror.storage.disk.DiskStore", "mirror.storage.layout.Layout"} < classes
    assert {PACKAGE_OF[file] for file, name in IMPORTS if name in classes} == {"storage", "assembly"}
