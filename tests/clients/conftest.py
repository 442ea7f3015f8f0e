"""Fixtures: an upstream registry and a mirror in front of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.real.mirror import Mirror, mirror
from tests.real.registry import Registry, docker_registry


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Registry]:
    """An open docker-registry in the role of Docker Hub."""
    async with docker_registry(tmp_path / "upstream") as registry:
        yield registry


@pytest.fixture
async def mirrored(tmp_path: Path, upstream: Registry) -> AsyncIterator[Mirror]:
    """A mirror with default settings and an empty cache, with *upstream* as docker.io."""
    async with mirror(tmp_path / "mirror", upstreams={"docker.io": upstream.url}) as started:
        yield started
