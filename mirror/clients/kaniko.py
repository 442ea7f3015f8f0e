"""kaniko: flags of its executor. It reads no configuration file."""

from __future__ import annotations

from mirror.clients.address import Mirrored
from mirror.clients.client import Client
from mirror.oci.names import DOCKER_HUB

_HUB = "index.docker.io"  # the name that kaniko uses


def _flags(_: str | None, mirrored: Mirrored) -> str:
    host = mirrored.address.host
    names = {_HUB if name == DOCKER_HUB else name: name for name in mirrored.upstreams}
    flags = [f"--registry-map={known}={host}/{name}" for known, name in names.items()]
    if mirrored.address.is_plain:
        flags.append(f"--insecure-registry={host}")
    return "".join(f"{flag}\n" for flag in flags)


def _advice(mirrored: Mirrored) -> list[str]:
    host = mirrored.address.host
    lines = ["Add these to the arguments of kaniko's executor (--registry-map: since 1.23)"]
    if mirrored.address.is_loopback:
        lines.append("kaniko runs in a container: pass --mirror an address that it can reach from there")
    if mirrored.has_users:
        lines.append(f'This mirror has users: add {host} to "auths" in /kaniko/.docker/config.json')
    if not mirrored.address.is_plain:
        lines.append(f"If a private CA signed the mirror's certificate, add --registry-certificate={host}=FILE")
    return lines


KANIKO = Client("kaniko", None, _flags, _advice)
