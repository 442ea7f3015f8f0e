"""PUT /blobs/<digest>: only right bytes are stored, and wrong ones do not get in the way of a later pull."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mirror.admin.protocol import VERSION, VERSION_HEADER
from mirror.admin.server import AdminServer
from mirror.admin.unix_socket import administered
from mirror.catalog.catalog import Catalog
from mirror.catalog.images import Images
from mirror.config import CacheSettings
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.names import Upstreams
from mirror.pull.warming import Warming
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from tests.real.program import eventually

CONTENT = b"content" * 1000
DIGEST = Digest.of(CONTENT)


def server_of(store: DiskStore) -> AdminServer:
    """Return an admin server that has nothing but a store."""
    none = SimpleNamespace()
    return AdminServer(
        cast("Upstreams", none),
        cast("Images", none),
        cast("Warming", none),
        store,
        cast("Catalog", none),
        serving=True,
    )


async def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    """A download resumes what is kept: with wrong bytes the first pull would fail."""
    async with (
        DiskFacts.open(tmp_path / "ledger") as facts,
        DiskStore.at(CacheSettings(path=tmp_path, max_size=2**20, min_free=0), facts, Metrics()) as store,
    ):
        application: web.Application = server_of(store).application()
        async with TestClient(TestServer(application)) as client:
            for body, status in ((CONTENT[::-1], 502), (CONTENT + b"!", 502), (CONTENT, 200)):
                reply = await client.put(f"/blobs/{DIGEST}", data=body, headers={VERSION_HEADER: VERSION})
                assert reply.status == status, await reply.text()
                async with store.ingest(DIGEST) as ingest:
                    assert ingest.written == 0
        assert DIGEST in store


async def test_unfinished_upload_does_not_delay_the_end(tmp_path: Path) -> None:
    """The client may wait for the mirror, which reads no more of the upload once it stops."""
    path = tmp_path / "control.sock"

    async def begun() -> bool:
        return any((tmp_path / "ingest").iterdir())

    async with (
        DiskFacts.open(tmp_path / "ledger") as facts,
        DiskStore.at(CacheSettings(path=tmp_path, max_size=2**20, min_free=0), facts, Metrics()) as store,
    ):
        async with asyncio.timeout(30), administered(server_of(store), path):
            reader, writer = await asyncio.open_unix_connection(path)
            head = f"PUT /blobs/{DIGEST} HTTP/1.1\r\nHost: mirror\r\n{VERSION_HEADER}: {VERSION}\r\n"
            writer.write(f"{head}Content-Length: {len(CONTENT)}\r\n\r\n".encode() + CONTENT[:100])
            await eventually(begun)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert DIGEST not in store
