"""Unstored streams: exactly the requested bytes, over any number of disconnects, and never the end of a wrong blob."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestMismatch, IntegrityError, SizeMismatch, UpstreamDisconnected, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span
from mirror.origin import PullContext
from mirror.pull.unstored import UnstoredStream
from tests.unit.contents import Content, layer
from tests.unit.loops import new_loop
from tests.unit.sources import CONTEXT

BLOB = layer("passing", 3_000_000)
SIZE = len(BLOB.body)
FIRST = 2**20  # bytes that are received before any is released
offsets = st.integers(0, SIZE - 1) | st.sampled_from([0, 1, 2**18, 2**20, SIZE - 1])
spans = st.tuples(offsets, offsets).map(lambda pair: Span(min(pair), max(pair) + 1)) | st.just(Span(0, SIZE))


@dataclass
class Stream:
    """One connection: its offset, and its bytes until it ends or disconnects."""

    start: int
    body: bytes
    is_disconnected: bool
    size: int | None = SIZE
    validator: str | None = None
    step: int = 300_000

    def detach(self) -> None:
        return None

    async def read_into(self, buffer: memoryview) -> int:
        size = min(self.step, len(buffer), len(self.body))
        buffer[:size] = self.body[:size]
        self.body = self.body[size:]
        if not size and self.is_disconnected:
            raise UpstreamDisconnected("disconnected")
        return size


@dataclass
class Script:
    """An origin whose first connections disconnect after so many bytes. It honors the range, or starts at 0."""

    body: bytes
    disconnects: list[int]
    honors_range: bool = True
    size: int = SIZE
    requested: list[Span | None] = field(default_factory=list)
    is_open: bool = False

    @property
    def name(self) -> str:
        return "a script"

    @asynccontextmanager
    async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[Stream]:
        assert not self.is_open
        number = len(self.requested)
        self.requested.append(span)
        start, end = (span.start, span.end) if span is not None and self.honors_range else (0, len(self.body))
        is_disconnected = number < len(self.disconnects)
        if is_disconnected:
            end = min(end, start + self.disconnects[number])
        self.is_open = True
        try:
            yield Stream(start, self.body[start:end], is_disconnected, self.size)
        finally:
            self.is_open = False


def passed(script: Script, span: Span, size: int = SIZE, blob: Content = BLOB) -> tuple[bytes, type[Exception] | None]:
    """Return the received bytes, and the type of the failure that ended the stream early."""

    async def scene() -> tuple[bytes, type[Exception] | None]:
        got = b""
        try:
            async with UnstoredStream([script], CONTEXT, blob.digest, span, size) as stream:
                async for piece in stream.pieces():
                    assert piece
                    got += piece
        except (UpstreamDisconnected, IntegrityError) as failure:
            return got, type(failure)
        return got, None

    with new_loop() as loop:
        result = loop.run(scene())
    assert not script.is_open
    return result


@given(spans, st.lists(st.integers(1, SIZE), max_size=4), st.booleans())
def test_span_is_received_completely(span: Span, disconnects: list[int], honors_range: bool) -> None:
    """Exactly its bytes, resumed at the offset, whether the origin honors ranges or not."""
    script = Script(BLOB.body, disconnects if honors_range else [], honors_range)
    assert passed(script, span) == (BLOB.body[span.start : span.end], None)
    whole = len(span) == SIZE
    assert script.requested[0] == (None if whole else span)
    assert all(again is not None and again.end == span.end for again in script.requested[1:])


@given(st.integers(0, SIZE - 1))
def test_end_of_a_wrong_blob_is_withheld(at: int) -> None:
    """The position of the wrong byte does not matter."""
    body = BLOB.body[:at] + bytes([BLOB.body[at] ^ 1]) + BLOB.body[at + 1 :]
    got, failure = passed(Script(body, []), Span(0, SIZE))
    assert failure is DigestMismatch
    assert len(got) < SIZE


@pytest.mark.parametrize("size", [1, 2**16, 2**16 + 1, 400_000, FIRST])
def test_failure_of_a_small_blob_is_raised_before_the_first_byte(size: int) -> None:
    """Nothing is released of a blob of at most 1 MiB until all of it is verified: the client gets an error status."""
    blob = layer("small", size)
    for body, error in ((bytes(size), DigestMismatch), (blob.body[:-1], UpstreamDisconnected)):
        script = Script(body, [], size=size)
        assert passed(script, Span(0, size), size, blob) == (b"", error)
    assert passed(Script(blob.body, [], size=size), Span(0, size), size, blob) == (blob.body, None)


@pytest.mark.parametrize("length", [0, 1, 2**18, FIRST - 1, FIRST])
def test_failure_within_the_first_batch_is_raised_before_the_first_byte(length: int) -> None:
    """The client gets an error status for a disconnect within the first 1 MiB of a larger blob too."""
    assert passed(Script(BLOB.body[:length], []), Span(0, SIZE)) == (b"", UpstreamDisconnected)


def test_part_of_a_blob_is_released_at_once() -> None:
    """Only its client can verify it, so waiting for more bytes would gain nothing."""
    assert passed(Script(BLOB.body[:10], []), Span(0, 20)) == (BLOB.body[:10], UpstreamDisconnected)


@given(spans, st.integers(1, 10))
def test_bytes_beyond_the_size_are_not_passed_on(span: Span, more: int) -> None:
    """Further bytes are a size mismatch, or are not read."""
    got, failure = passed(Script(BLOB.body + b"\0" * more, []), span)
    assert BLOB.body[span.start : span.end].startswith(got)
    assert failure in {None, SizeMismatch}


@given(spans, st.integers(0, SIZE - 1))
def test_permanent_disconnect_ends_the_stream(span: Span, length: int) -> None:
    """The bytes before it are correct, and the number of attempts is limited."""
    script = Script(BLOB.body[:length], [])
    got, failure = passed(script, span)
    if span.end <= length:
        assert (got, failure) == (BLOB.body[span.start : span.end], None)
    else:
        assert failure is UpstreamDisconnected
        assert BLOB.body[span.start : span.end].startswith(got)
        assert len(got) < len(span)
        assert len(script.requested) < 10


async def test_empty_blob_is_verified() -> None:
    """It has no byte to withhold."""
    empty = layer("empty", 0)
    async with UnstoredStream([Script(b"", [], size=0)], CONTEXT, empty.digest, Span(0, 0), 0) as stream:
        assert [piece async for piece in stream.pieces()] == []
    async with UnstoredStream([Script(b"", [], size=0)], CONTEXT, Digest.of(b"other"), Span(0, 0), 0) as stream:
        with pytest.raises(IntegrityError):
            assert [piece async for piece in stream.pieces()] == []


async def test_refusal_is_raised_before_the_first_byte() -> None:
    """The client then receives an error status."""

    class Refusing:
        name = "refusing"

        @asynccontextmanager
        async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[Stream]:
            raise UpstreamUnavailable("refused")
            yield  # type: ignore[unreachable]

    with pytest.raises(UpstreamUnavailable):
        await UnstoredStream([Refusing()], CONTEXT, BLOB.digest, Span(0, 1), SIZE).__aenter__()
