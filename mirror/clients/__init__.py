"""Configuration files that make container clients (docker, containerd, podman, …) use the mirror.

Pure except `file`: each client maps the current text of its file to the new text. Merging keeps everything else in the
file, and is idempotent.
"""

from mirror.clients.address import Address, Mirrored
from mirror.clients.buildkit import BUILDKIT
from mirror.clients.client import Client
from mirror.clients.containerd import CONTAINERD
from mirror.clients.docker import DOCKER
from mirror.clients.k3s import K3S
from mirror.clients.kaniko import KANIKO
from mirror.clients.kubernetes import KUBERNETES
from mirror.clients.mentions import mentions
from mirror.clients.podman import PODMAN

CLIENTS = {client.name: client for client in (DOCKER, CONTAINERD, PODMAN, BUILDKIT, K3S, KANIKO, KUBERNETES)}

__all__ = [
    "BUILDKIT",
    "CLIENTS",
    "CONTAINERD",
    "DOCKER",
    "K3S",
    "KANIKO",
    "KUBERNETES",
    "PODMAN",
    "Address",
    "Client",
    "Mirrored",
    "mentions",
]
