"""An operation is reported as done only after its facts are synced: a power failure must not undo it."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mirror.admin.client import AdminClient
from mirror.admin.protocol import (
    ImageSelection,
    ImageWarmed,
    ImportedManifest,
    ImportRequest,
    RepairRequest,
    WarmRequest,
)
from mirror.assembly import controlled
from mirror.config import Settings
from mirror.oci.digest import Digest
from mirror.storage.fact_store import DiskFacts
from tests.fake.content import Manifest, image
from tests.fake.registry import Registry

NAME = "docker.io/team/app:v1"
Operation = Callable[[AdminClient, Manifest], Awaitable[None]]


async def warm(client: AdminClient, _: Manifest) -> None:
    async with client.warm(WarmRequest(images=(NAME,))) as updates:
        async for update in updates:
            if isinstance(update, ImageWarmed):
                return  # before the end of the response
    raise AssertionError("the image was not warmed")


async def pin(client: AdminClient, _: Manifest) -> None:
    await client.pin(ImageSelection(images=(NAME,)))


async def unpin(client: AdminClient, _: Manifest) -> None:
    await client.unpin(ImageSelection(images=(NAME,)))


async def remove(client: AdminClient, _: Manifest) -> None:
    await client.remove(ImageSelection(images=(NAME,)))


async def collect(client: AdminClient, _: Manifest) -> None:
    await client.collect()


async def import_again(client: AdminClient, manifest: Manifest) -> None:
    digest = Digest.parse(manifest.digest)
    one = ImportedManifest(digest=digest, media_type=manifest.media_type)
    await client.import_image(ImportRequest(name=NAME, digest=digest, manifests=(one,)))


async def repair(client: AdminClient, manifest: Manifest) -> None:
    digest = Digest.parse(manifest.blobs[0].digest)
    await client.repair(RepairRequest(digest=digest, reason="damaged", device=0, inode=0, fetch=True))


def recorded(method: Callable[..., object], calls: list[str]) -> Callable[..., object]:
    @functools.wraps(method)
    def call(*arguments: object, **options: object) -> object:
        calls.append(method.__name__)
        return method(*arguments, **options)

    return call


@pytest.mark.parametrize("operation", [warm, pin, unpin, remove, collect, import_again, repair])
async def test_answer_follows_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: Operation) -> None:
    """After the last change of a fact."""
    calls: list[str] = []
    for name in ("sync", "_set", "forget_content"):
        monkeypatch.setattr(DiskFacts, name, recorded(getattr(DiskFacts, name), calls))
    manifest = image(1000)
    async with Registry.running() as registry:
        registry.publish("team/app", manifest, "v1")
        upstreams = {"docker.io": {"url": registry.url}}
        settings = Settings.model_validate({"cache": {"path": tmp_path}, "upstreams": upstreams})
        async with controlled(settings) as client:
            await warm(client, manifest)
            await pin(client, manifest)
            calls.clear()
            await operation(client, manifest)
            assert calls[-1:] == ["sync"]
