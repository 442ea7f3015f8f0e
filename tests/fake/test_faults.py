"""The fake registry injects faults as specified; the tests that use it depend on that."""

import asyncio
import gzip
import time

import aiohttp
import pytest

from tests.fake.answers import Valve
from tests.fake.conftest import BLOB, blob_path
from tests.fake.faults import (
    Cut,
    Fault,
    Gzipped,
    Header,
    Hold,
    Overrun,
    RangeIgnored,
    RangeMislabelled,
    RangeShifted,
    Redirect,
    Reset,
    Resized,
    Slow,
    Status,
    Unframed,
    Without,
    Wrong,
)
from tests.fake.journal import Ending
from tests.fake.registry import Registry


async def test_fault_applies_to_matching_requests_only(registry: Registry, client: aiohttp.ClientSession) -> None:
    """Path, method, Range and count limit a fault; heal() removes it."""
    registry.inject(Status(503, {"Retry-After": "7"}), "*/blobs/*", method="GET", ranged=False, times=2)
    ranged = {"Range": "bytes=0-1"}
    asked: tuple[tuple[str, dict[str, str]], ...] = (
        ("HEAD", {}),
        ("GET", {}),
        ("GET", ranged),
        ("GET", {}),
        ("GET", {}),
    )
    statuses = []
    for method, headers in asked:
        async with client.request(method, blob_path(), headers=headers) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 503, 206, 503, 200]
    registry.inject(Status(500))
    registry.heal()
    async with client.get(blob_path()) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("framed", [False, True])
async def test_cut_ends_the_body_early(
    registry: Registry, client: aiohttp.ClientSession, reset: bool, framed: bool
) -> None:
    """A cut by FIN ends the body at exactly that byte, and again on a resumed request."""
    registry.inject(Cut(at=100_000, reset=reset))
    if not framed:
        registry.inject(Unframed())
    for first in (0, 60_000, 100_000):
        got = bytearray()
        with pytest.raises((aiohttp.ClientPayloadError, ConnectionResetError)):  # noqa: PT012 - reading the body raises
            async with client.get(blob_path(), headers={"Range": f"bytes={first}-"}) as answer:
                async for chunk in answer.content.iter_any():
                    got += chunk
        if not reset:
            assert got == BLOB.content[first:100_000]
    assert {seen.ending for seen in registry.journal.entries} == {Ending.CUT}


async def test_reset_before_the_status_line(registry: Registry, client: aiohttp.ClientSession) -> None:
    """The client gets no status line."""
    registry.inject(Reset(), times=9)
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await client.get(blob_path())
    assert registry.journal.entries[0].status is None


@pytest.mark.parametrize("at", [-1, 0, 150_000])
async def test_valve_holds_and_releases_a_response(registry: Registry, client: aiohttp.ClientSession, at: int) -> None:
    """The bytes before the valve arrive at once, the rest when it opens."""
    valve = Valve()
    registry.inject(Hold(valve, at=at))
    asking = asyncio.create_task(client.get(blob_path()))
    await valve.reached()
    if at < 0:
        assert registry.journal.entries[0].status is None
        valve.open()
        async with await asking as answer:
            assert answer.status == 200
        return
    async with await asking as answer:
        head = await answer.content.readexactly(at)
        assert registry.journal.entries[0].sent == at
        valve.open()
        assert head + await answer.read() == BLOB.content


async def test_origin_stops_with_a_response_held() -> None:
    """A closed valve doesn't prevent the end of a test; the client is disconnected."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as client:
        async with Registry.running() as registry:
            valve = Valve()
            registry.inject(Hold(valve))
            asking = asyncio.create_task(client.get(registry.url + "/v2/"))
            await valve.reached()
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_slow_body_takes_time(registry: Registry, client: aiohttp.ClientSession) -> None:
    """300 kB at 1 MB/s take about 0.3 s."""
    registry.inject(Slow(1_000_000))
    began = time.monotonic()
    async with client.get(blob_path()) as answer:
        assert await answer.read() == BLOB.content
    assert 0.25 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Wrong(), BLOB.content[:-1] + bytes([BLOB.content[-1] ^ 0xFF])),
        (Resized(-5), BLOB.content[:-5]),
        (Resized(3), BLOB.content + b"!!!"),
        (Unframed(), BLOB.content),
        (Overrun(), BLOB.content),
    ],
)
async def test_wrong_body_with_clean_end(
    registry: Registry, client: aiohttp.ClientSession, fault: Fault, body: bytes
) -> None:
    """The HTTP response is complete; only a digest or a size reveals the fault."""
    registry.inject(fault)
    async with client.get(blob_path()) as answer:
        assert answer.content_length == (None if isinstance(fault, Unframed) else len(body))
        assert await answer.read() == body


@pytest.mark.parametrize(
    ("fault", "status", "content_range", "body"),
    [
        (RangeIgnored(), 200, None, BLOB.content),
        (RangeShifted(4), 206, "bytes 14-299999/300000", BLOB.content[14:]),
        (RangeMislabelled("bytes 1-2/3"), 206, "bytes 1-2/3", BLOB.content[10:]),
    ],
)
async def test_range_faults(
    registry: Registry, client: aiohttp.ClientSession, fault: Fault, status: int, content_range: str | None, body: bytes
) -> None:
    """Each of the ways in which a server can answer a range wrongly."""
    registry.inject(fault)
    async with client.get(blob_path(), headers={"Range": "bytes=10-"}) as answer:
        assert answer.status == status
        assert answer.headers.get("Content-Range") == content_range
        assert await answer.read() == body


async def test_gzip_without_accept_encoding(registry: Registry, client: aiohttp.ClientSession) -> None:
    """The encoding is declared and real."""
    registry.inject(Gzipped())
    async with client.get(blob_path(), headers={"Accept-Encoding": "identity"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await answer.read()) == BLOB.content


async def test_headers_can_be_removed_and_replaced(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A HEAD can lack its length and its digest."""
    registry.inject(Without("Docker-Content-Digest"))
    registry.inject(Unframed())
    registry.inject(Header("Content-Type", "text/plain"))
    async with client.head(blob_path()) as answer:
        assert answer.status == 200
        assert "Docker-Content-Digest" not in answer.headers
        assert "Content-Length" not in answer.headers
        assert answer.headers["Content-Type"] == "text/plain"


async def test_outage_refuses_connections_and_ends_on_the_same_port(registry: Registry) -> None:
    """A registry that is down refuses connections, and closes the open ones."""
    async with aiohttp.ClientSession(registry.url) as client:
        async with client.get("/v2/") as answer:
            assert answer.status == 200
        await registry.go_down()
        with pytest.raises(aiohttp.ClientError):
            await client.get("/v2/")
        await registry.come_back()
        async with client.get("/v2/") as answer:
            assert answer.status == 200


async def test_redirect_location_is_sent_verbatim(registry: Registry, client: aiohttp.ClientSession) -> None:
    """A Location is sent as it was given."""
    registry.inject(Redirect("../x?a=%2F+", 302))
    async with client.get(blob_path(), allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "../x?a=%2F+")
