"""aiohttp's private and undocumented names: the complete list of those in use, and a check that aiohttp has each.

aiohttp may change them in any minor release, so `pyproject.toml` allows one minor release only. Before the range is
raised, this module names everything that the new release lacks.
"""

import ast
import inspect
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.connector import Connection as ClientConnection
from aiohttp.http import RawRequestMessage

from mirror.server.connections import Connection
from mirror.server.response import WrittenResponse
from tests.layers import ROOT

AIOHTTP = Path(aiohttp.__file__).parent


@dataclass(frozen=True, slots=True)
class Use:
    """A name of aiohttp that a module of the mirror uses although aiohttp does not document it."""

    module: str
    owner: type
    name: str
    why: str


CONNECTIONS = "server/connections.py"
CLIENT = "upstream/body.py"
USES = (
    Use(CONNECTIONS, web.RequestHandler, "_task_handler", "whether a request is being answered"),
    Use(CONNECTIONS, web.RequestHandler, "_waiter", "whether the connection waits for a request"),
    Use(CONNECTIONS, web.RequestHandler, "_next_keepalive_close_time", "when the last response ended"),
    Use(CONNECTIONS, web.RequestHandler, "_keepalive_timeout", "when the last response ended"),
    Use(CONNECTIONS, web.RequestHandler, "_request_count", "whether received bytes completed a request head"),
    Use(CONNECTIONS, web.RequestHandler, "_messages", "requests that wait for an earlier response, and the last body"),
    Use(CONNECTIONS, RawRequestMessage, "raw_headers", "the size of the headers of requests that wait"),
    Use(CONNECTIONS, web.RequestHandler, "writing_paused", "whether the transport's write buffer is full"),
    Use(CONNECTIONS, web.RequestHandler, "handle_error", "overridden: our response to an unparsable request"),
    Use(CONNECTIONS, web.RequestHandler, "force_close", "closes an idle connection"),
    Use(CONNECTIONS, web.Server, "pre_shutdown", "closes idle connections when the mirror shuts down"),
    Use(CLIENT, aiohttp.ClientResponse, "connection", "the connection to take over"),
    Use(CLIENT, ClientConnection, "transport", "its transport, which gets our protocol"),
    Use(CLIENT, ClientConnection, "protocol", "aiohttp's protocol, told when the connection is lost"),
    Use(CLIENT, aiohttp.StreamReader, "read_nowait", "the bytes of the body that aiohttp has already read"),
)
SUBCLASSES = (Connection, WrittenResponse)


def is_private(name: str) -> bool:
    """Return whether *name* starts with an underscore and is no `__dunder__` name."""
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


@cache
def private_names_of_aiohttp() -> set[str]:
    """Return every private attribute that aiohttp's own source reads, writes or declares on any object."""
    found: set[str] = set()
    for file in AIOHTTP.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
    return {name for name in found if is_private(name)}


def private_uses(source: str, private: set[str]) -> Iterator[str]:
    """Yield the *private* names of aiohttp that *source* may use.

    A name counts if it is read or written on `self` in a class with an aiohttp base class, directly or through one of
    our own, or on any other object in a module that imports aiohttp; also if it is imported from aiohttp.
    """
    tree = ast.parse(source)
    bases = {
        node.name: {ast.unparse(base) for base in node.bases} for node in tree.body if isinstance(node, ast.ClassDef)
    }
    derived = {name for name, names in bases.items() if any(_is_aiohttp_class(base, bases) for base in names)}
    has_aiohttp = any(
        isinstance(node, ast.Import | ast.ImportFrom) and "aiohttp" in ast.unparse(node) for node in ast.walk(tree)
    )
    for node in tree.body:
        inside = isinstance(node, ast.ClassDef) and node.name in derived
        for part in ast.walk(node):
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("aiohttp"):
                yield from (alias.name for alias in part.names if is_private(alias.name))
            if isinstance(part, ast.Attribute) and part.attr in private:
                own = isinstance(part.value, ast.Name) and part.value.id in {"self", "cls"}
                if inside if own else has_aiohttp:
                    yield part.attr


