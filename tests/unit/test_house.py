"""The house: who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mirror

ROOT = Path(mirror.__file__).parent
# Top to bottom: nothing imports what stands below it, nor its neighbour.
HOUSE = """
errors
oci
policy access clients
config
metrics hints recent collapse belt log progress placement
users guesses
storage
upstream
tenancy
downloads
passages
outcomes questions
lists
pulls
closures
images warming
server
control
upkeep verification warmth
airgap
assembly
examination
cli
__main__
""".strip().split("\n")
FLOORS = {room: floor for floor, rooms in enumerate(HOUSE) for room in rooms.split()}
FORBIDDEN = dict.fromkeys(("oci", "policy", "access", "clients"), "asyncio aiohttp os time")


def imports(file: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in it: modules, and what is taken from them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ROOMS = {file: file.relative_to(ROOT).parts[0].removesuffix(".py") for file in ROOT.rglob("*.py")}
IMPORTS = [(room, name) for file, room in ROOMS.items() for name in imports(file) if room != "__init__"]


def test_every_room_has_its_floor() -> None:
    """The list is whole: what is not in it is not guarded."""
    assert set(ROOMS.values()) - {"__init__"} == set(FLOORS)


def test_nothing_imports_what_stands_below_it_or_beside_it() -> None:
    """A pull goes down the list only; answers come back up as values."""
    own = [(room, name.split(".")[1]) for room, name in IMPORTS if name.startswith("mirror.")]
    assert len(own) > 100
    assert [pair for pair in own if pair[0] != pair[1] and FLOORS[pair[1]] >= FLOORS[pair[0]]] == []


def test_what_is_pure_has_no_way_out() -> None:
    """The vocabulary and the decisions know neither a loop nor a network, a file system nor a clock."""
    assert [(room, name) for room, name in IMPORTS if name.split(".")[0] in FORBIDDEN.get(room, "").split()] == []


def test_one_room_asks_and_one_room_answers() -> None:
    """aiohttp's client belongs to upstream/, its server to server/; control asks the mirror itself, over no network."""
    used = {(room, name) for room, name in IMPORTS if name.split(".")[0] == "aiohttp"}
    assert {room for room, _ in used} == {"upstream", "server", "control"}
    assert {name for room, name in used if room == "server"} == {"aiohttp.web"}
    assert not {name for room, name in used if room == "upstream" and name.startswith("aiohttp.web")}
