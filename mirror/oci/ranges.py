"""Byte ranges: Range and Content-Range headers (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror.errors import RangeUnsatisfiable

_MAX_RANGES = 1024  # more than a lazy snapshotter puts into one header
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from *start* up to, but not including, *end*."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """Return the Content-Range header for this span of *size* bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The Content-Range of a 206: the span, and the complete size (None for `*`)."""

    span: Span
    size: int | None

    @classmethod
    def parse(cls, header: str | None) -> ContentRange | None:
        """Parse a Content-Range header. Return None if it is missing or invalid."""
        found = _CONTENT_RANGE.fullmatch(header or "")
        if found is None:
            return None
        span, size = Span(int(found[1]), int(found[2]) + 1), None if found[3] == "*" else int(found[3])
        return cls(span, size) if span.start < span.end and (size is None or span.end <= size) else None


def requested_spans(header: str | None, size: int) -> tuple[Span, ...] | None:
    """Return the spans of a *size*-byte blob that a Range header requests, in its order.

    Ranges that start beyond the end are dropped if another range is satisfiable (14.2).

    Returns:
        None to send the whole blob: without a header, and for a header that a server ignores (another unit, invalid
        grammar, too many ranges, or several ranges that are together larger than the blob).

    Raises:
        RangeUnsatisfiable: if the header is well formed and selects no byte of the blob.
    """
    unit, equals, wanted = (header or "").partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    ranges = [part.strip() for part in wanted.split(",") if part.strip()]
    if not 0 < len(ranges) <= _MAX_RANGES:
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
            return None  # a suffix of an empty blob: satisfiable (14.1.2), but no Content-Range can express it
        span = _span(first, last, size)
        if span is not None:
            spans.append(span)
    if not spans:
        raise RangeUnsatisfiable(f"{header} selects no byte of a blob of {size} bytes", size=size)
    if sum(map(len, spans)) > size and len(spans) > 1:
        return None
    return tuple(spans)


def _span(first: str, last: str, size: int) -> Span | None:
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    else:
        start, end = max(0, size - int(last)), size
    return Span(start, end) if start < end else None
