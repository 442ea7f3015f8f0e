"""The model: which responses are allowed, given the upstream's content and faults. Wrong bytes are never excused."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from tests.fake.shelf import Shelf
from tests.http.client import Reply

FRESH_FOR = 1.0  # seconds, as configured in the mirror
PATIENCE = 2.0  # seconds until an upstream's first byte, as configured in the mirror
SLACK = 2.0  # extra seconds for a busy machine
HEAD_WITHIN = 10.0  # seconds until a response must begin, with faults or without
_UNVERIFIED = "as upstream sent it, unverified"
_MOST_KEPT = 3  # examples of each violation


class Excuses(Protocol):
    """Knows of faults and restarts."""

    def excuse(self, upstream: str, began: float, ended: float) -> bool:
        """Return whether a failed request to that upstream is to be expected in that time (time.monotonic)."""

    def was_down(self, began: float, ended: float) -> bool:
        """Return whether the mirror was down at some moment of that time."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its result."""

    kind: str
    upstream: str
    target: str
    began: float
    ended: float
    reply: Reply | None  # None: the connection failed
    error: str = ""


@dataclass(slots=True)
class Model:
    """Checks exchanges, and counts them."""

    shelves: dict[str, Shelf]  # by upstream
    excuses: Excuses
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, outcome)
    wrong: int = 0
    broken: Counter[str] = field(default_factory=Counter)  # violations, by rule
    examples: list[str] = field(default_factory=list)
    tainted: set[str] = field(default_factory=set)  # digests of content that an upstream has sent with wrong bytes
    content_bytes: int = 0
    fair: int = 0  # responses for which no failure would have been excused

    def break_promise(self, what: str, example: str) -> None:
        """Count a violation, and keep the first few as examples."""
        self.broken[what] += 1
        if self.broken[what] <= _MOST_KEPT:
            self.examples.append(f"{what}: {example}")

    def blob(self, exchange: Exchange, digest: str, span: tuple[int, int] | None = None) -> None:
        """Check a GET of a blob, or of *span* (first and last byte)."""
        reply = self._answered(exchange)
        if reply is None:
            return
        content = self.shelves[exchange.upstream].content(digest)
        if span is not None:
            content = content[span[0] : span[1] + 1]
        if reply.status == 416 and self._is_unverified(reply, digest):
            self.seen[exchange.kind, _UNVERIFIED] += 1  # because of the length that upstream declared
        elif reply.status != (200 if span is None else 206):
            self._refused(exchange, reply)
        elif not reply.whole:
            self._excused(exchange, "cut", "an answer was cut in fair weather")
        elif reply.body == content:
            self._right(exchange, reply)
        elif span is not None and self._is_unverified(reply, digest):
            self.seen[exchange.kind, _UNVERIFIED] += 1
        else:
            self._wrong(exchange, reply)

    def two_parts(self, exchange: Exchange, digest: str, spans: list[tuple[int, int]]) -> None:
        """Check a GET of two byte ranges of a blob."""
        reply = self._answered(exchange)
        if reply is None:
            return
        content = self.shelves[exchange.upstream].content(digest)
        if reply.status == 416 and self._is_unverified(reply, digest):
            self.seen[exchange.kind, _UNVERIFIED] += 1
        elif reply.status != 206:
            self._refused(exchange, reply)
        elif not reply.whole:
            self._excused(exchange, "cut", "an answer was cut in fair weather")
        elif all(content[first : last + 1] in reply.body for first, last in spans):
            self._right(exchange, reply)
        elif self._is_unverified(reply, digest):
            self.seen[exchange.kind, _UNVERIFIED] += 1
        else:
            self._wrong(exchange, reply)

    def head(self, exchange: Exchange, digest: str) -> None:
        """Check a HEAD by digest: length and digest are right where they are given."""
        reply = self._answered(exchange)
        if reply is None:
            return
        if reply.status != 200:
            self._refused(exchange, reply)
            return
        size = len(self.shelves[exchange.upstream].content(digest))
        told = reply.headers.get("Content-Length", str(size)), reply.headers.get("Docker-Content-Digest", digest)
        if told == (str(size), digest) and not reply.body:
            self._right(exchange, reply)
        elif told[1] == digest and self._is_unverified(reply, digest):
            self.seen[exchange.kind, _UNVERIFIED] += 1
        else:
            self._wrong(exchange, reply)

    def manifest(self, exchange: Exchange, digest: str) -> None:
        """Check a GET of a manifest by digest; 304 is allowed for a conditional one."""
        reply = self._answered(exchange)
        if reply is None:
            return
        if reply.status == 304 and exchange.kind == "manifest, conditional":
            self._right(exchange, reply)
        elif reply.status != 200:
            self._refused(exchange, reply)
        elif not reply.whole:
            self._excused(exchange, "cut", "an answer was cut in fair weather")
        elif reply.body == self.shelves[exchange.upstream].content(digest):
            self._right(exchange, reply)
        else:
            self._wrong(exchange, reply)

    def tag(self, exchange: Exchange, repository: str, tag: str) -> str | None:
        """Check a GET of a manifest by tag; return the digest if it is right."""
        reply = self._answered(exchange)
        if reply is None:
            return None
        shelf = self.shelves[exchange.upstream]
        named = _named(shelf, repository, tag, exchange)
        if reply.status == 404 and None in named:
            self.seen[exchange.kind, "rightly unknown"] += 1
        elif reply.status != 200:
            self._refused(exchange, reply)
        elif not reply.whole:
            self._excused(exchange, "cut", "an answer was cut in fair weather")
        elif reply.digest not in shelf.ever(repository, tag):
            self._wrong(exchange, reply)
        elif "fwd=stale" in reply.cache_status:
            self.seen[exchange.kind, "stale, and marked so"] += 1
            if "Warning" not in reply.headers or "Age" not in reply.headers:
                self.break_promise("a stale answer without Warning or Age", str(reply)[:400])
            return reply.digest
        elif reply.digest not in named:
            self.break_promise("an old tag was answered and not marked as stale", f"{exchange.target}: {reply!s:.400}")
        else:
            self._right(exchange, reply)
            return reply.digest
        return None

    def page(self, exchange: Exchange) -> None:
        """Check a GET of a list."""
        reply = self._answered(exchange)
        if reply is None:
            return
        if reply.status != 200:
            self._refused(exchange, reply)
        elif not reply.whole:
            self._excused(exchange, "cut", "an answer was cut in fair weather")
        else:
            self._right(exchange, reply)

    def left(self, exchange: Exchange, digest: str, received: bytes) -> None:
        """Check the bytes that a client had received when it disconnected."""
        begin = self.shelves[exchange.upstream].content(digest)[: len(received)]
        if received == begin or digest in self.tainted:
            self.seen[exchange.kind, "left"] += 1
        else:
            self.wrong += 1
            self.break_promise("wrong bytes", f"{exchange.target}: before the client left")

    def _is_unverified(self, reply: Reply, digest: str) -> bool:
        """Return whether this is upstream's wrong length or part, of content that is not fully cached."""
        return digest in self.tainted and "hit" not in reply.cache_status

    def _answered(self, exchange: Exchange) -> Reply | None:
        """Return the reply, or count the failed connection and return None."""
        if exchange.reply is None:
            if self.excuses.was_down(exchange.began, exchange.ended):
                self.seen[exchange.kind, "mirror restarted"] += 1
            else:
                self.seen[exchange.kind, "lost"] += 1
                self.break_promise("a connection was lost", f"{exchange.target}: {exchange.error}")
        elif not self.excuses.excuse(exchange.upstream, exchange.began, exchange.ended):
            self.fair += 1
        return exchange.reply

    def _right(self, exchange: Exchange, reply: Reply) -> None:
        self.seen[exchange.kind, "right"] += 1
        self.content_bytes += len(reply.body)

    def _wrong(self, exchange: Exchange, reply: Reply) -> None:
        self.wrong += 1
        self.seen[exchange.kind, "WRONG"] += 1
        self.break_promise("wrong bytes", f"{exchange.target}: {reply!s:.600}")

    def _refused(self, exchange: Exchange, reply: Reply) -> None:
        """Check an error: its status is in the contract, it is in time, and it is excused."""
        if reply.status not in {404, 429, 502, 503, 504}:
            self.seen[exchange.kind, str(reply.status)] += 1
            self.break_promise(f"status {reply.status}", f"{exchange.target}: {reply!s:.600}")
            return
        if reply.status in {429, 503, 504} and not re.fullmatch(r"\d+", reply.headers.get("Retry-After", "")):
            self.break_promise("an error without Retry-After", f"{exchange.target}: {reply!s:.400}")
        self._excused(exchange, str(reply.status), f"{reply.status} in fair weather")

    def _excused(self, exchange: Exchange, outcome: str, promise: str) -> None:
        self.seen[exchange.kind, outcome] += 1
        if not self.excuses.excuse(exchange.upstream, exchange.began, exchange.ended):
            self.break_promise(promise, f"{exchange.target}: {exchange.reply!s:.600}")


def _named(shelf: Shelf, repository: str, tag: str, exchange: Exchange) -> set[str | None]:
    """Return the digests that the tag may have: all since the last moment at which the mirror may have revalidated."""
    since = exchange.began - FRESH_FOR - PATIENCE - SLACK
    namings = shelf.tags[repository, tag]
    current = [naming for naming in namings if naming.since <= since][-1:]
    return {naming.digest for naming in (*current, *namings) if naming in current or naming.since > since}
