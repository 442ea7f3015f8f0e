"""Byte ranges (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.errors import RangeUnsatisfiable

_MOST_RANGES = 1024  # more than a lazy snapshotter packs into one header line
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from *start* up to, not including, *end*."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """The value of Content-Range for this part of *size* bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


@dataclass(frozen=True, slots=True)
class ContentRange:
    """What a 206 says of its body: the part, and the size of the whole (None for `*`)."""

    span: Span
    size: int | None

    @classmethod
    def parse(cls, header: str | None) -> ContentRange | None:
        """The value of a Content-Range header; None if it is missing or not of that form."""
        found = _CONTENT_RANGE.fullmatch(header or "")
        if found is None:
            return None
        span, size = Span(int(found[1]), int(found[2]) + 1), None if found[3] == "*" else int(found[3])
        return cls(span, size) if span.start < span.end and (size is None or span.end <= size) else None


def requested_spans(header: str | None, size: int) -> tuple[Span, ...] | None:
    """The parts of a *size*-byte blob that a Range header asks for, in its order.

    Ranges that start beyond the end are left out while another one can be satisfied (14.2).

    Returns:
        None when the whole blob is to be sent: no header, or one that a server ignores (another unit, bad grammar,
        or so many ranges, overlapping or not, that they are an attack or better served whole).

    Raises:
        RangeUnsatisfiable: the header is well formed, and holds no byte of the blob.
    """
    unit, equals, wanted = (header or "").partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    ranges = [part.strip() for part in wanted.split(",") if part.strip()]
    if not 0 < len(ranges) <= _MOST_RANGES:
        return None
    spans: list[Span] = []
    for text in ranges:
        found = _RANGE.fullmatch(text)
        if found is None or len(text) > 40:
            return None
        first, last = found[1], found[2]
        if not (first or last) or (first and last and int(last) < int(first)):
            return None
        if not (size or first) and int(last):
            return None  # the last bytes of nothing: satisfiable (14.1.2), and no Content-Range can say so
        span = _span(first, last, size)
        if span is not None:
            spans.append(span)
    if not spans:
        raise RangeUnsatisfiable(f"{header} holds no byte of a blob of {size} bytes", size=size)
    if sum(map(len, spans)) > size and len(spans) > 1:
        return None
    return tuple(spans)


def _span(first: str, last: str, size: int) -> Span | None:
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    else:
        start, end = max(0, size - int(last)), size
    return Span(start, end) if start < end else None
