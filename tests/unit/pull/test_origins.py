"""Origin chains: one stream over several origins, resumed from its offset; attempts counted per origin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import (
    BlobUnknown,
    MirrorError,
    SizeMismatch,
    UpstreamDisconnected,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.ranges import Span
from mirror.origin import PullContext
from mirror.pull.origins import WITHHELD, ResumedStream, releasable
from tests.unit.loops import new_loop
from tests.unit.sources import CONTEXT

BODY = bytes(range(256)) * 8
DIGEST = Digest.of(BODY)
MAX_FRUITLESS = 5


@dataclass
class Stream:
    """One connection: bytes from *start* on, then its end or a disconnect."""

    start: int
    body: bytes
    is_cut: bool
    size: int | None
    validator: str | None = None

    async def read_into(self, buffer: memoryview) -> int:
        piece, self.body = self.body[: len(buffer)], self.body[len(buffer) :]
        buffer[: len(piece)] = piece
        if not piece and self.is_cut:
            raise UpstreamDisconnected("cut")
        return len(piece)

    def detach(self) -> None:
        return None


@dataclass
class FakeOrigin:
    """An origin whose connections deliver so many bytes each, or refuse."""

    name: str
    script: list[int | MirrorError] = field(default_factory=list)
    ranges: bool = True
    size: int | None = len(BODY)
    wrong_sizes: list[int] = field(default_factory=list)
    cut_at_end: bool = False
    requested: list[Span | None] = field(default_factory=list)
    ended_with: list[type[BaseException] | None] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, context: PullContext, digest: Digest, span: Span | None) -> AsyncIterator[Stream]:
        assert (context, digest) == (CONTEXT, DIGEST)
        self.requested.append(span)
        step = self.script.pop(0) if self.script else len(BODY)
        if isinstance(step, MirrorError):
            raise step
        start = span.start if span is not None and self.ranges else 0
        end = span.end if span is not None and span.end > span.start and self.ranges else len(BODY)
        is_cut = start + step < end or self.cut_at_end
        size = self.wrong_sizes.pop(0) if self.wrong_sizes else self.size
        try:
            yield Stream(start, BODY[start : min(end, start + step)], is_cut, size)
        except BaseException as error:
            self.ended_with.append(type(error))
            raise
        else:
            self.ended_with.append(None)


def read(
    *origins: FakeOrigin, start: int = 0, end: int | None = None, step: int = 300, size: int | None = None
) -> bytes:
    """Read the whole stream in virtual time."""

    async def scene() -> bytes:
        got, buffer = b"", memoryview(bytearray(step))
        async with ResumedStream(origins, CONTEXT, DIGEST, start=start, end=end, size=size) as stream:
            while count := await stream.read_into(buffer):
                got += bytes(buffer[:count])
        return got

    with new_loop() as loop:
        return loop.run(scene())


offsets = st.integers(0, len(BODY) - 1)


@given(
    offsets, st.lists(st.integers(1, 700), max_size=8), st.lists(st.integers(1, 700), max_size=8), st.integers(1, 999)
)
def test_stream_is_contiguous_over_disconnects_of_two_origins(
    start: int, first: list[int], second: list[int], step: int
) -> None:
    """Whichever origin delivers a byte, it arrives once, and in order; ranges are honored or not."""
    one, other = FakeOrigin("one", list(first)), FakeOrigin("other", list(second), ranges=not first)
    assert read(one, other, start=start, step=step) == BODY[start:]


@given(offsets, offsets)
def test_span_ends_where_it_was_to_end(one: int, other: int) -> None:
    """An origin that ignores the range sends more on both sides."""
    start, end = min(one, other), max(one, other) + 1
    for ranges in (True, False):
        assert read(FakeOrigin("one", ranges=ranges), start=start, end=end) == BODY[start:end]


def test_first_answer_comes_from_the_first_origin_that_has_the_blob() -> None:
    """A 404, a refusal or an outage of one origin asks the next one at once, and no other follows."""
    for failure in (BlobUnknown("404"), UpstreamRefused("403"), UpstreamUnavailable("503")):
        leader, bucket, upstream = FakeOrigin("leader", [failure]), FakeOrigin("bucket"), FakeOrigin("upstream")
        assert read(leader, bucket, upstream) == BODY
        assert [len(origin.requested) for origin in (leader, bucket, upstream)] == [1, 1, 0]


def test_failure_of_every_origin_is_the_last_ones() -> None:
    """Before the first byte nothing is tried twice."""
    one, other = FakeOrigin("one", [UpstreamUnavailable("one")]), FakeOrigin("other", [BlobUnknown("other")])
    with pytest.raises(BlobUnknown, match="other"):
        read(one, other)
    assert [len(one.requested), len(other.requested)] == [1, 1]


def test_disconnect_goes_on_from_the_offset() -> None:
    """The next origin, which has not failed yet, gets an open-ended range."""
    one, other = FakeOrigin("one", [500]), FakeOrigin("other")
    assert read(one, other) == BODY
    assert one.requested == [None]
    assert other.requested == [Span(500, 500)]
    assert one.ended_with == [UpstreamDisconnected]


def test_attempts_are_counted_per_origin() -> None:
    """An origin that never delivers a byte is given up after five attempts; the other one continues."""
    dead = FakeOrigin("dead", [100, *(UpstreamUnavailable("dead") for _ in range(20))])
    slow = FakeOrigin("slow", [0, *([40] * 60)])
    assert read(dead, slow) == BODY
    assert len(dead.requested) <= 1 + MAX_FRUITLESS


def test_progress_resets_the_count() -> None:
    """An origin that delivers a little each time is never given up."""
    assert read(FakeOrigin("slow", [10] * 300)) == BODY


def test_origin_without_progress_is_given_up() -> None:
    """The stream fails with that origin's own failure, after its pauses."""
    origin = FakeOrigin("dead", [500, *(UpstreamUnavailable("dead") for _ in range(20))])
    with pytest.raises(UpstreamUnavailable, match="dead"):
        read(origin)
    assert len(origin.requested) == MAX_FRUITLESS + 1


