"""The session: one HTTP request and its redirects, with aiohttp's exceptions translated where they enter.

Redirects are followed here, not by aiohttp: presigned URLs must arrive byte for byte as they were given, and nobody
but the registry itself may see its Authorization.
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
from mirror.upstream.tls import UpstreamTls, complaint

_MOST_REDIRECTS = 10
_READ_AHEAD = 2**19  # bytes aiohttp may hold before it stops reading: 0.5 to 1 MiB gave the most throughput
_MOST_ORIGINS = 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_USER_AGENT = "oci-mirror"

Origin = tuple[str, str | None, int | None]


class Session:
    """Connections to one upstream, and to where it sends the mirror. Nothing of them is shared with other upstreams.

    What goes to an address that the configuration names may go anywhere. What goes to an address that upstream names
    stays in its bounds, on connections of its own, and is not shown the mirror's certificate.
    """

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        trust: UpstreamTls,
        neighbourhood: ZoneResolver,
        clients: Mapping[Zone, aiohttp.ClientSession],
        metrics: Metrics,
    ) -> None:
        self._name = name
        self._trust = trust
        self._neighbourhood = neighbourhood
        self._clients = clients  # by the zone that is the last they reach
        self._metrics = metrics
        self._own = frozenset(map(origin_of, settings.addresses))
        self._private = settings.private_addresses
        self._heard = LruCache[Origin, float](_MOST_ORIGINS)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, name: str, settings: UpstreamSettings, timeouts: TimeoutSettings, metrics: Metrics
    ) -> AsyncIterator[Self]:
        """A session with the upstream *name*, until the context ends.

        Raises:
            ConfigurationInvalid: a certificate, or a file of authorities, can't be used.
        """
        trust, neighbourhood = UpstreamTls.of(name, settings), ZoneResolver()
        async with AsyncExitStack() as exits:
            clients = {zone: await exits.enter_async_context(_client(zone, neighbourhood, timeouts)) for zone in Zone}
            yield cls(name, settings, trust, neighbourhood, clients, metrics)

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
        """The answer to a request, redirects followed, whatever its status.

        Args:
            headers: an Authorization among them goes to the origin of *url* only.
            named_by: the address of upstream's whose answer named *url*; None where the configuration names it.
            form: what to send as the body, to *url* and to nowhere that it redirects to: it may hold a secret.

        Raises:
            UpstreamUnavailable: no answer could be had.
            RedirectTargetUnavailable: none could be had, or is to be had, where upstream sent the mirror.
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
            response.release()  # for another request, if it was read to its end; closed otherwise

    def heard(self, url: str, *, since: float) -> bool:
        """Whether the origin of *url* has answered anything since that moment (time.monotonic)."""
        return (self._heard.get(origin_of(url)) or 0.0) >= since

    async def _follow(self, method: str, url: str, headers: Mapping[str, str], named_by: str) -> aiohttp.ClientResponse:
        origin = origin_of(url)
        without = {name: value for name, value in headers.items() if name != "Authorization"}
        home = (
            True  # until it was sent elsewhere: an address that others made up is not shown the login, wherever it is
        )
        for _ in range(_MOST_REDIRECTS + 1):
            home = home and origin_of(url) == origin
            try:
                response = await self._once(method, url, headers if home else without, named_by)
            except UpstreamUnavailable as error:
                if home or isinstance(error, RedirectTargetUnavailable):
                    raise
                raise RedirectTargetUnavailable(str(error), upstream=self._name) from error
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.release()
            url = self._redirected(url, location)
        raise RedirectTargetUnavailable(
            f"{self._name} redirects more than {_MOST_REDIRECTS} times", upstream=self._name
        )

    def _redirected(self, url: str, location: str) -> str:
        """The address that *location* means at *url*; an absolute one is taken as it stands, to the byte."""
        absolute = location.startswith(("http://", "https://"))
        try:
            target = self._destination(location if absolute or not location else urljoin(url, location))
        except ValueError as error:
            raise RedirectTargetUnavailable(f"{self._name} redirects to nowhere", upstream=self._name) from error
        if target.scheme == "http" and url.startswith("https:"):
            raise RedirectTargetUnavailable(
                f"{self._name} redirects from https to http ({target.host})", upstream=self._name, host=target.host
            )
        return target.url

    def _destination(self, url: str) -> Destination:
        try:
            return Destination.parse(url)
        except ValueError as error:
            raise RedirectTargetUnavailable(f"{self._name} sends the mirror to {error}", upstream=self._name) from error

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str], named_by: str, form: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        host = urlsplit(url).hostname or self._name
        status = "failed"
        try:
            response = await self._request(method, url, headers, named_by, form)
            status = str(response.status)
            self._heard.set(origin_of(url), time.monotonic())
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            status = "silent"
            raise UpstreamTimeout(
                f"{self._name}: {host} did not answer in time", upstream=self._name, host=host
            ) from error
        except ZoneForbidden as error:
            raise self._out_of_bounds(host, error) from error
        except aiohttp.ClientConnectorError as error:
            status = "refused"
            raise self._unreachable(host, error) from error
        except aiohttp.ServerDisconnectedError as error:
            reason = f"{host} ended the connection without an answer"
            if url.startswith("https:") and not self._trust.shows:  # TLS 1.3 says no more than that
                reason += (
                    f'; if it wants a certificate, set certificate_file and key_file in [upstreams."{self._name}"]'
                )
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
        zone = Zone.RESERVED if own else self._bounds(named_by)
        proxy = proxy_for(url)
        if proxy is not None:
            # The proxy resolves the name and makes the connection: only an address that is spelled out can be judged
            # here. Names are the proxy's to judge, and its operator's.
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
            ssl=self._trust.own if own else self._trust.elsewhere,
        )

    def _bounds(self, url: str) -> Zone:
        """How far upstream may send the mirror from *url*, one of its own: not beyond its own neighbourhood."""
        lies = self._neighbourhood.zone(urlsplit(url).hostname or "")
        return Zone.PRIVATE if self._private or lies is not Zone.PUBLIC else Zone.PUBLIC

    def _out_of_bounds(self, host: str, error: ZoneForbidden) -> RedirectTargetUnavailable:
        if error.zone is Zone.PRIVATE:
            cure = f'if that is right, set private_addresses = true in [upstreams."{self._name}"]'
            return self._elsewhere(f"sends the mirror to {host}, which is a private address; {cure}", host)
        return self._elsewhere(f"sends the mirror to {host}, which is an address that it never asks", host)

    def _elsewhere(self, what: str, host: str) -> RedirectTargetUnavailable:
        return RedirectTargetUnavailable(f"{self._name} {what}", upstream=self._name, host=host)

    def _unreachable(self, host: str, error: aiohttp.ClientConnectorError) -> UpstreamUnavailable:
        cause = error.__cause__
        if isinstance(cause, ZoneForbidden):
            return self._out_of_bounds(host, cause)
        if isinstance(cause, ssl.SSLError):
            reason = complaint(self._name, host, cause)
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
    """Translates what goes wrong while a body is read.

    Raises:
        UpstreamDisconnected: it ended before its end.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UpstreamDisconnected(
            f"{upstream} broke off in the middle: {_reason(error)}", upstream=upstream
        ) from error


async def content_of(upstream: str, response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body, if it has no more than *most* bytes.

    Raises:
        UpstreamDisconnected, UpstreamMalformed
    """
    pieces, size = [], 0
    async with body_errors(upstream):
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise UpstreamMalformed(f"{upstream} sent more than {most} bytes", upstream=upstream)
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


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for *url* (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    proxies = getproxies()
    parts = urlsplit(url)
    if not proxies or not parts.hostname or proxy_bypass(parts.netloc):
        return None
    return proxies.get(parts.scheme)
