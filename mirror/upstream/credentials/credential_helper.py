"""Credential helpers: external programs that store logins (`docker-credential-…`, docker-credential-helpers' protocol).

If a helper hangs, crashes or prints garbage, the requests that need it fail: they do not fall back to anonymous access.
Other requests do not wait for it. After a failure, the helper is not run again for some seconds.
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

_FRESH_FOR = 600.0  # seconds. Helpers report no expiry; the shortest-lived logins, Google's, last up to an hour
_ABSENCE_FRESH_FOR = 60.0  # seconds for "no login": the operator may log in at any time
_PAUSE = 3.0  # seconds between runs after a failure or a refused login
_EXIT_TIMEOUT = 1.0  # seconds for a killed helper to exit; longer only if the kernel blocks it
_MAX_OUTPUT = 2**16  # bytes
_NOT_FOUND = b"credentials not found in native keychain"
_IDENTITY = "<token>"  # as Username: Secret is an identity token
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HelperRequest:
    """One query: a helper program and the registry to ask it about.

    Attributes:
        program: the name or path of the program, `docker-credential-…`.
        server: the registry as `docker login` names it: a host, with a port if it is not the default one. Docker Hub is
            https://index.docker.io/v1/.
    """

    program: str
    server: str

    def __str__(self) -> str:
        return f"{self.program} for {self.server}"


@dataclass(slots=True)
class _LastRun:
    """Last result of a helper, and the outcome of the run since.

    Attributes:
        credentials: the login of the last successful run; None if the helper had none.
        succeeded_at: the time of the last successful run.
        ran_at: the time of the last run.
        failure: the message of the last run if it failed.
    """

    credentials: Credentials | None = None
    succeeded_at: float = -math.inf
    ran_at: float = -math.inf
    failure: str | None = None


class CredentialHelpers:
    """Runner and cache of credential helpers. Concurrent callers with the same request share one run."""

    def __init__(self, *, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._collapsed = SingleFlight[HelperRequest, Credentials | None]()
        self._last_runs: dict[HelperRequest, _LastRun] = {}  # bounded by the configuration

    async def __aenter__(self) -> Self:
        await self._collapsed.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._collapsed.__aexit__(kind, error, trace)

    async def ask(self, request: HelperRequest) -> Credentials | None:
        """Return the helper's credentials, or None if it has none for the server. Results are cached for a while.

        Raises:
            RedirectTargetUnavailable: if the helper can't be run or its output is invalid.
        """
        last = self._last_runs.setdefault(request, _LastRun())
        now = self._clock()
        if last.failure is not None and now < last.ran_at + _PAUSE:
            raise _failed(request, last.failure)
        fresh_for = _ABSENCE_FRESH_FOR if last.credentials is None else _FRESH_FOR
        if last.failure is None and now < last.succeeded_at + fresh_for:
            return last.credentials
        return await self._renew(request)

    def last(self, request: HelperRequest) -> Credentials | None:
        """Return the credentials of the last successful run, of any age. None also if the helper never ran."""
        last = self._last_runs.get(request)
        return None if last is None else last.credentials

    async def renew(self, request: HelperRequest, refused: Credentials | None) -> None:
        """Run the helper again because the upstream refused *refused*. Do nothing if a newer or very recent run exists.

        Raises:
            RedirectTargetUnavailable: if the helper can't be run or its output is invalid.
        """
        last = self._last_runs.setdefault(request, _LastRun())
        if last.credentials == refused and self._clock() >= last.ran_at + _PAUSE:
            await self._renew(request)

    async def _renew(self, request: HelperRequest) -> Credentials | None:
        found, _ = await self._collapsed.do(request, partial(self._run, request))
        return found

    async def _run(self, request: HelperRequest) -> Credentials | None:
        last = self._last_runs[request]
        try:
            found = parse_response(*await _output(request, self._timeout), request.server)
        except ValueError as error:
            test = f": test it with `printf %s {request.server} | {request.program} get`"
            last.failure = f"{request} {error}{'' if isinstance(error, _NotStarted) else test}"
            log.warning("credential_helper_failed", program=request.program, server=request.server, reason=str(error))
            raise _failed(request, last.failure) from error
        finally:
            last.ran_at = self._clock()
        last.credentials, last.succeeded_at, last.failure = found, last.ran_at, None
        log.debug("credential_helper_ran", program=request.program, server=request.server, known=found is not None)
        return found


def parse_response(output: bytes, code: int, server: str) -> Credentials | None:
    """Parse the standard output and exit code of a helper. Return None if it has no login for *server*.

    Raises:
        ValueError: if the response is invalid. The message contains nothing of it, as it may hold a secret.
    """
    if code != 0:
        if output.strip() == _NOT_FOUND:
            return None
        raise ValueError(f"failed with exit code {code}")
    try:
        found: object = json.loads(output)
    except (ValueError, RecursionError):
        raise ValueError("returned invalid JSON") from None
    members = found.items() if isinstance(found, dict) else ()
    texts = {name.lower(): value for name, value in members if isinstance(value, str) and is_text(value)}
    username, secret, about = texts.get("username", ""), texts.get("secret", ""), texts.get("serverurl", "")
    if not username or ":" in username or not secret:
        raise ValueError("returned no usable Username or Secret")
    if about and host_of(about) != host_of(server):
        raise ValueError("returned a login for another server")
    return IdentityToken(secret) if username == _IDENTITY else Login(username, secret)


class _NotStarted(ValueError):
    """The helper is not installed, or can't be executed. The message contains the fix."""


