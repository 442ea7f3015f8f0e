"""dockerd: `registry-mirrors` of daemon.json, which hold for Docker Hub and for nothing else."""

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
            f"dockerd asks its mirrors for images of Docker Hub without saying so, and what is unnamed goes to "
            f"{mirrored.default or 'no upstream'} here: set default = true in [upstreams.{DOCKER_HUB!r}]"
        )
    found = _read(existing or "")
    wanted = dict(found)
    url = mirrored.address.url
    wanted["registry-mirrors"] = _first(url, _list_of(found, "registry-mirrors"))
    if mirrored.address.is_plain and not mirrored.address.is_loopback:
        insecure = _list_of(found, "insecure-registries")
        wanted["insecure-registries"] = (
            insecure
            if mirrored.address.host in insecure
            else [
                *insecure,
                mirrored.address.host,
            ]
        )
    if existing is not None and wanted == found:
        return existing
    indented = _INDENTED.search(existing or "")
    return json.dumps(wanted, indent=indented[1] if indented else 2, ensure_ascii=False) + "\n"


def _first(url: str, others: list[str]) -> list[str]:
    """*others* with *url* before all; dockerd takes it for the same with a slash at its end."""
    if others and others[0].rstrip("/") == url:
        return others
    return [url, *(one for one in others if one.rstrip("/") != url)]


def _read(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_number) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ClientConfigurationInvalid(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ClientConfigurationInvalid("it holds no JSON object")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _list_of(found: dict[str, Any], key: str) -> list[str]:
    value = found.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ClientConfigurationInvalid(f"{key} is no list of strings")
    return value


def _advice(mirrored: Mirrored) -> list[str]:
    host = mirrored.address.host
    lines = [
        "Make dockerd read it: systemctl reload docker; containers go on running",
        (
            "dockerd uses mirrors for Docker Hub only; pull from other registries by the mirror's name, such as "
            f"docker pull {host}/quay.io/ORGANISATION/IMAGE"
        ),
    ]
    if mirrored.has_users:
        lines.append(
            "This mirror has users, and dockerd shows mirrors the login for Docker Hub: docker login, with a user of "
            f"the mirror; for pulls by its name: docker login {host}"
        )
    return lines + certificate_advice(mirrored, f"/etc/docker/certs.d/{host}/ca.crt")


DOCKER = Client("docker", _PATH, _merged, _advice)
