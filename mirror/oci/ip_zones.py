"""IP zones (public, private, reserved) and parsing of untrusted URLs, to prevent server-side request forgery (SSRF).

Redirects and token realms are untrusted input. They must not make the mirror connect to services that only the mirror
can reach: on its own machine, in its network, or the cloud's metadata service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urlsplit

Address = IPv4Address | IPv6Address

_PORTS = {"http": 80, "https": 443}
# No userinfo, escapes, zone ids or backslashes: all URL parsers agree on such an authority.
_AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
_MAX_URL_LENGTH = 16_384  # presigned URLs have some thousands of characters


class Zone(IntEnum):
    """The zone of an IP address. A connection that may reach a zone may also reach the zones before it."""

    PUBLIC = 0
    PRIVATE = 1  # loopback and private networks
    RESERVED = 2  # link-local (cloud metadata), multicast, unspecified, unallocated


_PRIVATE_4 = [
    IPv4Network(network)
    for network in (
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598), and services of some clouds
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.168.0.0/16",
        "198.18.0.0/15",  # network benchmarks (RFC 2544)
    )
]
_RESERVED_4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # on Linux, this machine
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "100.100.100.200/32",  # cloud metadata outside link-local: Alibaba, Oracle, Azure
        "192.0.0.192/32",
        "168.63.129.16/32",
    )
]
_PRIVATE_6 = [IPv6Network(network) for network in ("::1/128", "fc00::/7", "fec0::/10")]
_RESERVED_6 = [IPv6Network(network) for network in ("fd00:ec2::254/128", "fd20:ce::254/128")]  # metadata: AWS, Google
_PUBLIC_6 = IPv6Network("2000::/3")  # all that is allocated so far (RFC 4291, 2.4)
_TEREDO, _6TO4 = IPv6Network("2001::/32"), IPv6Network("2002::/16")
# An IPv4 address in the last 32 bits: mapped, translated (RFC 6052 and 8215, NAT64; RFC 2765).
_EMBEDDING = [
    IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")
]


def zone_of(address: Address) -> Zone:
    """Return the zone of *address*; for an IPv6 address that embeds IPv4, the zone of the embedded address."""
    if isinstance(address, IPv4Address):
        return _zone(address, _RESERVED_4, _PRIVATE_4, Zone.PUBLIC)
    embedded = _embedded(address)
    if embedded:
        return max(map(zone_of, embedded))
    return _zone(address, _RESERVED_6, _PRIVATE_6, Zone.PUBLIC if address in _PUBLIC_6 else Zone.RESERVED)


def _zone(
    address: Address,
    reserved: list[IPv4Network] | list[IPv6Network],
    private: list[IPv4Network] | list[IPv6Network],
    otherwise: Zone,
) -> Zone:
    if any(address in network for network in reserved):
        return Zone.RESERVED
    return Zone.PRIVATE if any(address in network for network in private) else otherwise


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    bits = int(address)
    if any(address in network for network in _EMBEDDING):
        return [IPv4Address(bits & 0xFFFFFFFF)]
    if address in _6TO4:
        return [IPv4Address(bits >> 80 & 0xFFFFFFFF)]
    if address in _TEREDO:  # the server, and the client with inverted bits (RFC 4380, 4)
        return [IPv4Address(bits >> 64 & 0xFFFFFFFF), IPv4Address(~bits & 0xFFFFFFFF)]
    return []


def literal(host: str) -> Address | None:
    """Return the IP address that *host* spells in any form that a resolver accepts; None for a name.

    Forms: 127.0.0.1, 127.1, 2130706433, 0x7f.1, 127.0.0.1. (trailing dot), IPv6.
    """
    host = host.rstrip(".")
    try:
        return ip_address(host)
    except ValueError:
        pass
    parts = host.split(".")
    if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)):
        return None
    *before, last = map(_number, parts)
    if last is None or last >= 256 ** (4 - len(before)) or any(part is None or part > 255 for part in before):
        return None
    return IPv4Address(sum((part or 0) << 8 * (3 - place) for place, part in enumerate(before)) + last)


def _number(text: str) -> int | None:
    """Parse as inet_aton does: hexadecimal after 0x, octal after 0. Return None for an invalid digit."""
    try:
        if text[:2] in {"0x", "0X"}:
            return int(text, 0)
        return int(text, 8 if text.startswith("0") else 10)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Destination:
    """The parsed URL of a redirect or a token realm.

    Attributes:
        host: in lower case, without brackets.
        url: byte for byte as received, except that characters not allowed on a request line are percent-encoded.
    """

    scheme: str
    host: str
    port: int
    url: str

    @classmethod
    def parse(cls, url: str) -> Destination:
        """Parse an absolute URL.

        Raises:
            ValueError: if the mirror refuses the URL. The message says why, without the path and the query.
        """
        url = url.strip(" ")
        if len(url) > _MAX_URL_LENGTH:
            raise ValueError(f"a URL of {len(url)} characters")
        if re.search(r"[\x00-\x1f\x7f]", url):
            raise ValueError("a URL with control characters")
        parts = urlsplit(url)
        if parts.scheme not in _PORTS:
            raise ValueError("a URL that is neither http nor https")
        if "@" in parts.netloc:
            raise ValueError("a URL with a login")
        found = _AUTHORITY.fullmatch(parts.netloc)
        host = "" if found is None else (found["six"] or found["name"]).lower()
        if found is None or not host.strip(".") or not _is_plain(host):
            raise ValueError("a URL without a valid host")
        port = int(found["port"] or _PORTS[parts.scheme])
        if not 0 < port < 65536:
            raise ValueError("a URL with an invalid port")
        url = re.sub("[^!-~]", lambda found: quote(found[0], errors="surrogateescape"), url.partition("#")[0])
        return cls(parts.scheme, host, port, url)


def _is_plain(host: str) -> bool:
    """Return whether *host* is an IP address or a name, and not a number that a resolver could take for an address."""
    return literal(host) is not None or (":" not in host and not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]))
