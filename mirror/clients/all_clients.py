"""All clients by name. It imports every client's module, with its TOML and YAML libraries."""

from __future__ import annotations

from mirror.clients import CLIENT_NAMES, load_client

CLIENTS = {name: load_client(name) for name in CLIENT_NAMES}
