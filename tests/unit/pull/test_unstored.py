"""Passages: exactly the bytes that were asked for, over any number of cuts, and never all of a blob that is wrong."""

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
from tests.unit.contents import layer
from tests.unit.loops import new_loop
from tests.unit.sources import CONTEXT

BLOB = layer("passing", 3_000_000)
SIZE = len(BLOB.body)
offsets = st.integers(0, SIZE - 1) | st.sampled_from([0, 1, 2**18, 2**20, SIZE - 1])
spans = st.tuples(offsets, offsets).map(lambda pair: Span(min(pair), max(pair) + 1)) | st.just(Span(0, SIZE))


@dataclass
class Stream:
    """One connection: where it begins, and the bytes that come until it ends or is cut."""

    start: int
    body: bytes
    is_cut: bool
    size: int | None = SIZE
    validator: str | None = None
    step: int = 300_000

    def detach(self) -> None:
        return None

    async def read_into(self, buffer: memoryview) -> int:
        size = min(self.step, len(buffer), len(self.body))
        buffer[:size] = self.body[:size]
        self.body = self.body[size:]
        if not size and self.is_cut:
            raise UpstreamDisconnected("cut")
        return size


@dataclass
class Script:
    """An upstream whose first connections are cut after so many bytes; it may heed the range, or begin at 0."""

    body: bytes
    cuts: list[int]
    heeds: bool = True
    size: int = SIZE
    asked: list[Span | None] = field(default_factory=list)
    is_open: bool = False

    @property
    def name(self) -> str:
        return "a script"

    @asynccontextmanager
    async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[Stream]:
        assert not self.is_open
        number = len(self.asked)
        self.asked.append(span)
        start, end = (span.start, span.end) if span is not None and self.heeds else (0, len(self.body))
        is_cut = number < len(self.cuts)
        if is_cut:
            end = min(end, start + self.cuts[number])
        self.is_open = True
        try:
            yield Stream(start, self.body[start:end], is_cut, self.size)
        finally:
            self.is_open = False


def passed(script: Script, span: Span, size: int = SIZE) -> tuple[bytes, type[Exception] | None]:
    """What comes through, and what ends it too early."""

    async def scene() -> tuple[bytes, type[Exception] | None]:
        got = b""
        try:
            async with UnstoredStream([script], CONTEXT, BLOB.digest, span, size) as passage:
                async for piece in passage.pieces():
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
def test_a_span_comes_through_whole(span: Span, cuts: list[int], heeds: bool) -> None:
    """Its bytes and no others, resumed where it was cut, whether upstream heeds ranges or not."""
    script = Script(BLOB.body, cuts if heeds else [], heeds)
    assert passed(script, span) == (BLOB.body[span.start : span.end], None)
    whole = len(span) == SIZE
    assert script.asked[0] == (None if whole else span)
    assert all(again is not None and again.end == span.end for again in script.asked[1:])


@given(st.integers(0, SIZE - 1))
def test_of_a_wrong_blob_the_end_never_comes(at: int) -> None:
    """Wherever the wrong byte is."""
    body = BLOB.body[:at] + bytes([BLOB.body[at] ^ 1]) + BLOB.body[at + 1 :]
    got, failure = passed(Script(body, []), Span(0, SIZE))
    assert failure is DigestMismatch
    assert len(got) < SIZE


@given(spans, st.integers(1, 10))
def test_a_blob_that_is_longer_is_no_blob(span: Span, more: int) -> None:
    """Bytes beyond its end are never passed on."""
    got, failure = passed(Script(BLOB.body + b"\0" * more, []), span)
    assert BLOB.body[span.start : span.end].startswith(got)
    assert failure in {None, SizeMismatch}


@given(spans, st.integers(0, SIZE - 1))
def test_an_upstream_that_stops_for_good_cuts_the_passage(span: Span, length: int) -> None:
    """What came before that is right; it is not tried for ever."""
    script = Script(BLOB.body[:length], [])
    got, failure = passed(script, span)
    if span.end <= length:
        assert (got, failure) == (BLOB.body[span.start : span.end], None)
    else:
        assert failure is UpstreamDisconnected
        assert BLOB.body[span.start : span.end].startswith(got)
        assert len(got) < len(span)
        assert len(script.asked) < 10


async def test_an_empty_blob_passes() -> None:
    """It has nothing to hold back."""
    empty = layer("empty", 0)
    async with UnstoredStream([Script(b"", [], size=0)], CONTEXT, empty.digest, Span(0, 0), 0) as passage:
        assert [piece async for piece in passage.pieces()] == []
    async with UnstoredStream([Script(b"", [], size=0)], CONTEXT, Digest.of(b"other"), Span(0, 0), 0) as passage:
        with pytest.raises(IntegrityError):
            assert [piece async for piece in passage.pieces()] == []


async def test_an_upstream_that_refuses_at_once_is_known_before_the_first_byte() -> None:
    """So that the client gets a status line that is true."""

    class Refusing:
        name = "refusing"

        @asynccontextmanager
        async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[Stream]:
            raise UpstreamUnavailable("refused")
            yield  # type: ignore[unreachable]

    with pytest.raises(UpstreamUnavailable):
        await UnstoredStream([Refusing()], CONTEXT, BLOB.digest, Span(0, 1), SIZE).__aenter__()
