"""The description of a client: its configuration file and how to change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mirror.clients.address import Mirrored


def _nothing(_path: str, _text: str) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Client:
    """How one client is made to use the mirror.

    Attributes:
        path: the configuration file of the client; None if it reads none (flags, manifests).
        merged: returns the new text of the file from the current text (None: no file). It raises
            ClientConfigurationInvalid if the current text is broken, or can't be changed safely.
        advice: returns further steps and facts for the operator, one per line.
        other_files: globs of other configuration files of the client.
        configured_registries: returns the registries that such a file configures instead of `path`, from its path and
            text.
    """

    name: str
    path: str | None
    merged: Callable[[str | None, Mirrored], str]
    advice: Callable[[Mirrored], list[str]]
    other_files: tuple[str, ...] = ()
    configured_registries: Callable[[str, str], frozenset[str]] = _nothing


def certificate_advice(mirrored: Mirrored, place: str) -> list[str]:
    """Return advice on where a client looks for the CA certificate of a private CA."""
    if mirrored.address.is_plain:
        return []
    return [f"If a private CA signed the mirror's certificate, put the CA certificate into {place}"]


def node_advice(mirrored: Mirrored) -> list[str]:
    """Return advice for clients on the nodes of a cluster, if the address is a loopback address."""
    if not mirrored.address.is_loopback:
        return []
    return ["On each node, 127.0.0.1 is that node: unless every node runs a mirror, pass --mirror another address"]
