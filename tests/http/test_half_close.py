"""Who says no more may still be listening; who is gone is noticed."""

import asyncio

import pytest

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Hold
from tests.http.client import Client, kept
from tests.http.lines import Line
from tests.http.resources import MIB, descriptors
from tests.http.upstreams import Upstream
from tests.real.mirror import Mirror
from tests.real.program import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_whole_answer_after_a_half_close(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Of a manifest and of a blob, cold and warm; and then the mirror closes its side."""
    manifest = upstream.publish(image(1000, 6 * MIB), "v1")
    for target, content in (
        (upstream.manifest("v1"), manifest.content),
        (upstream.blob(manifest.blobs[-1]), manifest.blobs[-1].content),
    ):
        for _ in range(2):
            async with Line.to(mirror, window=2**20) as line:
                await line.get(target)
                line.say_no_more()
                head, _, body = (await line.rest()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert body == content
            await kept(client, target)


async def test_all_that_was_asked_before_it(upstream: Upstream, mirror: Mirror) -> None:
    """Several requests at once and then no more, as scripts with a pipe do: as many answers."""
    manifest = upstream.publish(image(1000), "v1")
    async with Line.to(mirror, window=2**20) as line:
        for _ in range(5):
            await line.get(upstream.manifest("v1"))
        line.say_no_more()
        assert (await line.rest()).count(manifest.content) == 5


async def test_half_a_request_is_no_request(mirror: Mirror) -> None:
    """Nothing is to come of it: closed at once."""
    async with Line.to(mirror) as line:
        await line.send(b"GET /v2/ HTTP/1.1\r\nHost: mirr")
        line.say_no_more()
        assert await line.rest() == b""


async def test_http_1_0_with_a_half_close(mirror: Mirror) -> None:
    """The oldest scripts there are."""
    async with Line.to(mirror) as line:
        await line.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        line.say_no_more()
        answer = await line.rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"status":"alive"}')


async def test_who_is_gone_is_noticed(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Readers of a download that have left let go of it when the next bytes come; it goes on without them."""
    blob = upstream.publish_blob(Blob.noise(8 * MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=2 * MIB), f"*{blob.digest}", times=1)
    before = descriptors(mirror.program.pid)
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(_begun(mirror, upstream.blob(blob)))
    valve.open()
    await kept(client, upstream.blob(blob))

    async def all_gone() -> bool:
        left = [
            one for one in mirror.events("pull_served") if one["digest"] == blob.digest and one["outcome"] == "left"
        ]
        return len(left) == 20 and descriptors(mirror.program.pid) <= before + 2

    await eventually(all_gone)


async def _begun(mirror: Mirror, target: str) -> None:
    """Ask, read what there is of the beginning, and close both sides."""
    async with Line.to(mirror, window=2**20) as line:
        await line.get(target)
        while await _has_more(line):
            pass


async def _has_more(line: Line) -> bool:
    try:
        async with asyncio.timeout(0.5):
            return bool(await line.receive())
    except TimeoutError:
        return False