class _HelperProtocol(asyncio.SubprocessProtocol):
    """Collector of a helper's standard output.

    Attributes:
        output: the bytes received so far.
        done: completes when the output ends or exceeds the limit.
        exited: completes when the helper exits.
        closed: whether the helper exited and every process that inherited its standard output closed it.
    """

    def __init__(self) -> None:
        self.output = bytearray()
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.closed = False

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - the signature is asyncio's
        self.output += data
        if len(self.output) > _MAX_OUTPUT:
            self._finish()

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self.closed = True
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _output(request: HelperRequest, timeout: float) -> tuple[bytes, int]:
    """Run the helper in its own process group. Return its output and exit code; kill the whole group on failure.

    Raises:
        ValueError: if the helper can't be started, prints too much, or takes longer than *timeout* seconds.
    """
    try:
        with _stdin(request.server) as stdin:
            transport, protocol = await asyncio.get_running_loop().subprocess_exec(
                _HelperProtocol,
                request.program,
                "get",
                stdin=stdin,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
    except OSError as error:
        raise _NotStarted(
            f"can't be started ({error.strerror}): install it in a directory of the mirror's PATH"
        ) from error
    try:
        async with asyncio.timeout(timeout):
            await protocol.done
    except TimeoutError as error:
        raise ValueError(f"did not respond within {timeout:g} s") from error
    finally:
        try:
            if not protocol.closed:
                await _kill(transport.get_pid(), protocol.exited)
        finally:
            transport.close()
    if len(protocol.output) > _MAX_OUTPUT:
        raise ValueError(f"returned more than {_MAX_OUTPUT} bytes")
    return bytes(protocol.output), transport.get_returncode() or 0


async def _kill(group: int, exited: asyncio.Future[None]) -> None:
    """Kill the helper and its child processes, and wait until it is reaped."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    await asyncio.wait([exited], timeout=_EXIT_TIMEOUT)


@contextmanager
def _stdin(server: str) -> Iterator[int]:
    """Yield a file descriptor that contains *server*. A pre-filled pipe also suits helpers that never read stdin."""
    read_end, write_end = os.pipe()
    try:
        with open(write_end, "wb") as pipe:
            pipe.write(server.encode())  # a pipe buffers more bytes than any host name has
        yield read_end
    finally:
        os.close(read_end)


def _failed(request: HelperRequest, failure: str) -> RedirectTargetUnavailable:
    return RedirectTargetUnavailable(failure, retry_after=int(_PAUSE), program=request.program, server=request.server)
