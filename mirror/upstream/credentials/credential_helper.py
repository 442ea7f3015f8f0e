"""Credential helpers: programs that know secrets (`docker-credential-…`, docker-credential-helpers' protocol).

A program that hangs, crashes or says what makes no sense is no permission to ask as nobody: whoever needs it fails,
and nobody else waits. It is not run again for each request: after a failure there are seconds in which it is not.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import structlog

from mirror.errors import RedirectTargetUnavailable
from mirror.oci.authorization import Login
from mirror.primitives.singleflight import SingleFlight
from mirror.upstream.credentials.docker_config import host_of
from mirror.upstream.credentials.source import Credentials, IdentityToken, is_text

_KEPT = 600.0  # seconds. Helpers tell no end; of what they give, Google's is the first to, after an hour at most
_NOBODY_KEPT = 60.0  # seconds, where it knows no login: one may be made at any time
_PAUSE = 3.0  # seconds from one run to the next, whatever failed or was refused
_DYING = 1.0  # seconds for a program to be gone that was killed; longer it takes only in the kernel
_LONGEST = 2**16  # bytes of an answer
_UNKNOWN = b"credentials not found in native keychain"
_IDENTITY = "<token>"  # as the name: the secret is an identity token
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HelperRequest:
    """What is asked of which program."""

    program: str  # docker-credential-…
    server: str  # as `docker login` calls it: a host and perhaps a port; Docker Hub is https://index.docker.io/v1/

    def __str__(self) -> str:
        return f"{self.program} for {self.server}"


@dataclass(slots=True)
class _Memory:
    """What a program said last, and how it went since."""

    credentials: Credentials | None = None
    answered: float = -math.inf
    ran: float = -math.inf
    failure: str | None = None


class CredentialHelpers:
    """Asks the programs: one run at a time for each enquiry, however many need its answer."""

    def __init__(self, *, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._collapsed = SingleFlight[HelperRequest, Credentials | None]()
        self._memories: dict[HelperRequest, _Memory] = {}  # as many as the configuration names

    async def __aenter__(self) -> Self:
        await self._collapsed.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._collapsed.__aexit__(kind, error, trace)

    async def ask(self, enquiry: HelperRequest) -> Credentials | None:
        """What the program knows; None where it says that it knows nothing.

        Raises:
            RedirectTargetUnavailable: it can't be run, or what it says can't be believed.
        """
        memory = self._memories.setdefault(enquiry, _Memory())
        now = self._clock()
        if memory.failure is not None and now < memory.ran + _PAUSE:
            raise _unusable(enquiry, memory.failure)
        kept = _NOBODY_KEPT if memory.credentials is None else _KEPT
        if memory.failure is None and now < memory.answered + kept:
            return memory.credentials
        return await self._renew(enquiry)

    def last(self, enquiry: HelperRequest) -> Credentials | None:
        """What it said last, however long ago; None also where it was never asked."""
        memory = self._memories.get(enquiry)
        return None if memory is None else memory.credentials

    async def renew(self, enquiry: HelperRequest, refused: Credentials | None) -> None:
        """Asks anew because upstream did not take these, unless that was done in the meantime, or a moment ago.

        Raises:
            RedirectTargetUnavailable
        """
        memory = self._memories.setdefault(enquiry, _Memory())
        if memory.credentials == refused and self._clock() >= memory.ran + _PAUSE:
            await self._renew(enquiry)

    async def _renew(self, enquiry: HelperRequest) -> Credentials | None:
        found, _ = await self._collapsed.do(enquiry, partial(self._run, enquiry))
        return found

    async def _run(self, enquiry: HelperRequest) -> Credentials | None:
        memory = self._memories[enquiry]
        try:
            found = understood(*await _said(enquiry, self._timeout), enquiry.server)
        except ValueError as error:
            memory.failure = f"{enquiry} {error}: try `printf %s {enquiry.server} | {enquiry.program} get`"
            log.warning("credential_helper_failed", program=enquiry.program, server=enquiry.server, reason=str(error))
            raise _unusable(enquiry, memory.failure) from error
        finally:
            memory.ran = self._clock()
        memory.credentials, memory.answered, memory.failure = found, memory.ran, None
        log.debug("credential_helper_asked", program=enquiry.program, server=enquiry.server, known=found is not None)
        return found


def understood(answer: bytes, code: int, server: str) -> Credentials | None:
    """What a program's standard output and exit code mean; None where it knows no login.

    Raises:
        ValueError: nothing that can be believed; the message shows nothing of it.
    """
    if code != 0:
        if answer.strip() == _UNKNOWN:
            return None
        raise ValueError(f"ended with exit code {code}")
    try:
        found: object = json.loads(answer)
    except (ValueError, RecursionError):
        raise ValueError("answered what is not JSON") from None
    members = found.items() if isinstance(found, dict) else ()
    texts = {name.lower(): value for name, value in members if isinstance(value, str) and is_text(value)}
    username, secret, about = texts.get("username", ""), texts.get("secret", ""), texts.get("serverurl", "")
    if not username or ":" in username or not secret:
        raise ValueError("answered without a usable Username and Secret")
    if about and host_of(about) != host_of(server):
        raise ValueError("answered for another server")
    return IdentityToken(secret) if username == _IDENTITY else Login(username, secret)


class _Conversation(asyncio.SubprocessProtocol):
    """A program's output, as far as it is not too much."""

    def __init__(self) -> None:
        self.said = bytearray()
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = loop.create_future()  # there is no more to wait for
        self.exited: asyncio.Future[None] = loop.create_future()
        self.ended = False  # it exited, and all who had its output closed it

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - the signature is asyncio's
        self.said += data
        if len(self.said) > _LONGEST:
            self._enough()

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self.ended = True
        self._enough()

    def _enough(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def _said(enquiry: HelperRequest, timeout: float) -> tuple[bytes, int]:
    """Runs the program, in a process group of its own, which does not outlive a failure.

    Raises:
        ValueError: it can't be run, says too much, or takes longer than so many seconds.
    """
    try:
        with _question(enquiry.server) as stdin:
            transport, talk = await asyncio.get_running_loop().subprocess_exec(
                _Conversation,
                enquiry.program,
                "get",
                stdin=stdin,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
    except OSError as error:
        raise ValueError(f"can't be run: {error.strerror}, on the PATH of the mirror") from error
    try:
        async with asyncio.timeout(timeout):
            await talk.over
    except TimeoutError as error:
        raise ValueError(f"did not answer within {timeout:g} s") from error
    finally:
        try:
            if not talk.ended:
                await _end(transport.get_pid(), talk.exited)
        finally:
            transport.close()
    if len(talk.said) > _LONGEST:
        raise ValueError(f"answered more than {_LONGEST} bytes")
    return bytes(talk.said), transport.get_returncode() or 0


async def _end(group: int, exited: asyncio.Future[None]) -> None:
    """Kills the program with all that it started, and waits until it is no zombie either."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    await asyncio.wait([exited], timeout=_DYING)


@contextmanager
def _question(server: str) -> Iterator[int]:
    """A descriptor to read it from. Programs that don't read it, or have ended before, need no care then."""
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as asking:
            asking.write(server.encode())  # a pipe holds more than any host name has
        yield reading
    finally:
        os.close(reading)


def _unusable(enquiry: HelperRequest, failure: str) -> RedirectTargetUnavailable:
    return RedirectTargetUnavailable(failure, retry_after=int(_PAUSE), program=enquiry.program, server=enquiry.server)
