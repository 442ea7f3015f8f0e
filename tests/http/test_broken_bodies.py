"""Upstream breaks off, dawdles or lies in the middle of a blob: resumed where that helps, cut where it doesn't."""

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
from tests.http.client import Client, Reply, kept, settled
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
    """The mirror's cache directory."""
    return mirror.program.log.parent / "cache"


def committed(mirror: Mirror, blob: Blob) -> bool:
    """Whether the blob lies under its digest."""
    return (cache_of(mirror) / "blobs" / "sha256" / blob.hex).exists()


def remains(mirror: Mirror, blob: Blob) -> bool:
    """Whether something of this blob lies among the ingests."""
    ingests = cache_of(mirror) / "ingest"
    return any(blob.hex in path.as_posix() for path in ingests.rglob("*") if path.is_file() and path.stat().st_size)


def whole(reply: Reply, blob: Blob) -> None:
    """The client noticed nothing."""
    assert (reply.status, reply.whole) == (200, True), reply
    assert reply.body == blob.content
    assert reply.length == blob.size


def cut(reply: Reply, blob: Blob, at_most: int) -> None:
    """The client noticed that it hasn't got all, and what it has is good: not a byte of anything else."""
    assert reply.status == 200, reply
    assert not reply.whole
    assert len(reply.body) <= at_most
    assert reply.body == blob.content[: len(reply.body)]


async def whole_soon(client: Client, upstream: Upstream, blob: Blob) -> None:
    """Upstream is right again: so is the mirror, without a restart."""
    upstream.registry.heal()
    whole(await settled(lambda: client.get(upstream.blob(blob)), lambda reply: reply.status == 200), blob)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("framed", [True, False])
async def test_a_cut_is_resumed(client: Client, upstream: Upstream, blob: Blob, reset: bool, framed: bool) -> None:
    """The rest is asked for by Range from where it broke off; clients see one whole 200."""
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


async def test_cut_again_and_again(client: Client, upstream: Upstream, blob: Blob) -> None:
    """As long as each try brings it further it goes on."""
    upstream.registry.inject(Cut(at=MIB), ranged=False)
    for number in (2, 3):
        upstream.registry.inject(Cut(at=number * MIB), ranged=True, times=number - 1)
    whole(await client.get(upstream.blob(blob)), blob)
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
async def test_a_resumption_that_is_answered_wrongly(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, fault: Fault
) -> None:
    """Whole and right, or cut with good bytes only: nothing is pasted in at the wrong place."""
    upstream.registry.inject(Cut(at=HALF), ranged=False, times=1)
    upstream.registry.inject(fault, ranged=True)
    reply = await client.get(upstream.blob(blob))
    assert len([seen for seen in upstream.registry.of_blob(blob) if seen.range]) >= 1
    if reply.whole:
        whole(reply, blob)
    else:
        assert reply.body[:HALF] == blob.content[: len(reply.body)][:HALF]
        assert len(reply.body) < blob.size
        assert not committed(mirror, blob)
    await whole_soon(client, upstream, blob)


async def test_a_range_that_is_ignored_costs_a_second_transfer_and_no_error(
    client: Client, upstream: Upstream, blob: Blob
) -> None:
    """200 to the resumption: what is here already is skipped."""
    upstream.registry.inject(Cut(at=HALF), times=1)
    upstream.registry.inject(RangeIgnored())
    whole(await client.get(upstream.blob(blob)), blob)


@pytest.mark.parametrize("framed", [True, False])
async def test_a_cut_for_good(client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, framed: bool) -> None:
    """The client's connection is cut, no junk byte, nothing committed; when upstream is whole again, all is."""
    upstream.registry.inject(Cut(at=HALF))
    if not framed:
        upstream.registry.inject(Unframed())
    reply = await client.get(upstream.blob(blob))
    if framed:
        cut(reply, blob, at_most=HALF)
    else:  # without a length there is no status line before the end, and so an error instead
        assert reply.status in (503, 504) or not reply.whole, reply
    assert not committed(mirror, blob)
    before = len(upstream.registry.of_blob(blob))
    assert before <= 10
    await whole_soon(client, upstream, blob)
    await kept(client, upstream.blob(blob))
    assert committed(mirror, blob)
    if framed:
        assert [seen.range for seen in upstream.registry.of_blob(blob)[before:]] == [f"bytes={HALF}-"]


