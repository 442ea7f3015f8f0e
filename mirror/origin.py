"""Origins: the sources of blobs, and the client and repository that a blob is requested for.

An origin is an upstream registry, a bucket (S3) or another node. A new kind of origin implements `Origin` in a package
of its own beside `upstream/`, and joins the chains (`mirror.pull.origins.Origins`) that `mirror.assembly` builds.
"""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from mirror.auth.rules import Caller
from mirror.oci.authorization import Login
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.oci.ranges import Span


@dataclass(frozen=True, slots=True)
class NoLogin:
    """The credential of a client without a login: a passthrough upstream receives an anonymous request."""


NO_LOGIN = NoLogin()
ClientLogin = Login | NoLogin
"""The credential of a client, for an upstream with `client_auth = "passthrough"`."""


@dataclass(frozen=True, slots=True)
class PullContext:
    """The client and the repository of a pull. Created once per request in `server/`.

    Attributes:
        caller: the client as the mirror authenticated it, for access rules and the log.
        repository: the repository, which names its upstream.
        login: the credential that a passthrough upstream receives instead of the mirror's own; None for every other
            upstream. Answers to a client's login are never shared with another client.
    """

    caller: Caller
    repository: Repository
    login: ClientLogin | None = None


class OriginStream(Protocol):
    """The bytes of one blob, or of its end, as an origin sends them.

    Attributes:
        start: the offset of the first byte. An origin that ignores ranges starts at 0.
        size: bytes of the whole blob; None if the origin does not announce them.
        validator: the strong entity tag of the representation (RFC 9110, 8.8.3), quotes included; None if it has none.
    """

    start: int
    size: int | None
    validator: str | None

    async def read_into(self, buffer: memoryview) -> int:
        """Wait for the next bytes, and copy as many as are available and fit.

        Returns:
            The number of bytes; 0 at the end.

        Raises:
            UpstreamDisconnected: if the stream ended early, or was silent for too long.
        """

    def detach(self) -> DetachedStream | None:
        """Take the connection away from the event loop, so that a thread can read the rest.

        The connection stays open until the stream's context ends. Returns None if it cannot be read as plain bytes:
        TLS, chunked, or already read to its end.
        """


@dataclass(frozen=True, slots=True)
class DetachedStream:
    """The rest of a stream, for a thread.

    Attributes:
        socket: a duplicate of the connection's socket, blocking, with a receive time-out; the thread closes it.
        buffered: bytes that were already received; they come first.
        remaining: bytes of the body that follow *buffered* on the socket.
    """

    socket: socket.socket
    buffered: bytes
    remaining: int


class Origin(Protocol):
    """A source of blobs.

    Attributes:
        name: for log events.
    """

    @property
    def name(self) -> str: ...

    def open(
        self, context: PullContext, digest: Digest, span: Span | None
    ) -> AbstractAsyncContextManager[OriginStream]:
        """Open the blob, with its first bytes already received.

        An exception that leaves the context (UpstreamDisconnected, IntegrityError) tells the origin how its stream
        ended, so that it can prefer another endpoint next time.

        Args:
            span: the wanted bytes; None for the whole blob, an empty span for everything from its start.

        Raises:
            BlobUnknown: if the origin answered that the repository does not have the blob.
            Denied: if the origin refused the client's own login.
            UpstreamError: if the origin could not be used; a retry or another origin may work.
        """
