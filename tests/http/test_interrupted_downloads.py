"""Upstream disconnects, stalls or sends wrong bytes during a blob: resume, or disconnect the clients."""

import asyncio
from pathlib import Path

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob
from tests.fake.faults import (
    Cut,
    Fault,
    Header,
    Hold,
    RangeIgnored,
    RangeMislabelled,
    RangeShifted,
    Resized,
    Status,
    Unframed,
    Wrong,
)
from tests.http.client import Client, Reply, poll_until, wait_until_cached
from tests.http.upstreams import IMPATIENT, Upstream
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = IMPATIENT
MIB = 2**20
SIZE = 4 * MIB
HALF = SIZE // 2


@pytest.fixture
def blob(upstream: Upstream) -> Blob:
    """A cold blob."""
    return upstream.publish_blob(Blob.noise(SIZE))


def cache_of(mirror: Mirror) -> Path:
    """Return the mirror's cache directory."""
    return mirror.program.log.parent / "cache"


def is_stored(mirror: Mirror, blob: Blob) -> bool:
    """Return whether the blob is stored."""
    return (cache_of(mirror) / "blobs" / "sha256" / blob.hex).exists()


def has_ingest(mirror: Mirror, blob: Blob) -> bool:
    """Return whether the blob has an ingest with content."""
    ingests = cache_of(mirror) / "ingest"
    return any(blob.hex in path.as_posix() for path in ingests.rglob("*") if path.is_file() and path.stat().st_size)


def assert_complete(reply: Reply, blob: Blob) -> None:
    """Check that the client got the whole blob."""
    assert (reply.status, reply.whole) == (200, True), reply
    assert reply.body == blob.content
    assert reply.length == blob.size


def assert_truncated(reply: Reply, blob: Blob, at_most: int) -> None:
    """Check that the body is truncated, and that all its bytes are right."""
    assert reply.status == 200, reply
    assert not reply.whole
    assert len(reply.body) <= at_most
    assert reply.body == blob.content[: len(reply.body)]


async def assert_complete_after_recovery(client: Client, upstream: Upstream, blob: Blob) -> None:
    """Check that the blob is served whole once the upstream has recovered, without a restart of the mirror."""
    upstream.registry.heal()
    assert_complete(await poll_until(lambda: client.get(upstream.blob(blob)), lambda reply: reply.status == 200), blob)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("framed", [True, False])
async def test_interrupted_download_is_resumed(
    client: Client, upstream: Upstream, blob: Blob, reset: bool, framed: bool
) -> None:
    """The rest is requested with a Range from the point of the disconnect; clients see one complete 200."""
    upstream.registry.inject(Cut(at=HALF, reset=reset), times=1)
    if not framed:
        upstream.registry.inject(Unframed())
    first, second = await asyncio.gather(*(client.get(upstream.blob(blob)) for _ in range(2)))
    for reply in (first, second):
        assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply
    asked = upstream.registry.of_blob(blob)
    if framed:
        assert asked[0].range is None
        assert asked[1].range is not None
        assert len(asked) == 2
        assert 0 < int(asked[1].range.removeprefix("bytes=").removesuffix("-")) <= HALF


async def test_download_is_resumed_repeatedly(client: Client, upstream: Upstream, blob: Blob) -> None:
    """The mirror keeps resuming as long as each attempt brings more bytes."""
    upstream.registry.inject(Cut(at=MIB), ranged=False)
    for number in (2, 3):
        upstream.registry.inject(Cut(at=number * MIB), ranged=True, times=number - 1)
    assert_complete(await client.get(upstream.blob(blob)), blob)
    first, *rest = [seen.range for seen in upstream.registry.of_blob(blob)]
    assert first is None
    starts = [int((asked or "").removeprefix("bytes=").removesuffix("-")) for asked in rest]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert all(start <= (number + 1) * MIB for number, start in enumerate(starts))


@pytest.mark.parametrize(
    "fault",
    [
        RangeIgnored(),
        RangeShifted(1),
        RangeShifted(-1),
        RangeMislabelled(f"bytes {HALF}-{SIZE - 1}/{SIZE + 1}"),
        RangeMislabelled(f"bytes 0-{SIZE - 1}/{SIZE}"),
        RangeMislabelled("bytes */*"),
        RangeMislabelled("nonsense"),
        Status(416),
        Status(403),
        Status(404),
        Status(500),
        Wrong(at=-5),
        Header("ETag", '"another"'),
    ],
)
async def test_wrong_response_to_a_resumption(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, fault: Fault
) -> None:
    """The body is complete and right, or truncated with right bytes only: no bytes end up at a wrong offset."""
    upstream.registry.inject(Cut(at=HALF), ranged=False, times=1)
    upstream.registry.inject(fault, ranged=True)
    reply = await client.get(upstream.blob(blob))
    assert len([seen for seen in upstream.registry.of_blob(blob) if seen.range]) >= 1
    if reply.whole:
        assert_complete(reply, blob)
    else:
        assert reply.body[:HALF] == blob.content[: len(reply.body)][:HALF]
        assert len(reply.body) < blob.size
        assert not is_stored(mirror, blob)
    await assert_complete_after_recovery(client, upstream, blob)


async def test_ignored_range_on_resumption_is_skipped_over(client: Client, upstream: Upstream, blob: Blob) -> None:
    """When the resumption gets a 200, the bytes already received are skipped."""
    upstream.registry.inject(Cut(at=HALF), times=1)
    upstream.registry.inject(RangeIgnored())
    assert_complete(await client.get(upstream.blob(blob)), blob)


