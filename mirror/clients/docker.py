"""dockerd: `registry-mirrors` in daemon.json, which apply to Docker Hub only."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from mirror.clients.address import Mirrored
from mirror.clients.client import Client, certificate_advice
from mirror.errors import ClientConfigurationInvalid
from mirror.oci.names import DOCKER_HUB

_PATH = "/etc/docker/daemon.json"
_INDENTED = re.compile(r'\n([ \t]+)"')


def _merged(existing: str | None, mirrored: Mirrored) -> str:
    if mirrored.default != DOCKER_HUB:
        raise ClientConfigurationInvalid(
            f"dockerd requests images of Docker Hub without naming it, and this mirror sends such requests to "
            f"{mirrored.default or 'no upstream'}: set default = true in [upstreams.{DOCKER_HUB!r}]"
        )
    found = _read(existing or "")
    wanted = dict(found)
    url = mirrored.address.url
    wanted["registry-mirrors"] = _first(url, _list_of(found, "registry-mirrors"))
    if mirrored.address.is_plain and not mirrored.address.is_loopback:
        insecure = _list_of(found, "insecure-registries")
        host = mirrored.address.host
        wanted["insecure-registries"] = insecure if host in insecure else [*insecure, host]
    if existing is not None and wanted == found:
        return existing
    indented = _INDENTED.search(existing or "")
    return json.dumps(wanted, indent=indented[1] if indented else 2, ensure_ascii=False) + "\n"


def _first(url: str, others: list[str]) -> list[str]:
    """Return *others* with *url* in front. To dockerd, a URL with a trailing slash is the same."""
    if others and others[0].rstrip("/") == url:
        return others
    return [url, *(one for one in others if one.rstrip("/") != url)]


def _read(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse_constant) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ClientConfigurationInvalid(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ClientConfigurationInvalid("it must be a JSON object")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not valid JSON")


def _list_of(found: dict[str, Any], key: str) -> list[str]:
    value = found.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ClientConfigurationInvalid(f"{key} must be a list of strings")
    return value


def _advice(mirrored: Mirrored) -> list[str]:
    host = mirrored.address.host
    lines = [
        "Make dockerd read the file: systemctl reload docker (containers keep running)",
        (
            "dockerd uses mirrors for Docker Hub only. Pull from other registries through the mirror's name: "
            f"docker pull {host}/quay.io/ORGANIZATION/IMAGE"
        ),
    ]
    if mirrored.has_users:
        lines.append(
            "This mirror has users, and dockerd sends its mirrors the login for Docker Hub: run docker login with a "
            f"user of the mirror; for pulls through the mirror's name, also docker login {host}"
        )
    return lines + certificate_advice(mirrored, f"/etc/docker/certs.d/{host}/ca.crt")


DOCKER = Client("docker", _PATH, _merged, _advice)
