"""Bounds: connections that reach no further than they may, whatever the name or the number they were asked by.

The address that counts is the one that the socket is about to be connected to: a name that resolves to something else
the second time (DNS rebinding) and every spelling of an address are judged alike.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.connector import AddrInfoType

from mirror.oci.ip_zones import Zone, literal, zone_of
from mirror.primitives.lru import LruCache

_MOST_HOSTS = 4096  # whose zones are remembered


class ZoneForbidden(OSError):
    """A connection would have left its zone."""

    def __init__(self, zone: Zone) -> None:
        super().__init__(f"in the {zone.name.lower()} zone")
        self.zone = zone


def within(zone: Zone) -> Callable[[AddrInfoType], socket.socket]:
    """Makes sockets that are to be connected to an address in *zone*, or in one before it; no others."""

    def bound(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, place = info
        found = zone_of(ip_address(place[0]))
        if found > zone:
            raise ZoneForbidden(found)
        return socket.socket(family, kind, protocol)

    return bound


class ZoneResolver(aiohttp.ThreadedResolver):
    """Resolves names, and remembers in which zone those lie that were resolved."""

    def __init__(self) -> None:
        super().__init__()
        self._zones = LruCache[str, Zone](_MOST_HOSTS)

    def zone(self, host: str) -> Zone:
        """Where *host* lies, as far as all its addresses lie there: a public one among private ones makes it public.

        Not known (it was asked through a proxy), it counts as public: the least that others are then allowed.
        """
        address = literal(host)
        return zone_of(address) if address is not None else self._zones.get(host) or Zone.PUBLIC

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        self._zones.set(host, min((zone_of(ip_address(one["host"])) for one in found), default=Zone.PUBLIC))
        return found
