"""A client: the file that it reads, and what has to be in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mirror.clients.address import Mirrored


def _nothing(_path: str, _text: str) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Client:
    """What makes one client use the mirror.

    Attributes:
        path: the file that it reads; None where it reads none, and is told otherwise.
        merged: what the file has to say, from what it says now (None: there is none). It raises
            ClientConfigurationInvalid where that is broken, or can't be added to.
        advice: what to do, or to know, besides; a line each.
        beside: patterns of other files that it reads.
        decided: of the path and the text of one of those, the registries about which it has the last word.
    """

    name: str
    path: str | None
    merged: Callable[[str | None, Mirrored], str]
    advice: Callable[[Mirrored], list[str]]
    beside: tuple[str, ...] = ()
    decided: Callable[[str, str], frozenset[str]] = _nothing


def certificate_advice(mirrored: Mirrored, place: str) -> list[str]:
    """Where a client looks for the authority of a certificate that the system does not know."""
    if mirrored.address.is_plain:
        return []
    return [f"If an authority of your own signed the mirror's certificate, put that authority's into {place}."]