def test_final_answer_of_an_origin_excludes_only_that_origin() -> None:
    """A 404 in the middle is not retried."""
    moved = FakeOrigin("moved", [500, BlobUnknown("404"), 100])
    other = FakeOrigin("other", [100, 100, 100, *([300] * 20)])
    assert read(moved, other) == BODY
    assert len(moved.requested) <= 2


def test_another_size_is_another_blob() -> None:
    """Bytes of two sizes are never mixed."""
    one, other = FakeOrigin("one", [500]), FakeOrigin("other", size=len(BODY) + 1)
    with pytest.raises(SizeMismatch, match="other announces"):
        read(one, other)


@pytest.mark.parametrize("wrong", [0, len(BODY) - 1, len(BODY) + 1])
@pytest.mark.parametrize("start", [0, 1000])
def test_wrong_size_is_tried_again(wrong: int, start: int) -> None:
    """If a client was promised the size, an origin may announce a wrong one at first, or after a disconnect."""
    origin = FakeOrigin("one", wrong_sizes=[wrong])
    assert read(origin, start=start, end=len(BODY), size=len(BODY)) == BODY[start:]
    assert origin.ended_with == [SizeMismatch, None]
    origin = FakeOrigin("one", [500], wrong_sizes=[len(BODY), wrong, wrong])
    assert read(origin, start=start, end=len(BODY), size=len(BODY)) == BODY[start:]
    assert origin.ended_with == [UpstreamDisconnected, SizeMismatch, SizeMismatch, None]


def test_wrong_size_asks_the_next_origin_first() -> None:
    """No pause is necessary before another origin."""
    one, other = FakeOrigin("one", size=len(BODY) + 1), FakeOrigin("other")
    assert read(one, other, size=len(BODY)) == BODY
    assert [len(one.requested), len(other.requested)] == [1, 1]
    assert read(other, one, size=len(BODY)) == BODY


def test_wrong_size_is_given_up() -> None:
    """The error names the upstream."""
    origin = FakeOrigin("one", size=len(BODY) + 1)
    with pytest.raises(SizeMismatch, match="one announces") as failure:
        read(origin, size=len(BODY))
    assert failure.value.detail == {"upstream": CONTEXT.repository.upstream}
    assert len(origin.requested) == MAX_FRUITLESS


@pytest.mark.parametrize("wrong", [1500, len(BODY) + 1])
def test_wrong_size_does_not_concern_a_part_within_it(wrong: int) -> None:
    """The part has the same bytes whichever size is right; the end of the blob does not."""
    origin = FakeOrigin("one", [100, 100], size=wrong)
    assert read(origin, start=1000, end=1500, size=len(BODY)) == BODY[1000:1500]
    assert len(origin.requested) == 3
    with pytest.raises(SizeMismatch):
        read(origin, start=1000, end=len(BODY), size=len(BODY))


def test_disconnect_after_the_last_byte_is_the_end() -> None:
    """No origin has a range after the last byte: it would send the whole blob again."""
    origin = FakeOrigin("one", cut_at_end=True)
    assert read(origin) == BODY
    assert origin.requested == [None]


def test_blob_of_unknown_size_that_ends_before_the_offset_is_another_blob() -> None:
    """The bytes before the offset are not its own, and no further attempt can make them right."""
    origin = FakeOrigin("one", ranges=False, size=None)
    with pytest.raises(SizeMismatch):
        read(origin, start=len(BODY) + 1)
    assert len(origin.requested) == 1


def test_unknown_size_ends_with_the_connection() -> None:
    """The end of a connection is the end of the blob if no size was announced."""
    assert read(FakeOrigin("chunked", size=None)) == BODY


@given(st.integers(0, 10 * WITHHELD), st.integers(0, 10 * WITHHELD))
def test_end_is_withheld(received: int, size: int) -> None:
    """No client gets the last 64 KiB of a blob, nor more than was received."""
    free = releasable(received, size)
    assert free == min(received, max(0, size - WITHHELD))
