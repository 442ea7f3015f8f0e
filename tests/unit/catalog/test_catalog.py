"""Rights of a repository: it holds the content that it pulled until that is removed, also after a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.catalog.catalog import Catalog
from mirror.config import CacheSettings
from mirror.errors import NoSpace
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST, Manifest
from mirror.oci.names import Repository
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts
from mirror.storage.protocols import BlobStore

OURS, THEIRS = Repository("r.test", "app"), Repository("r.test", "other")
BLOBS = {Digest.of(body): body for body in (b"config", b"layer", b"other layer")}
CONFIG, LAYER, OTHER_LAYER = BLOBS


def _image(*layers: Digest) -> Manifest:
    references = [{"mediaType": "application/octet-stream", "digest": str(layer), "size": 5} for layer in layers]
    body = json.dumps({"schemaVersion": 2, "config": references[0], "layers": references[1:]}).encode()
    return Manifest.read(Digest.of(body), body, OCI_MANIFEST)


IMAGES = {image.digest: image for image in (_image(CONFIG, LAYER), _image(CONFIG, OTHER_LAYER))}
CONTENT = [*BLOBS, *IMAGES]


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[tuple[Catalog, BlobStore]]:
    """Open the catalog as a start does."""
    async with (
        DiskFacts.open(root / "ledger") as facts,
        DiskStore.at(CacheSettings(path=root, max_size=2**20, min_free=0), facts, Metrics()) as store,
    ):
        yield Catalog(store, facts), store


async def test_failed_writer_takes_no_right_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pulls of one manifest, the first of which finds no space: when the content is stored, its row exists."""
    image = next(iter(IMAGES.values()))
    async with opened(tmp_path) as (catalog, store):
        put, rows, attempts = store.put, [], iter([True, False])

        async def put_after_failure(digest: Digest, content: bytes) -> None:
            is_first = next(attempts)
            await asyncio.sleep(0)  # the other writer runs
            if is_first:
                raise NoSpace("the disk is full")
            await put(digest, content)
            rows.append(await Catalog(store, catalog._facts).holds(OURS, digest))

        monkeypatch.setattr(store, "put", put_after_failure)
        results = await asyncio.gather(*(catalog.keep_manifest(OURS, image) for _ in range(2)), return_exceptions=True)
    assert [type(one) for one in results] == [NoSpace, type(None)]
    assert rows == [True]


class Rows:
    """The model: the digests of `OURS` that have a row."""

    def __init__(self) -> None:
        self.held = set[Digest]()

    @property
    def all(self) -> set[Digest]:
        images = (IMAGES[digest] for digest in self.held if digest in IMAGES)
        return self.held | {one.digest for image in images for one in image.references}


async def pull(catalog: Catalog, store: BlobStore, digest: Digest) -> None:
    if digest in IMAGES:
        await catalog.keep_manifest(OURS, IMAGES[digest])
    else:
        await catalog.keep_holding(OURS, digest, "pulled")
        await store.put(digest, BLOBS[digest])


steps = st.lists(st.tuples(st.sampled_from(["pull", "evict", "remove"]), st.sampled_from(CONTENT)), max_size=12)


@given(st.lists(steps, min_size=1, max_size=3))
@example([[*(("pull", one) for one in (*IMAGES, *BLOBS)), ("evict", next(iter(IMAGES)))]])
def test_rights_outlive_other_content_and_restarts(lives: list[list[tuple[str, Digest]]]) -> None:
    """A blob that was pulled is held as long as it is stored, whether or not its manifest still is."""

    async def scene(root: Path) -> None:
        rows = Rows()
        for life in lives:
            async with opened(root) as (catalog, store):
                for digest in CONTENT:
                    assert await catalog.holds(OURS, digest) == (digest in rows.all), digest
                for step, digest in life:
                    match step:
                        case "pull":
                            await pull(catalog, store, digest)
                            rows.held.add(digest)
                        case "evict":
                            await store.discard(digest)
                            rows.held.discard(digest)
                        case _:
                            await catalog.drop_holdings(OURS, {digest})
                            rows.held.discard(digest)
                    assert {one for one in CONTENT if await catalog.holds(OURS, one)} == rows.all
                assert not [digest for digest in CONTENT if await catalog.holds(THEIRS, digest)]

    with TemporaryDirectory() as root:
        asyncio.run(scene(Path(root)))
