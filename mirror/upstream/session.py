"""HTTP client of one upstream: requests, redirects, proxies, and the translation of aiohttp's exceptions.

This module follows redirects itself instead of aiohttp: presigned URLs must be requested byte for byte as received, and
only the registry itself may receive the Authorization header.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from mirror.config import TimeoutSettings, UpstreamSettings
from mirror.errors import (
    RedirectTargetUnavailable,
    UpstreamDisconnected,
    UpstreamMalformed,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.observability.metrics import Metrics
from mirror.oci.ip_zones import Destination, Zone, literal, zone_of
from mirror.primitives.lru import LruCache
from mirror.upstream.ssrf_guard import ZoneForbidden, ZoneResolver, within
from mirror.upstream.tls import UpstreamTls, describe_tls_error

_MAX_REDIRECTS = 10
_READ_AHEAD = 2**19  # bytes that aiohttp buffers before it stops reading; 0.5 to 1 MiB gave the highest throughput
_MAX_ORIGINS = 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_USER_AGENT = "oci-mirror"

Origin = tuple[str, str | None, int | None]


class Session:
    """HTTP connections to one upstream and to its redirect targets and token services; not shared between upstreams.

    A configured address may be anywhere. An address that the upstream names (a redirect, a token realm) is restricted
    to a zone, uses separate connections, and does not receive our client certificate.
    """

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        tls: UpstreamTls,
        resolver: ZoneResolver,
        clients: Mapping[Zone, aiohttp.ClientSession],
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._tls = tls
        self._resolver = resolver
        self._clients = clients  # by the outermost zone that the client may reach
        self._metrics = metrics
        self._own = frozenset(map(origin_of, settings.addresses))
        self._private_allowed = settings.private_addresses
        self._last_response = LruCache[Origin, float](_MAX_ORIGINS)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, name: str, settings: UpstreamSettings, timeouts: TimeoutSettings, metrics: Metrics
    ) -> AsyncIterator[Self]:
        """Open a session with the upstream *name* for the lifetime of the context.

        Raises:
            ConfigurationInvalid: if a client certificate or a file of authorities can't be used.
        """
        tls, resolver = UpstreamTls.of(name, settings), ZoneResolver()
        async with AsyncExitStack() as exits:
            clients = {zone: await exits.enter_async_context(_client(zone, resolver, timeouts)) for zone in Zone}
            yield cls(name, settings, tls, resolver, clients, metrics)

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        named_by: str | None = None,
        form: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, follow redirects, and yield the response, whatever its status.

        Args:
            headers: the Authorization header is sent to the origin of *url* only.
            named_by: the upstream address whose response named *url* (a token realm); None for a configured address.
            form: the body of a POST. It may contain a secret, so redirects of it are not followed.

        Raises:
            UpstreamUnavailable: if there is no response.
            RedirectTargetUnavailable: if a redirect target does not respond or is forbidden.
        """
        if named_by is not None:
            url = self._destination(url).url
        if form is None:
            response = await self._follow(method, url, headers, named_by or url)
        else:
            response = await self._once(method, url, headers, named_by or url, form)
        try:
            yield response
        finally:
            response.release()  # keeps the connection alive if the body was read completely, closes it otherwise

    def heard(self, url: str, *, since: float) -> bool:
        """Return whether the origin of *url* has sent any response since *since* (time.monotonic)."""
        return (self._last_response.get(origin_of(url)) or 0.0) >= since

    async def _follow(self, method: str, url: str, headers: Mapping[str, str], named_by: str) -> aiohttp.ClientResponse:
        origin = origin_of(url)
        anonymous = {name: value for name, value in headers.items() if name != "Authorization"}
        same_origin = True  # False for good after a redirect to another origin: its URLs must not receive the login
        for _ in range(_MAX_REDIRECTS + 1):
            same_origin = same_origin and origin_of(url) == origin
            try:
                response = await self._once(method, url, headers if same_origin else anonymous, named_by)
            except UpstreamUnavailable as error:
                if same_origin or isinstance(error, RedirectTargetUnavailable):
                    raise
                raise RedirectTargetUnavailable(str(error), upstream=self._name) from error
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.release()
            url = self._redirected(url, location)
        raise RedirectTargetUnavailable(f"{self._name} redirects more than {_MAX_REDIRECTS} times", upstream=self._name)

    def _redirected(self, url: str, location: str) -> str:
        """Return the target of the redirect *location* received from *url*. An absolute URL is kept byte for byte."""
        absolute = location.startswith(("http://", "https://"))
        try:
            target = self._destination(location if absolute or not location else urljoin(url, location))
        except ValueError as error:
            raise RedirectTargetUnavailable(
                f"{self._name} sent a redirect without a valid Location", upstream=self._name
            ) from error
        if target.scheme == "http" and url.startswith("https:"):
            raise RedirectTargetUnavailable(
                f"{self._name} redirects from https to http ({target.host})", upstream=self._name, host=target.host
            )
        return target.url

    def _destination(self, url: str) -> Destination:
        try:
            return Destination.parse(url)
        except ValueError as error:
            raise RedirectTargetUnavailable(
                f"{self._name} named an invalid URL: {error}", upstream=self._name
            ) from error

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str], named_by: str, form: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        host = urlsplit(url).hostname or self._name
        status = "failed"
        try:
            response = await self._request(method, url, headers, named_by, form)
            status = str(response.status)
            self._last_response.set(origin_of(url), time.monotonic())
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            status = "silent"
            raise UpstreamTimeout(
                f"{self._name}: {host} did not answer in time", upstream=self._name, host=host
            ) from error
        except ZoneForbidden as error:
            raise self._forbidden(host, error) from error
        except aiohttp.ClientConnectorError as error:
            status = "refused"
            raise self._unreachable(host, error) from error
        except aiohttp.ServerDisconnectedError as error:
            reason = f"{host} closed the connection without a response"
            if url.startswith("https:") and not self._tls.has_certificate:
                # The only sign of a missing client certificate in TLS 1.3.
                keys = f'certificate_file and key_file in [upstreams."{self._name}"]'
                reason += f"; if it requires a client certificate, set {keys}"
            raise UpstreamUnavailable(f"{self._name}: {reason}", upstream=self._name, host=host) from error
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise UpstreamUnavailable(
                f"{self._name}: {host} failed: {_reason(error)}", upstream=self._name, host=host
            ) from error
        finally:
            self._metrics.upstream_requests.labels(self._name, status).inc()
        return response

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], named_by: str, form: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        own = origin_of(url) in self._own
        zone = Zone.RESERVED if own else self._allowed_zone(named_by)
        proxy = proxy_for(url)
        if proxy is not None:
            # The proxy resolves the name and connects, so only a literal address can be checked here. Checking names is
            # up to the proxy and its operator.
            address = literal(urlsplit(url).hostname or "")
            if address is not None and (found := zone_of(address)) > zone:
                raise ZoneForbidden(found)
            zone = Zone.RESERVED
        return await self._clients[zone].request(
            method,
            URL(url, encoded=True),
            headers=headers,
            data=form,
            allow_redirects=False,
            proxy=proxy,
            ssl=self._tls.own if own else self._tls.elsewhere,
        )

    def _allowed_zone(self, url: str) -> Zone:
        """Return the zone of permitted redirect targets of *url*: only a private upstream may name private ones."""
        zone = self._resolver.zone(urlsplit(url).hostname or "")
        return Zone.PRIVATE if self._private_allowed or zone is not Zone.PUBLIC else Zone.PUBLIC

    def _forbidden(self, host: str, error: ZoneForbidden) -> RedirectTargetUnavailable:
        if error.zone is Zone.PRIVATE:
            fix = f'if that is intended, set private_addresses = true in [upstreams."{self._name}"]'
            message = f"{self._name} directs the mirror to {host}, which is a private address; {fix}"
        else:
            message = f"{self._name} directs the mirror to {host}, a reserved address, which the mirror never requests"
        return RedirectTargetUnavailable(message, upstream=self._name, host=host)

    def _unreachable(self, host: str, error: aiohttp.ClientConnectorError) -> UpstreamUnavailable:
        cause = error.__cause__
        if isinstance(cause, ZoneForbidden):
            return self._forbidden(host, cause)
        if isinstance(cause, ssl.SSLError):
            reason = describe_tls_error(self._name, host, cause)
        else:
            reason = f"{host} can't be reached: {error.os_error.strerror or type(error.os_error).__name__}"
        return UpstreamUnavailable(f"{self._name}: {reason}", upstream=self._name, host=host)


