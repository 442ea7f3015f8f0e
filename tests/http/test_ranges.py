"""Byte ranges of cached blobs: single, several, unsatisfiable, conditional."""

import re

import pytest
import pytest_asyncio

from tests.fake.content import Blob
from tests.http.client import Client, Reply, wait_until_cached
from tests.http.upstreams import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 100_000


@pytest_asyncio.fixture(loop_scope="module")
async def blob(client: Client, upstream: Upstream) -> Blob:
    """A cached blob."""
    blob = upstream.publish_blob(Blob.noise(SIZE))
    assert (await client.get(upstream.blob(blob))).body == blob.content
    await wait_until_cached(client, upstream.blob(blob))
    upstream.registry.journal.entries.clear()
    return blob


def parts(reply: Reply) -> list[tuple[str, bytes]]:
    """Return Content-Range and bytes of each part of a multipart/byteranges body, parsed strictly."""
    kind = re.fullmatch(r"multipart/byteranges; ?boundary=\"?([^\"]+)\"?", reply.headers["Content-Type"])
    assert kind, reply
    boundary = kind[1].encode()
    opening, *pieces, closing = (b"\r\n" + reply.body).split(b"\r\n--" + boundary)
    assert opening in (b"", b"\r\n")
    assert closing in (b"--\r\n", b"--")
    found = []
    for piece in pieces:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        content_range = re.search(rb"(?im)^content-range: ?(.*?)\r?$", head)
        assert content_range, head
        found.append((content_range[1].decode(), content))
    return found


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [
        ("0-", 0, SIZE),
        ("0-0", 0, 1),
        ("0-1", 0, 2),
        ("500-999", 500, 1000),
        ("99999-", 99_999, SIZE),
        ("50000-", 50_000, SIZE),
        ("-1", 99_999, SIZE),
        ("-500", 99_500, SIZE),
        ("-100000", 0, SIZE),
        ("-999999", 0, SIZE),
        ("99990-999999", 99_990, SIZE),
        ("0-99999999999999999999999", 0, SIZE),
    ],
)
async def test_single_range(client: Client, upstream: Upstream, blob: Blob, asked: str, first: int, stop: int) -> None:
    """206 with exactly these bytes, Content-Range and length; HEAD ignores Range."""
    reply = await client.get(upstream.blob(blob), {"Range": f"bytes={asked}"})
    assert (reply.status, reply.whole) == (206, True), reply
    assert reply.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{SIZE}"
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.headers["Docker-Content-Digest"] == blob.digest
    assert reply.headers["ETag"] == f'"{blob.digest}"'
    assert reply.length == stop - first
    assert reply.body == blob.content[first:stop]
    headed = await client.head(upstream.blob(blob), {"Range": f"bytes={asked}"})
    assert (headed.status, headed.length) == (200, SIZE)
    assert len(upstream.registry.journal) == 0


@pytest.mark.parametrize("asked", ["bytes=100000-", "bytes=100000-100001", "bytes=999999-", "bytes=-0"])
async def test_unsatisfiable_range_is_416(client: Client, upstream: Upstream, blob: Blob, asked: str) -> None:
    """416 with the size, so that the client can send a valid range."""
    reply = await client.get(upstream.blob(blob), {"Range": asked})
    assert reply.status == 416, reply
    assert reply.headers["Content-Range"] == f"bytes */{SIZE}"
    assert reply.error["message"]


@pytest.mark.parametrize(
    "asked",
    ["bytes=9-3", "bytes=abc", "bytes=", "bytes=-", "bytes=1-2-3", "bytes=0x1-2", "items=0-1", "bytes 0-1", "0-1"],
)
async def test_invalid_range_is_ignored(client: Client, upstream: Upstream, blob: Blob, asked: str) -> None:
    """RFC 9110, 14.2: an invalid Range or an unknown unit is ignored."""
    reply = await client.get(upstream.blob(blob), {"Range": asked})
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content), reply


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 1), (2, 3)],
        [(5, 9), (0, 4)],
        [(0, 99), (50, 149)],
        [(7, 7), (7, 7)],
        [(10, 19), (99_990, 99_999), (500, 60_000)],
        [(n * 100, n * 100 + 49) for n in range(40)],
    ],
)
async def test_several_ranges(client: Client, upstream: Upstream, blob: Blob, spans: list[tuple[int, int]]) -> None:
    """podman, stargz and SOCI get every part, in the requested order, without merging."""
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=" + ",".join(f"{a}-{b}" for a, b in spans)})
    assert (reply.status, reply.whole) == (206, True), reply
    assert reply.length == len(reply.body)
    assert parts(reply) == [(f"bytes {a}-{b}/{SIZE}", blob.content[a : b + 1]) for a, b in spans]
    assert len(upstream.registry.journal) == 0


async def test_several_ranges_of_every_form(client: Client, upstream: Upstream, blob: Blob) -> None:
    """Open ended, suffix, blanks around the comma; unsatisfiable ones are left out."""
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=99998-, -3,0-0 , 100000-"})
    assert reply.status == 206, reply
    assert parts(reply) == [
        (f"bytes 99998-99999/{SIZE}", blob.content[99_998:]),
        (f"bytes 99997-99999/{SIZE}", blob.content[99_997:]),
        (f"bytes 0-0/{SIZE}", blob.content[:1]),
    ]


async def test_several_unsatisfiable_ranges_are_416(client: Client, upstream: Upstream, blob: Blob) -> None:
    """416 if none of the ranges is satisfiable."""
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=100000-,200000-"})
    assert (reply.status, reply.headers.get("Content-Range")) == (416, f"bytes */{SIZE}"), reply


async def test_thousand_ranges_are_not_amplified(client: Client, upstream: Upstream, blob: Blob) -> None:
    """Overlapping ranges give 400 or the whole blob, but never 416, and never a thousand copies."""
    asked = ",".join(["0-"] * 1000)
    reply = await client.get(upstream.blob(blob), {"Range": f"bytes={asked}"})
    assert reply.status in (200, 400), reply.status
    if reply.status == 200:
        assert reply.body == blob.content


@pytest.mark.parametrize("matches", [True, False])
async def test_if_range(client: Client, upstream: Upstream, blob: Blob, matches: bool) -> None:
    """The range if the validator matches, else the whole blob."""
    validator = f'"{blob.digest}"' if matches else '"something-else"'
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=5-9", "If-Range": validator})
    assert (reply.status, reply.body) == ((206, blob.content[5:10]) if matches else (200, blob.content)), reply


async def test_if_none_match_takes_precedence_over_range(client: Client, upstream: Upstream, blob: Blob) -> None:
    """RFC 9110, 13.2.2."""
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=5-9", "If-None-Match": f'"{blob.digest}"'})
    assert reply.status == 304


async def test_range_of_an_empty_blob_is_416(client: Client, upstream: Upstream) -> None:
    """No range of an empty blob is satisfiable."""
    empty = upstream.publish_blob(Blob.of(b""))
    await client.get(upstream.blob(empty))
    reply = await client.get(upstream.blob(empty), {"Range": "bytes=0-"})
    assert (reply.status, reply.headers.get("Content-Range")) == (416, "bytes */0"), reply


async def test_consecutive_ranges_form_the_whole_blob(client: Client, upstream: Upstream, blob: Blob) -> None:
    """A client that fetches chunk by chunk gets the blob."""
    chunks = [
        (await client.get(upstream.blob(blob), {"Range": f"bytes={first}-{first + 9_999}"})).body
        for first in range(0, SIZE, 10_000)
    ]
    assert b"".join(chunks) == blob.content
