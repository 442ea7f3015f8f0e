"""The session: one HTTP request and its redirects, with aiohttp's exceptions translated where they enter.

Redirects are followed here, not by aiohttp: presigned URLs must arrive byte for byte as they were given, and nobody
but the registry itself may see its Authorization.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from mirror.config import TimeoutSettings
from mirror.errors import ElsewhereUnavailable, UpstreamCorrupt, UpstreamCut, UpstreamSilent, UpstreamUnavailable
from mirror.metrics import Metrics
from mirror.recent import Recent

_MOST_REDIRECTS = 10
_READ_AHEAD = 2**19  # bytes aiohttp may hold before it stops reading: 0.5 to 1 MiB gave the most throughput
_MOST_ORIGINS = 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_USER_AGENT = "oci-mirror"

Origin = tuple[str, str | None, int | None]


class Session:
    """Connections to all upstreams."""

    def __init__(self, client: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        self._heard = Recent[Origin, float](_MOST_ORIGINS)

    @classmethod
    @asynccontextmanager
    async def opened(cls, timeouts: TimeoutSettings, metrics: Metrics) -> AsyncIterator[Session]:
        """A session, until the context ends."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.silence),
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            requote_redirect_url=False,
            read_bufsize=_READ_AHEAD,
        ) as client:
            yield cls(client, metrics)

    @asynccontextmanager
    async def send(
        self, upstream: str, method: str, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, redirects followed, whatever its status.

        Args:
            upstream: whose request this is, for the figures and the messages.
            headers: an Authorization among them goes to the origin of *url* only.

        Raises:
            UpstreamUnavailable: no answer could be had.
        """
        response = await self._follow(upstream, method, url, headers)
        try:
            yield response
        finally:
            response.release()  # for another request, if it was read to its end; closed otherwise

    def heard(self, url: str, *, since: float) -> bool:
        """Whether the origin of *url* has answered anything since that moment (time.monotonic)."""
        return (self._heard.get(origin_of(url)) or 0.0) >= since

    async def _follow(self, upstream: str, method: str, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        origin = origin_of(url)
        without = {name: value for name, value in headers.items() if name != "Authorization"}
        for _ in range(_MOST_REDIRECTS + 1):
            home = origin_of(url) == origin
            try:
                response = await self._once(upstream, method, url, headers if home else without)
            except UpstreamUnavailable as error:
                if home:
                    raise
                raise ElsewhereUnavailable(str(error), upstream=upstream) from error
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.release()
            url = _redirected(upstream, url, location)
        raise UpstreamUnavailable(f"{upstream} redirects more than {_MOST_REDIRECTS} times", upstream=upstream)

    async def _once(self, upstream: str, method: str, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        host = urlsplit(url).hostname or upstream
        status = "failed"
        try:
            response = await self._client.request(
                method, URL(url, encoded=True), headers=headers, allow_redirects=False, proxy=_proxy(url)
            )
            status = str(response.status)
            self._heard.keep(origin_of(url), time.monotonic())
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            status = "silent"
            raise UpstreamSilent(f"{upstream}: {host} did not answer in time", upstream=upstream, host=host) from error
        except aiohttp.ClientConnectorError as error:
            status = "refused"
            reason = error.os_error.strerror or type(error.os_error).__name__
            raise UpstreamUnavailable(
                f"{upstream}: {host} can't be reached: {reason}", upstream=upstream, host=host
            ) from error
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise UpstreamUnavailable(
                f"{upstream}: {host} failed: {_reason(error)}", upstream=upstream, host=host
            ) from error
        finally:
            self._metrics.upstream_requests.labels(upstream, status).inc()
        return response


@asynccontextmanager
async def body_errors(upstream: str) -> AsyncIterator[None]:
    """Translates what goes wrong while a body is read.

    Raises:
        UpstreamCut: it ended before its end.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UpstreamCut(f"{upstream} broke off in the middle: {_reason(error)}", upstream=upstream) from error


async def content_of(upstream: str, response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body, if it has no more than *most* bytes.

    Raises:
        UpstreamCut, UpstreamCorrupt
    """
    pieces, size = [], 0
    async with body_errors(upstream):
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise UpstreamCorrupt(f"{upstream} sent more than {most} bytes", upstream=upstream)
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    """What went wrong, in no more words than are ours: aiohttp's may hold the URL, and with it a signature."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def origin_of(url: str) -> Origin:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, _port(parts)


def _port(parts: SplitResult) -> int | None:
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _redirected(upstream: str, url: str, location: str) -> str:
    """The address that *location* means at *url*; an absolute one is taken as it stands, to the byte."""
    try:
        target = location if location.startswith(("http://", "https://")) else urljoin(url, location)
        scheme, host, _ = origin_of(target)
    except ValueError:
        target, scheme, host = "", "", None
    if not location or not host or scheme not in {"http", "https"}:
        raise UpstreamUnavailable(f"{upstream} redirects to nowhere", upstream=upstream)
    if scheme == "http" and url.startswith("https:"):
        raise UpstreamUnavailable(f"{upstream} redirects from https to http ({host})", upstream=upstream, host=host)
    return target.partition("#")[0]


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for *url* (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    proxies = getproxies()
    parts = urlsplit(url)
    if not proxies or not parts.hostname or proxy_bypass(parts.netloc):
        return None
    return proxies.get(parts.scheme)
