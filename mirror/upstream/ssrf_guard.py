"""SSRF guard: refuse connections to private or reserved addresses that a redirect or a token realm leads to.

The check applies to the address that the socket is about to connect to. DNS rebinding (a name that resolves to another
address the second time) and unusual spellings of an address therefore do not bypass it.
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

_MAX_HOSTS = 4096  # hosts with a remembered zone


class ZoneForbidden(OSError):
    """A connection attempt to an address outside the allowed zones."""

    def __init__(self, zone: Zone) -> None:
        super().__init__(f"in the {zone.name.lower()} zone")
        self.zone = zone


def within(zone: Zone) -> Callable[[AddrInfoType], socket.socket]:
    """Return a socket factory that raises ZoneForbidden for an address beyond *zone* (PUBLIC < PRIVATE < RESERVED)."""

    def create_socket(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        found = zone_of(ip_address(address[0]))
        if found > zone:
            raise ZoneForbidden(found)
        return socket.socket(family, kind, protocol)

    return create_socket


class ZoneResolver(aiohttp.ThreadedResolver):
    """DNS resolver that remembers the zone of each resolved name."""

    def __init__(self) -> None:
        super().__init__()
        self._zones = LruCache[str, Zone](_MAX_HOSTS)

    def zone(self, host: str) -> Zone:
        """Return the zone of *host*, the most public one if its addresses are in several zones.

        An unresolved host (requests to it went through a proxy) counts as public: its redirects are then the most
        restricted.
        """
        address = literal(host)
        return zone_of(address) if address is not None else self._zones.get(host) or Zone.PUBLIC

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        self._zones.set(host, min((zone_of(ip_address(result["host"])) for result in found), default=Zone.PUBLIC))
        return found
