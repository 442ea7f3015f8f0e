"""The upstream registry as an origin: its streams, and connections that a thread reads on."""

import asyncio
import hashlib
from pathlib import Path

from mirror.assembly import registries_of
from mirror.config import read_settings
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.ranges import Span
from mirror.origin import DetachedStream, PullContext
from tests.fake.content import Blob
from tests.fake.registry import Registry
from tests.unit.configurations import environment
from tests.unit.sources import CONTEXT

LARGE = 9 * 2**20


def read_detached(stream: DetachedStream) -> bytes:
    """Read the rest of a stream as a thread does."""
    pieces, left = [stream.buffered], stream.remaining
    with stream.socket as connection:
        while left:
            piece = connection.recv(min(left, 2**20))
            assert piece, "the connection ended early"
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)


async def test_stream_states_start_size_and_validator(tmp_path: Path) -> None:
    """It states them for a whole blob and for a part of it."""
    async with Registry.running() as registry:
        blob = Blob.noise(1000)
        registry.add("app", blob)
        with environment():
            settings = read_settings(None, {"cache": {"path": tmp_path}}, [f"registry.test={registry.url}"])
        async with registries_of(settings, Metrics()) as registries:
            origin = registries["registry.test"].origin
            digest, context = Digest.parse(blob.digest), PullContext(CONTEXT.caller, Repository("registry.test", "app"))
            async with origin.open(context, digest, None) as whole:
                assert (whole.start, whole.size) == (0, 1000)
                assert whole.validator is None or whole.validator.startswith('"')
                assert whole.detach() is None  # small: read from memory
            async with origin.urgent.open(context, digest, Span(900, 900)) as rest:
                assert (rest.start, rest.size) == (900, 1000)
                buffer = memoryview(bytearray(200))
                assert await rest.read_into(buffer) == 100
                assert bytes(buffer[:100]) == blob.content[900:]


async def test_thread_reads_a_detached_stream_to_its_end(tmp_path: Path) -> None:
    """The bytes that the event loop has read come first; the connection is closed with the stream's context."""
    async with Registry.running() as registry:
        blob = Blob.noise(LARGE)
        registry.add("app", blob)
        with environment():
            settings = read_settings(None, {"cache": {"path": tmp_path}}, [f"registry.test={registry.url}"])
        async with registries_of(settings, Metrics()) as registries, asyncio.timeout(30):
            origin = registries["registry.test"].origin
            digest, context = Digest.parse(blob.digest), PullContext(CONTEXT.caller, Repository("registry.test", "app"))
            async with origin.open(context, digest, None) as stream:
                buffer = memoryview(bytearray(100_000))
                first = bytes(buffer[: await stream.read_into(buffer)])
                detached = stream.detach()
                assert detached is not None
                assert await stream.read_into(buffer) == 0
                rest = await asyncio.to_thread(read_detached, detached)
            assert hashlib.sha256(first + rest).hexdigest() == digest.hex
            async with origin.open(context, digest, Span(LARGE - 5, LARGE - 5)) as again:  # on another connection
                assert await again.read_into(buffer) == 5