def _client(zone: Zone, resolver: ZoneResolver, timeouts: TimeoutSettings) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, resolver=resolver, socket_factory=within(zone)),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.silence),
        headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        requote_redirect_url=False,
        read_bufsize=_READ_AHEAD,
    )


@asynccontextmanager
async def body_errors(upstream: str) -> AsyncIterator[None]:
    """Translate errors that occur while reading a response body.

    Raises:
        UpstreamDisconnected: if the body ended early.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UpstreamDisconnected(
            f"{upstream} disconnected in the middle of a response: {_reason(error)}", upstream=upstream
        ) from error


async def content_of(upstream: str, response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read the whole body of *response*.

    Raises:
        UpstreamDisconnected: if the body ended early.
        UpstreamMalformed: if it has more than *limit* bytes.
    """
    pieces, size = [], 0
    async with body_errors(upstream):
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise UpstreamMalformed(f"{upstream} sent more than {limit} bytes", upstream=upstream)
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    """Return a reason without aiohttp's own message, which may contain the URL and so its signature."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def origin_of(url: str) -> Origin:
    """Return the scheme, host and port of *url* (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, _port(parts)


def _port(parts: SplitResult) -> int | None:
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def proxy_for(url: str) -> str | None:
    """Return the proxy for *url* from the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), or None."""
    proxies = getproxies()
    parts = urlsplit(url)
    if not proxies or not parts.hostname or proxy_bypass(parts.netloc):
        return None
    return proxies.get(parts.scheme)