@pytest.mark.parametrize("framed", [True, False])
async def test_permanent_disconnect_truncates_the_response(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, framed: bool
) -> None:
    """Clients are disconnected, without wrong bytes, and nothing is stored; after the recovery the blob is served."""
    upstream.registry.inject(Cut(at=HALF))
    if not framed:
        upstream.registry.inject(Unframed())
    reply = await client.get(upstream.blob(blob))
    if framed:
        assert_truncated(reply, blob, at_most=HALF)
    else:  # without a length no status line is sent before the end, so the client gets an error instead
        assert reply.status in (503, 504) or not reply.whole, reply
    assert not is_stored(mirror, blob)
    before = len(upstream.registry.of_blob(blob))
    assert before <= 10
    await assert_complete_after_recovery(client, upstream, blob)
    await wait_until_cached(client, upstream.blob(blob))
    assert is_stored(mirror, blob)
    if framed:
        assert [seen.range for seen in upstream.registry.of_blob(blob)[before:]] == [f"bytes={HALF}-"]


async def test_client_resumes_a_truncated_response(client: Client, upstream: Upstream, blob: Blob) -> None:
    """containerd and podman request the missing rest with a Range."""
    upstream.registry.inject(Cut(at=HALF))
    first = await client.get(upstream.blob(blob))
    assert_truncated(first, blob, at_most=HALF)
    upstream.registry.heal()
    rest = {"Range": f"bytes={len(first.body)}-"}
    reply = await poll_until(lambda: client.get(upstream.blob(blob), rest), lambda reply: reply.status == 206)
    assert reply.whole
    assert first.body + reply.body == blob.content


async def test_silent_upstream_is_treated_as_a_disconnect(client: Client, upstream: Upstream, blob: Blob) -> None:
    """When upstream stops sending, the download is resumed after the `silence` timeout."""
    upstream.registry.inject(Hold(Valve(), at=HALF), times=1)
    assert_complete(await client.get(upstream.blob(blob)), blob)
    assert [seen.range for seen in upstream.registry.of_blob(blob)] == [None, f"bytes={HALF}-"]


async def test_permanently_silent_upstream_truncates_the_response(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob
) -> None:
    """Clients do not hang: they are disconnected."""
    upstream.registry.inject(Hold(Valve(), at=HALF))
    assert_truncated(await client.get(upstream.blob(blob)), blob, at_most=HALF)
    assert not is_stored(mirror, blob)
    await assert_complete_after_recovery(client, upstream, blob)


@pytest.mark.parametrize("fault", [Cut(at=0), Cut(at=0, reset=True), Hold(Valve(), at=0)])
async def test_no_200_before_the_first_byte_of_the_body(
    client: Client, upstream: Upstream, blob: Blob, fault: Fault
) -> None:
    """containerd does not recover from an empty 200; an error lets the client fall back."""
    upstream.registry.inject(fault)
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503, 504), reply
    assert reply.error["message"]
    await assert_complete_after_recovery(client, upstream, blob)


@pytest.mark.parametrize("at", [0, HALF, -1])
async def test_wrong_bytes_never_form_a_complete_body(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, at: int
) -> None:
    """The end is withheld from all clients, nothing is stored, and the next request starts a new download."""
    upstream.registry.inject(Wrong(at=at))
    for reply in await asyncio.gather(*(client.get(upstream.blob(blob)) for _ in range(5))):
        assert reply.status == 200, reply
        assert not reply.whole
        assert len(reply.body) < blob.size
    assert not is_stored(mirror, blob)
    assert not has_ingest(mirror, blob)
    before = len(upstream.registry.of_blob(blob))
    await assert_complete_after_recovery(client, upstream, blob)
    asked = upstream.registry.of_blob(blob)[before:]
    assert [seen.range for seen in asked] == [None]


@pytest.mark.parametrize("size", [1, 100, 10_000])
async def test_wrong_bytes_in_a_small_blob(client: Client, upstream: Upstream, mirror: Mirror, size: int) -> None:
    """The rule also holds when the withheld end is the whole blob."""
    blob = upstream.publish_blob(Blob.noise(size))
    upstream.registry.inject(Wrong())
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503) or not reply.whole, reply
    assert not is_stored(mirror, blob)
    await assert_complete_after_recovery(client, upstream, blob)


@pytest.mark.parametrize("by", [-1, -HALF, -SIZE, 1, 4096])
@pytest.mark.parametrize("framed", [True, False])
async def test_body_of_the_wrong_length_is_an_error(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, by: int, framed: bool
) -> None:
    """A proper response of the wrong length is treated like wrong bytes."""
    upstream.registry.inject(Resized(by))
    if not framed:
        upstream.registry.inject(Unframed())
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503) or not reply.whole, reply
    assert not is_stored(mirror, blob)
    await assert_complete_after_recovery(client, upstream, blob)


async def test_error_body_is_not_appended_to_a_blob(client: Client, upstream: Upstream, blob: Blob) -> None:
    """The body of a failed resumption is not passed to the client."""
    upstream.registry.inject(Cut(at=HALF), ranged=False)
    upstream.registry.inject(Status(500), ranged=True)
    reply = await client.get(upstream.blob(blob))
    assert_truncated(reply, blob, at_most=HALF)
    assert b"errors" not in reply.body[-200:]
