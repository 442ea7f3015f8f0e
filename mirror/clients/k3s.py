"""k3s and RKE2: registries.yaml, from which they generate containerd's hosts.toml."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import yaml

from mirror.clients.address import Mirrored
from mirror.clients.client import Client, node_advice
from mirror.errors import ClientConfigurationInvalid

_PATH = "/etc/rancher/k3s/registries.yaml"


def _merged(existing: str | None, mirrored: Mirrored) -> str:
    found = _read(existing or "")
    wanted = deepcopy(found)
    url = mirrored.address.url
    mirrors = _mapping(wanted, "mirrors")
    for name in mirrored.upstreams:
        mirror = _mapping(mirrors, name)
        there = mirror.get("endpoint") or []
        if not isinstance(there, list) or not all(isinstance(one, str) for one in there):
            raise ClientConfigurationInvalid(f"mirrors.{name}.endpoint must be a list of URLs")
        if there[:1] != [url]:
            mirror["endpoint"] = [url, *(one for one in there if one != url)]
    if existing is not None and wanted == found:
        return existing
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def _read(text: str) -> dict[Any, Any]:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ClientConfigurationInvalid(f"it is not YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ClientConfigurationInvalid("it must be a mapping")
    return found


def _mapping(parent: dict[Any, Any], key: str) -> dict[Any, Any]:
    """Return the mapping at *key*; add an empty one if it is missing."""
    if parent.get(key) is None:
        parent[key] = {}
    if not isinstance(parent[key], dict):
        raise ClientConfigurationInvalid(f"{key} must be a mapping")
    found: dict[Any, Any] = parent[key]
    return found


def _advice(mirrored: Mirrored) -> list[str]:
    host = mirrored.address.host
    lines = [
        (
            "Put the file on every node and restart k3s there: systemctl restart k3s (agents: k3s-agent). "
            "RKE2 reads /etc/rancher/rke2/registries.yaml"
        ),
        "If --write changes an existing file, only its backup keeps the comments",
        *node_advice(mirrored),
    ]
    if mirrored.has_users:
        lines.append(f'This mirror has users: set username and password below configs: "{host}": auth:')
    if not mirrored.address.is_plain:
        lines.append(f'If a private CA signed the mirror\'s certificate, set ca_file below configs: "{host}": tls:')
    return lines


K3S = Client("k3s", _PATH, _merged, _advice)
