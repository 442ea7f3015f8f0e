"""BuildKit: buildkitd.toml, with a mirror for each registry and a table for the mirror's protocol."""

from __future__ import annotations

from functools import partial
from typing import Any

import tomlkit
from tomlkit.items import Array

from mirror.clients.address import Mirrored
from mirror.clients.client import Client
from mirror.clients.toml import Document, edited, read, strings_at, table_at

_PATH = "/etc/buildkit/buildkitd.toml"


def _merged(existing: str | None, mirrored: Mirrored) -> str:
    text = existing or ""
    found = read(text)
    registries = table_at(found, "registry")
    changes = _changes(registries, mirrored)
    changed = {name: {**registries.get(name, {}), **keys} for name, keys in changes.items()}
    return edited(text, {**found, "registry": {**registries, **changed}}, partial(_edit, changes))


def _changes(registries: Document, mirrored: Mirrored) -> dict[str, Document]:
    """Return the keys to set, by registry."""
    host = mirrored.address.host
    changes: dict[str, Document] = {}
    for name in mirrored.upstreams:
        there = strings_at(table_at(registries, name), "mirrors")
        changes[name] = {"mirrors": there if there[:1] == [host] else [host, *(one for one in there if one != host)]}
    own = table_at(registries, host)
    if mirrored.address.is_plain or own.get("http"):
        changes[host] = {"http": mirrored.address.is_plain}
    return changes


def _edit(changes: dict[str, Document], document: tomlkit.TOMLDocument) -> str:
    registries: Any = document.setdefault("registry", tomlkit.table(is_super_table=True))
    for name, keys in changes.items():
        if name not in registries:
            registries[name] = tomlkit.table()
        for key, value in keys.items():
            there = registries[name].get(key)
            if isinstance(there, Array) and there:  # edit in place to keep comments
                if value[0] in there:
                    there.remove(value[0])
                there.insert(0, value[0])
            elif there != value:
                registries[name][key] = value
    return tomlkit.dumps(document)


def _advice(mirrored: Mirrored) -> list[str]:
    host = mirrored.address.host
    lines = [
        (
            "Restart buildkitd, or create the builder again: docker buildx create --buildkitd-config FILE (--config "
            "before buildx 0.15). Rootless buildkitd reads ~/.config/buildkit/buildkitd.toml"
        ),
    ]
    if mirrored.address.is_loopback:
        lines.append(
            "A builder in a container can't reach a loopback address: pass --mirror an address that it can reach"
        )
    if mirrored.has_users:
        lines.append(f"This mirror has users: run docker login {host}; builds use that login")
    if not mirrored.address.is_plain:
        lines.append(f'If a private CA signed the mirror\'s certificate, add ca = ["FILE"] to [registry."{host}"]')
    return lines


BUILDKIT = Client("buildkit", _PATH, _merged, _advice)
