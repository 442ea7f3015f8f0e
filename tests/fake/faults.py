"""Faults of an upstream, as frozen values; each modifies a response that would otherwise be correct."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from multidict import CIMultiDict

from tests.fake.answers import BEFORE_HEADERS, Answer, Stop, Valve
from tests.fake.journal import Seen


class Fault(Protocol):
    """One way for a response to be wrong."""

    def apply(self, answer: Answer) -> None:
        """Make the response wrong in this way."""


@dataclass(frozen=True, slots=True)
class Status:
    """A different status, with a body that is not the content: 429, 500, 404, 401 ..."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"UNKNOWN","message":"fault","detail":"JUNK"}]}'

    def apply(self, answer: Answer) -> None:
        answer.replace(self.code, self.body)
        answer.headers = CIMultiDict({"Content-Type": "application/json", **self.headers})


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect to this Location, exactly as spelled."""

    location: str
    code: int = 307

    def apply(self, answer: Answer) -> None:
        answer.replace(self.code, b"")
        answer.headers = CIMultiDict({"Location": self.location})


@dataclass(frozen=True, slots=True)
class Reset:
    """A connection reset before the status line."""

    def apply(self, answer: Answer) -> None:
        answer.stops.append(Stop(BEFORE_HEADERS, None, reset=True))


@dataclass(frozen=True, slots=True)
class Hold:
    """Block at a byte of the content (or before the status line) until the valve opens. Without opening: silence."""

    valve: Valve = field(default_factory=Valve)
    at: int = BEFORE_HEADERS

    def apply(self, answer: Answer) -> None:
        answer.stops.append(Stop(self.at, self.valve))


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection at a byte of the content, on resumed requests too: the source is broken at this byte."""

    at: int
    reset: bool = False

    def apply(self, answer: Answer) -> None:
        answer.stops.append(Stop(self.at, None, reset=self.reset))


@dataclass(frozen=True, slots=True)
class Slow:
    """A limited number of bytes per second."""

    rate: float

    def apply(self, answer: Answer) -> None:
        answer.pace = self.rate


@dataclass(frozen=True, slots=True)
class Wrong:
    """One byte of the content is changed; the length is right."""

    at: int = -1  # index into the content

    def apply(self, answer: Answer) -> None:
        content = bytearray(answer.content)
        content[self.at] ^= 0xFF
        answer.content = bytes(content)


@dataclass(frozen=True, slots=True)
class Resized:
    """The content is shorter (negative) or longer by some bytes, with a matching Content-Length."""

    by: int

    def apply(self, answer: Answer) -> None:
        answer.content = answer.content[: self.by] if self.by < 0 else answer.content + b"!" * self.by
        answer.stop += self.by


@dataclass(frozen=True, slots=True)
class Overrun:
    """Extra bytes after the declared end of the body."""

    junk: bytes = b"J" * 512

    def apply(self, answer: Answer) -> None:
        answer.overrun = self.junk


@dataclass(frozen=True, slots=True)
class Unframed:
    """No Content-Length; a GET is chunked."""

    def apply(self, answer: Answer) -> None:
        answer.framed = False


@dataclass(frozen=True, slots=True)
class RangeIgnored:
    """200 with the whole content, though a range was requested."""

    def apply(self, answer: Answer) -> None:
        if answer.status == 206:
            answer.status, answer.first, answer.stop = 200, 0, len(answer.content)


@dataclass(frozen=True, slots=True)
class RangeShifted:
    """The 206 starts some bytes later than requested, with a Content-Range that says so."""

    by: int

    def apply(self, answer: Answer) -> None:
        if answer.status == 206:
            answer.first += self.by


@dataclass(frozen=True, slots=True)
class RangeMislabelled:
    """The 206 has the requested bytes and a wrong Content-Range."""

    content_range: str

    def apply(self, answer: Answer) -> None:
        answer.content_range = self.content_range


@dataclass(frozen=True, slots=True)
class RangeUnsized:
    """A correct 206 with unknown complete length in Content-Range (RFC 9110, 14.4: ``*``)."""

    def apply(self, answer: Answer) -> None:
        if answer.status == 206:
            answer.content_range = f"bytes {answer.first}-{answer.stop - 1}/*"


@dataclass(frozen=True, slots=True)
class Gzipped:
    """Content-Encoding: gzip, requested or not."""

    def apply(self, answer: Answer) -> None:
        answer.content = gzip.compress(answer.content)
        answer.first, answer.stop = 0, len(answer.content)
        answer.headers["Content-Encoding"] = "gzip"


@dataclass(frozen=True, slots=True)
class Without:
    """A missing header."""

    header: str

    def apply(self, answer: Answer) -> None:
        answer.headers.popall(self.header, None)


@dataclass(frozen=True, slots=True)
class Header:
    """A header with this value."""

    name: str
    value: str

    def apply(self, answer: Answer) -> None:
        answer.headers[self.name] = self.value


@dataclass(slots=True, kw_only=True)
class Rule:
    """A fault, the requests to which it applies, and how many of them are left."""

    fault: Fault
    path: str = "*"  # shell pattern
    method: str | None = None  # None: any
    ranged: bool | None = None  # None: with or without a Range header
    left: int | None = None  # None: unlimited

    def takes(self, seen: Seen) -> bool:
        """Return whether the fault applies to this request, and count the request if so."""
        if self.left == 0 or self.method not in (None, seen.method) or not fnmatchcase(seen.path, self.path):
            return False
        if self.ranged is not None and self.ranged != (seen.range is not None):
            return False
        if self.left is not None:
            self.left -= 1
        return True
