"""What can go wrong upstream, as frozen values; each bends an answer that would otherwise be right."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from multidict import CIMultiDict

from tests.fake.answers import BEFORE_HEADERS, Answer, Stop, Valve
from tests.fake.journal import Seen


class Fault(Protocol):
    """One way for an answer to be wrong."""

    def bend(self, answer: Answer) -> None:
        """Make the answer wrong in this way."""


@dataclass(frozen=True, slots=True)
class Status:
    """Another status, with a body that is no content: 429, 500, 404, 401 ..."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"UNKNOWN","message":"fault","detail":"JUNK"}]}'

    def bend(self, answer: Answer) -> None:
        answer.replace(self.code, self.body)
        answer.headers = CIMultiDict({"Content-Type": "application/json", **self.headers})


@dataclass(frozen=True, slots=True)
class Redirect:
    """To this Location, exactly as spelled."""

    location: str
    code: int = 307

    def bend(self, answer: Answer) -> None:
        answer.replace(self.code, b"")
        answer.headers = CIMultiDict({"Location": self.location})


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset before the status line."""

    def bend(self, answer: Answer) -> None:
        answer.stops.append(Stop(BEFORE_HEADERS, None, reset=True))


@dataclass(frozen=True, slots=True)
class Hold:
    """Halt at a byte of the content (or before the status line) until the valve opens; one never opened is silence."""

    valve: Valve = field(default_factory=Valve)
    at: int = BEFORE_HEADERS

    def bend(self, answer: Answer) -> None:
        answer.stops.append(Stop(self.at, self.valve))


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is closed at a byte of the content, on a resumed request too: the source is broken there."""

    at: int
    reset: bool = False

    def bend(self, answer: Answer) -> None:
        answer.stops.append(Stop(self.at, None, reset=self.reset))


@dataclass(frozen=True, slots=True)
class Slow:
    """So many bytes a second."""

    rate: float

    def bend(self, answer: Answer) -> None:
        answer.pace = self.rate


@dataclass(frozen=True, slots=True)
class Wrong:
    """One byte of the content is another; the length is right."""

    at: int = -1  # as an index of the content

    def bend(self, answer: Answer) -> None:
        content = bytearray(answer.content)
        content[self.at] ^= 0xFF
        answer.content = bytes(content)


@dataclass(frozen=True, slots=True)
class Resized:
    """The content is shorter (negative) or longer by some bytes, and its Content-Length agrees with the lie."""

    by: int

    def bend(self, answer: Answer) -> None:
        answer.content = answer.content[: self.by] if self.by < 0 else answer.content + b"!" * self.by
        answer.stop += self.by


@dataclass(frozen=True, slots=True)
class Overrun:
    """Bytes follow the declared end of the body."""

    junk: bytes = b"J" * 512

    def bend(self, answer: Answer) -> None:
        answer.overrun = self.junk


@dataclass(frozen=True, slots=True)
class Unframed:
    """No Content-Length; a GET is chunked."""

    def bend(self, answer: Answer) -> None:
        answer.framed = False


@dataclass(frozen=True, slots=True)
class RangeIgnored:
    """200 and everything, whatever was asked."""

    def bend(self, answer: Answer) -> None:
        if answer.status == 206:
            answer.status, answer.first, answer.stop = 200, 0, len(answer.content)


@dataclass(frozen=True, slots=True)
class RangeShifted:
    """The 206 starts some bytes later than asked, and says so."""

    by: int

    def bend(self, answer: Answer) -> None:
        if answer.status == 206:
            answer.first += self.by


@dataclass(frozen=True, slots=True)
class RangeMislabelled:
    """The 206 has the bytes that were asked for and a Content-Range that is wrong."""

    content_range: str

    def bend(self, answer: Answer) -> None:
        answer.content_range = self.content_range


@dataclass(frozen=True, slots=True)
class RangeUnsized:
    """The 206 is right and does not say of how many bytes it is a part (RFC 9110, 14.4: ``*``)."""

    def bend(self, answer: Answer) -> None:
        if answer.status == 206:
            answer.content_range = f"bytes {answer.first}-{answer.stop - 1}/*"


@dataclass(frozen=True, slots=True)
class Gzipped:
    """Content-Encoding: gzip, asked for or not."""

    def bend(self, answer: Answer) -> None:
        answer.content = gzip.compress(answer.content)
        answer.first, answer.stop = 0, len(answer.content)
        answer.headers["Content-Encoding"] = "gzip"


@dataclass(frozen=True, slots=True)
class Without:
    """A header is missing."""

    header: str

    def bend(self, answer: Answer) -> None:
        answer.headers.popall(self.header, None)


@dataclass(frozen=True, slots=True)
class Header:
    """A header has this value."""

    name: str
    value: str

    def bend(self, answer: Answer) -> None:
        answer.headers[self.name] = self.value


@dataclass(slots=True, kw_only=True)
class Rule:
    """A fault, the requests it befalls, and for how many of them yet."""

    fault: Fault
    path: str = "*"  # shell pattern
    method: str | None = None  # None: any
    ranged: bool | None = None  # None: with a Range header or without
    left: int | None = None  # None: for good

    def takes(self, seen: Seen) -> bool:
        """Whether this request is hit; counts it if so."""
        if self.left == 0 or self.method not in (None, seen.method) or not fnmatchcase(seen.path, self.path):
            return False
        if self.ranged is not None and self.ranged != (seen.range is not None):
            return False
        if self.left is not None:
            self.left -= 1
        return True
