"""Configuration files that make container clients (docker, containerd, podman, …) use the mirror.

Pure except `file`: each client maps the current text of its file to the new text. Merging keeps everything else in the
file, and is idempotent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from mirror.clients.mentions import mentions
from mirror.primitives.lazy import lazy_attributes

if TYPE_CHECKING:
    from mirror.clients.address import Address, Mirrored
    from mirror.clients.all_clients import CLIENTS
    from mirror.clients.buildkit import BUILDKIT
    from mirror.clients.client import Client
    from mirror.clients.containerd import CONTAINERD
    from mirror.clients.docker import DOCKER
    from mirror.clients.k3s import K3S
    from mirror.clients.kaniko import KANIKO
    from mirror.clients.kubernetes import KUBERNETES
    from mirror.clients.podman import PODMAN

CLIENT_NAMES = ("docker", "containerd", "podman", "buildkit", "k3s", "kaniko", "kubernetes")
"""The clients. Each has a module of its name, with the Client in a constant of the same name."""

__all__ = [
    "BUILDKIT",
    "CLIENTS",
    "CLIENT_NAMES",
    "CONTAINERD",
    "DOCKER",
    "K3S",
    "KANIKO",
    "KUBERNETES",
    "PODMAN",
    "Address",
    "Client",
    "Mirrored",
    "load_client",
    "mentions",
]


def load_client(name: str) -> Client:
    """Return one of `CLIENT_NAMES`, without importing the modules of the others."""
    return cast("Client", getattr(import_module(f"{__name__}.{name}"), name.upper()))


if not TYPE_CHECKING:
    _MODULES = {
        **{name.upper(): name for name in CLIENT_NAMES},
        "Address": "address",
        "CLIENTS": "all_clients",
        "Client": "client",
        "Mirrored": "address",
    }
    __getattr__ = lazy_attributes(__name__, _MODULES)
