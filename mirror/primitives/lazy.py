"""Lazy re-exports of a package: a name's module is imported when the name is first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Return a `__getattr__` for a package, which imports its public names from its *modules* on first use.

    It keeps the package's `__init__` cheap to import for commands that need only one light module of it, such as
    `mirror --help`. Write the same imports below `if TYPE_CHECKING:`, so that type checkers see the names.

    Args:
        modules: the module of each public name, relative to the package.
    """

    def find(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, found)  # the next use does not call this function
        return found

    return find
