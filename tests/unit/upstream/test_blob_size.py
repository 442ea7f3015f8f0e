"""The size of a blob, and a client's right to it: by HEAD or by the head of a GET, without a slot for blobs."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.assembly import registries_of
from mirror.config import read_settings
from mirror.errors import BlobUnknown, MirrorError
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.routes import BlobRoute, RequestedRepository
from mirror.origin import PullContext
from mirror.upstream import registry as client_side
from mirror.upstream.client_authorization import ClientAuthorization
from tests.fake.content import Blob
from tests.fake.faults import Gzipped, Status, Unframed
from tests.fake.registry import Registry
from tests.unit.configurations import environment
from tests.unit.sources import CONTEXT

NAME = "registry.test"
BLOB, HELD, MISSING = Blob.noise(1000), Blob.noise(1001), Blob.noise(1002)
OURS = PullContext(CONTEXT.caller, Repository(NAME, "app"))


@dataclass(frozen=True, slots=True)
class Scene:
    """A registry of which every slot is in use, by one blob."""

    fake: Registry
    registries: Mapping[str, client_side.Registry]


@asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    flags = {"cache": {"path": directory}}
    file = directory / "mirror.toml"
    async with Registry.running() as fake:
        fake.add("app", BLOB, HELD)
        file.write_text(f'[upstreams."{NAME}"]\nurl = "{fake.url}"\nconnections = 1\n[timeouts]\nfirst_byte = "2s"\n')
        with environment():
            settings = read_settings(file, flags, [])
        async with (
            registries_of(settings, Metrics()) as registries,
            registries[NAME].origin.open(OURS, Digest.parse(HELD.digest), None),
        ):
            yield Scene(fake, registries)


def head_is_refused(fake: Registry) -> None:
    fake.inject(Status(403), method="HEAD")


def head_is_not_allowed(fake: Registry) -> None:
    fake.inject(Status(405), method="HEAD")


def head_has_no_length(fake: Registry) -> None:
    fake.inject(Unframed(), method="HEAD")


def answers_are_encoded(fake: Registry) -> None:
    fake.inject(Gzipped())


SIZES: dict[str, tuple[Callable[[Registry], None] | None, Blob, int | type[MirrorError] | None, list[str]]] = {
    # name: fault, blob, size or error, methods of the requests
    "HEAD states the size": (None, BLOB, 1000, ["HEAD"]),
    "a HEAD without a length is followed by a GET": (head_has_no_length, BLOB, 1000, ["HEAD", "GET"]),
    "a HEAD that the storage refuses is followed by a GET": (head_is_refused, BLOB, 1000, ["HEAD", "GET"]),
    "a HEAD that is not allowed is followed by a GET": (head_is_not_allowed, BLOB, 1000, ["HEAD", "GET"]),
    "a missing blob is a 404 by GET": (head_is_refused, MISSING, BlobUnknown, ["HEAD", "GET"]),
    "an encoded answer states no size": (answers_are_encoded, BLOB, None, ["HEAD", "GET"]),
}


@pytest.mark.parametrize("name", SIZES)
async def test_size_of_a_blob_needs_no_slot(tmp_path: Path, name: str) -> None:
    """One row of SIZES."""
    inject, blob, expected, methods = SIZES[name]
    async with scene(tmp_path) as one:
        if inject is not None:
            inject(one.fake)
        asking = one.registries[NAME].blob_size(OURS, Digest.parse(blob.digest))
        if isinstance(expected, type):
            with pytest.raises(expected):
                await asking
        else:
            assert await asking == expected
        assert [seen.method for seen in one.fake.of_blob(blob, None)] == methods


@pytest.mark.parametrize("name", SIZES)
async def test_right_of_a_client_needs_no_slot(tmp_path: Path, name: str) -> None:
    """One row of SIZES: whatever the size, an upstream that has the blob allows the client's pull."""
    inject, blob, expected, _ = SIZES[name]
    requested = RequestedRepository(OURS.repository, "/v2/app", ns=None, by_path=False)
    route = BlobRoute(requested, Digest.parse(blob.digest))
    async with scene(tmp_path) as one:
        if inject is not None:
            inject(one.fake)
        async with ClientAuthorization(one.registries, allowed_for=60, refused_for=60) as authorization:
            if isinstance(expected, type):
                with pytest.raises(expected):
                    await authorization.require_allowed(route, OURS)
            else:
                await authorization.require_allowed(route, OURS)
            assert authorization.is_allowed(OURS) == (not isinstance(expected, type))