async def test_a_client_resumes_where_it_was_cut(client: Client, upstream: Upstream, blob: Blob) -> None:
    """containerd and podman come back with a Range for what they lack."""
    upstream.registry.inject(Cut(at=HALF))
    first = await client.get(upstream.blob(blob))
    cut(first, blob, at_most=HALF)
    upstream.registry.heal()
    rest = {"Range": f"bytes={len(first.body)}-"}
    reply = await settled(lambda: client.get(upstream.blob(blob), rest), lambda reply: reply.status == 206)
    assert reply.whole
    assert first.body + reply.body == blob.content


async def test_silence_is_a_cut(client: Client, upstream: Upstream, blob: Blob) -> None:
    """Upstream stops sending without a word: after the time for silence it is resumed."""
    upstream.registry.inject(Hold(Valve(), at=HALF), times=1)
    whole(await client.get(upstream.blob(blob)), blob)
    assert [seen.range for seen in upstream.registry.of_blob(blob)] == [None, f"bytes={HALF}-"]


async def test_silence_for_good(client: Client, upstream: Upstream, mirror: Mirror, blob: Blob) -> None:
    """No client hangs: its connection is cut."""
    upstream.registry.inject(Hold(Valve(), at=HALF))
    cut(await client.get(upstream.blob(blob)), blob, at_most=HALF)
    assert not committed(mirror, blob)
    await whole_soon(client, upstream, blob)


@pytest.mark.parametrize("fault", [Cut(at=0), Cut(at=0, reset=True), Hold(Valve(), at=0)])
async def test_headers_and_then_nothing_is_no_200(client: Client, upstream: Upstream, blob: Blob, fault: Fault) -> None:
    """containerd doesn't recover from an empty 200: the client gets an error that it can fall back on."""
    upstream.registry.inject(fault)
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503, 504), reply
    assert reply.error["message"]
    await whole_soon(client, upstream, blob)


@pytest.mark.parametrize("at", [0, HALF, -1])
async def test_wrong_bytes_are_never_a_whole_body(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, at: int
) -> None:
    """The end is withheld from everybody, nothing is kept, and the next request asks upstream anew."""
    upstream.registry.inject(Wrong(at=at))
    for reply in await asyncio.gather(*(client.get(upstream.blob(blob)) for _ in range(5))):
        assert reply.status == 200, reply
        assert not reply.whole
        assert len(reply.body) < blob.size
    assert not committed(mirror, blob)
    assert not remains(mirror, blob)
    before = len(upstream.registry.of_blob(blob))
    await whole_soon(client, upstream, blob)
    asked = upstream.registry.of_blob(blob)[before:]
    assert [seen.range for seen in asked] == [None]


@pytest.mark.parametrize("size", [1, 100, 10_000])
async def test_wrong_bytes_of_a_small_blob(client: Client, upstream: Upstream, mirror: Mirror, size: int) -> None:
    """Also where the withheld end is all there is."""
    blob = upstream.publish_blob(Blob.noise(size))
    upstream.registry.inject(Wrong())
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503) or not reply.whole, reply
    assert not committed(mirror, blob)
    await whole_soon(client, upstream, blob)


@pytest.mark.parametrize("by", [-1, -HALF, -SIZE, 1, 4096])
@pytest.mark.parametrize("framed", [True, False])
async def test_too_short_or_too_long(
    client: Client, upstream: Upstream, mirror: Mirror, blob: Blob, by: int, framed: bool
) -> None:
    """A clean answer of the wrong length is as wrong as wrong bytes."""
    upstream.registry.inject(Resized(by))
    if not framed:
        upstream.registry.inject(Unframed())
    reply = await client.get(upstream.blob(blob))
    assert reply.status in (502, 503) or not reply.whole, reply
    assert not committed(mirror, blob)
    await whole_soon(client, upstream, blob)


async def test_an_error_upstream_is_no_part_of_a_layer(client: Client, upstream: Upstream, blob: Blob) -> None:
    """The words of a failed resumption don't get into the body."""
    upstream.registry.inject(Cut(at=HALF), ranged=False)
    upstream.registry.inject(Status(500), ranged=True)
    reply = await client.get(upstream.blob(blob))
    cut(reply, blob, at_most=HALF)
    assert b"errors" not in reply.body[-200:]
