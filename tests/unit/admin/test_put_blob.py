"""PUT /blobs/<digest>: only right bytes are stored, and wrong ones do not get in the way of a later pull."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mirror.admin.protocol import VERSION, VERSION_HEADER
from mirror.admin.server import AdminServer
from mirror.catalog.catalog import Catalog
from mirror.catalog.images import Images
from mirror.config import CacheSettings
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.names import Upstreams
from mirror.pull.warming import Warming
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts

CONTENT = b"content" * 1000
DIGEST = Digest.of(CONTENT)


async def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    """A download resumes what is kept: with wrong bytes the first pull would fail."""
    async with (
        DiskFacts.open(tmp_path / "ledger") as facts,
        DiskStore.at(CacheSettings(path=tmp_path, max_size=2**20, min_free=0), facts, Metrics()) as store,
    ):
        none = SimpleNamespace()
        server = AdminServer(
            cast("Upstreams", none),
            cast("Images", none),
            cast("Warming", none),
            store,
            cast("Catalog", none),
            serving=True,
        )
        application: web.Application = server.application()
        async with TestClient(TestServer(application)) as client:
            for body, status in ((CONTENT[::-1], 502), (CONTENT + b"!", 502), (CONTENT, 200)):
                reply = await client.put(f"/blobs/{DIGEST}", data=body, headers={VERSION_HEADER: VERSION})
                assert reply.status == status, await reply.text()
                async with store.ingest(DIGEST) as ingest:
                    assert ingest.written == 0
        assert DIGEST in store