def _is_aiohttp_class(base: str, bases: dict[str, set[str]]) -> bool:
    """Return whether *base*, as it is spelled in a class statement, is aiohttp's or derives from one that is."""
    if base in bases:
        return any(_is_aiohttp_class(one, bases) for one in bases[base])
    return base.startswith(("web.", "aiohttp."))


def own_attributes(kind: type) -> set[str]:
    """Return the private names that our class, or our base class of it, declares or assigns on `self`."""
    found: set[str] = set()
    for base in (one for one in kind.__mro__ if one.__module__.startswith("mirror.")):
        found.update(getattr(base, "__slots__", ()))
        found.update(vars(base))
        stores = (node for node in ast.walk(ast.parse(inspect.getsource(base))) if isinstance(node, ast.Attribute))
        found.update(node.attr for node in stores if isinstance(node.ctx, ast.Store))
    return {name for name in found if is_private(name)} - {"_abc_impl"}  # set by ABCMeta


def missing(uses: tuple[Use, ...]) -> list[str]:
    """Return one line for each listed name that the installed aiohttp lacks."""
    return [
        f"aiohttp has no {use.owner.__name__}.{use.name}, which mirror/{use.module} uses: {use.why}"
        for use in uses
        if not hasattr(use.owner, use.name)
    ]


def test_aiohttp_has_every_name_in_use() -> None:
    """A new release that lacks one fails here, with the module that needs another way."""
    assert missing(USES) == []


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.owner.__name__}.{use.name}")
def test_missing_name_is_reported(use: Use) -> None:
    """Each entry of the list is checked: on a class without the name, the report contains it and our module."""
    renamed = Use(use.module, type(use.owner.__name__, (), {}), use.name, use.why)
    (line,) = missing((renamed,))
    assert f"{use.owner.__name__}.{use.name}" in line
    assert use.module in line


def test_deleted_attribute_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for an attribute that is deleted from aiohttp's class itself."""
    monkeypatch.delattr(web.RequestHandler, "_waiter")
    (line,) = missing(USES)
    assert "RequestHandler._waiter" in line


def test_list_is_complete() -> None:
    """Every private name that the code uses is listed, and every listed name is used in its module."""
    private = private_names_of_aiohttp()
    sources = {str(file.relative_to(ROOT)): file.read_text() for file in ROOT.rglob("*.py")}
    used = {(module, name) for module, source in sources.items() for name in private_uses(source, private)}
    assert used == {(use.module, use.name) for use in USES if is_private(use.name)}
    for use in USES:
        tree = ast.parse(sources[use.module])
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert use.name in names | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, use


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from aiohttp import web\nclass A(web.RequestHandler):\n  def f(self): return self._waiter", ["_waiter"]),
        (
            "from aiohttp import web\nclass A(web.Server): ...\nclass B(A):\n  def f(self): self._waiter = 1",
            ["_waiter"],
        ),
        ("from mirror.server.connections import Connection\nclass A(Connection):\n  def f(self): self._waiter", []),
        ("from aiohttp import web\ndef f(handler): return handler._waiter", ["_waiter"]),
        ("from aiohttp import web\nclass A:\n  def f(self): return self._waiter", []),
        ("from aiohttp import web\nclass A(web.Server):\n  def f(self): return self._our_own", []),
        ("from aiohttp.web_protocol import _ErrInfo", ["_ErrInfo"]),
    ],
)
def test_new_use_is_found(source: str, found: list[str]) -> None:
    """The search for private names finds each way to use one, and none of our own attributes."""
    assert list(private_uses(source, private_names_of_aiohttp())) == found


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_own_attributes_do_not_collide(kind: type) -> None:
    """A private attribute of ours with a name of aiohttp's would silently replace it."""
    (base,) = {one for one in kind.__mro__ if one in {web.RequestHandler, web.StreamResponse}}
    inherited = {name for one in base.__mro__ for name in (*vars(one), *getattr(one, "__slots__", ()))}
    assert own_attributes(kind) & inherited == set()


def test_version_range_allows_one_minor_release() -> None:
    """The range in pyproject.toml ends before the next minor release of aiohttp."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    major, minor, *_ = version("aiohttp").split(".")
    assert f"aiohttp>={major}.{minor},<{major}.{int(minor) + 1}" in project["dependencies"]
