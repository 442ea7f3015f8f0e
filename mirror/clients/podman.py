"""podman, buildah, skopeo and CRI-O: a mirror for each registry, in a file of its own in registries.conf.d.

These clients send no `ns`: the location of the mirror contains the registry's name, so that it is in the path.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import tomlkit

from mirror.clients.address import Mirrored
from mirror.clients.client import Client, certificate_advice
from mirror.clients.toml import Document, edited, read
from mirror.errors import ClientConfigurationInvalid

_PATH = "/etc/containers/registries.conf.d/mirror.conf"
_OTHER_FILES = ("/etc/containers/registries.conf", "/etc/containers/registries.conf.d/*.conf")


def _merged(existing: str | None, mirrored: Mirrored) -> str:
    text = existing or ""
    found = read(text)
    wanted = deepcopy(found)
    _add_mirrors(wanted, mirrored)
    return edited(text, wanted, partial(_edit, mirrored))


def _add_mirrors(document: Document, mirrored: Mirrored) -> None:
    """Add the mirror to each registry of the parsed document."""
    registries = _tables(document, "registry")
    document["registry"] = registries
    for name in mirrored.upstreams:
        registry = _registry(registries, name)
        if registry is None:
            registry = {"prefix": name, "location": name}
            registries.append(registry)
        mirror = _mirror(mirrored, name)
        there = _tables(registry, "mirror")
        same = [one for one in there if one.get("location") == mirror["location"]]
        if not same:
            registry["mirror"] = [mirror, *there]
        elif mirrored.address.is_plain != bool(same[0].get("insecure", False)):
            same[0]["insecure"] = mirrored.address.is_plain


def _edit(mirrored: Mirrored, document: tomlkit.TOMLDocument) -> str:
    """Add the mirror to each registry of the document, keep its formatting, and return its text."""
    registries: Any = document.setdefault("registry", tomlkit.aot())
    for name in mirrored.upstreams:
        registry = _registry(registries, name)
        if registry is None:
            registry = tomlkit.item({"prefix": name, "location": name})
            registries.append(registry)
            registry = registries[-1]
        mirror = _mirror(mirrored, name)
        there = registry.get("mirror", [])
        same = [one for one in there if one.get("location") == mirror["location"]]
        if same:
            if mirrored.address.is_plain != bool(same[0].get("insecure", False)):
                same[0]["insecure"] = mirrored.address.is_plain
        elif there:
            there.insert(0, tomlkit.item(mirror))
        else:
            first = tomlkit.aot()
            first.append(tomlkit.item(mirror))
            registry["mirror"] = first
    return tomlkit.dumps(document)


def _registry(registries: list[Document], name: str) -> Document | None:
    return next((one for one in registries if one.get("prefix", one.get("location")) == name), None)


def _mirror(mirrored: Mirrored, name: str) -> Document:
    location: Document = {"location": f"{mirrored.address.host}/{name}"}
    return location | ({"insecure": True} if mirrored.address.is_plain else {})


def _tables(document: Document, key: str) -> list[Document]:
    value = document.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ClientConfigurationInvalid(f"{key} must be an array of tables")
    return value


def _advice(mirrored: Mirrored) -> list[str]:
    host = mirrored.address.host
    lines = [
        "podman, buildah and skopeo read the file at the next pull. For CRI-O: systemctl reload crio",
        "If a user has ~/.config/containers/registries.conf, that file is read instead",
    ]
    if mirrored.has_users:
        lines.append(f"This mirror has users: run podman login {host}")
    return lines + certificate_advice(mirrored, f"/etc/containers/certs.d/{host}/ca.crt")


def _configured_registries(_: str, text: str) -> frozenset[str]:
    """Return the registries in a file: its [[registry]] replaces ours as a whole, without merging keys."""
    tables = _tables(read(text), "registry")
    return frozenset(str(one.get("prefix", one.get("location", ""))) for one in tables)


PODMAN = Client("podman", _PATH, _merged, _advice, _OTHER_FILES, _configured_registries)
