"""Warming: a digest is fetched only if it is in the store afterwards."""

from typing import cast

import pytest

from mirror.errors import StorageFailed
from mirror.pull.protocols import RunningDownloads
from mirror.pull.warming import Warming
from mirror.storage.protocols import BlobStore
from tests.unit.pull_fakes import NEW, REPOSITORY, State, scene


async def test_manifest_that_could_not_be_stored_is_not_fetched() -> None:
    """A pull passes it to its client; `mirror verify --repair` must not report it as repaired."""
    one = scene(State(can_store=False))
    warming = Warming(one.service, cast(RunningDownloads, one.downloads), cast(BlobStore, one.catalog.store))
    with pytest.raises(StorageFailed):
        await warming.fetch(REPOSITORY, NEW.digest, is_manifest=True)


async def test_manifest_is_fetched() -> None:
    one = scene(State())
    warming = Warming(one.service, cast(RunningDownloads, one.downloads), cast(BlobStore, one.catalog.store))
    await warming.fetch(REPOSITORY, NEW.digest, is_manifest=True)
    assert NEW.digest in one.catalog.store
