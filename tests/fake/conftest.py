"""Fixtures of the fake registry's own tests: a registry with one blob, and a client of it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from tests.fake.content import Blob
from tests.fake.registry import Registry

BLOB = Blob.noise(300_000)


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with Registry.running() as registry:
        registry.add("org/app", BLOB)
        yield registry


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(registry.url, auto_decompress=False, timeout=timeout) as client:
        yield client


def blob_path(blob: Blob = BLOB) -> URL:
    return URL(f"/v2/org/app/blobs/{blob.digest}", encoded=True)
