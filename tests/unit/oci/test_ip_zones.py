"""IP zones, spellings of addresses, and URLs from redirects and token realms."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from yarl import URL

from mirror.oci.ip_zones import Destination, Zone, literal, zone_of
from mirror.upstream.ssrf_guard import ZoneForbidden, ZoneResolver, within
from tests.unit.texts import anything

V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(IPv6Address)
ZONES = {
    "1.1.1.1": Zone.PUBLIC,
    "203.0.113.10": Zone.PUBLIC,
    "2606:4700::1111": Zone.PUBLIC,
    "10.0.0.1": Zone.PRIVATE,
    "100.64.0.1": Zone.PRIVATE,
    "127.0.0.1": Zone.PRIVATE,
    "127.255.255.255": Zone.PRIVATE,
    "172.16.0.0": Zone.PRIVATE,
    "172.31.255.255": Zone.PRIVATE,
    "172.32.0.0": Zone.PUBLIC,
    "192.168.1.1": Zone.PRIVATE,
    "::1": Zone.PRIVATE,
    "fd00::1": Zone.PRIVATE,
    "fec0::1": Zone.PRIVATE,
    "0.0.0.0": Zone.RESERVED,
    "0.1.2.3": Zone.RESERVED,
    "169.254.169.254": Zone.RESERVED,
    "100.100.100.200": Zone.RESERVED,
    "168.63.129.16": Zone.RESERVED,
    "224.0.0.1": Zone.RESERVED,
    "255.255.255.255": Zone.RESERVED,
    "::": Zone.RESERVED,
    "fe80::1": Zone.RESERVED,
    "fe80::1%eth0": Zone.RESERVED,
    "ff02::1": Zone.RESERVED,
    "fd00:ec2::254": Zone.RESERVED,
    "4000::1": Zone.RESERVED,
    "::ffff:127.0.0.1": Zone.PRIVATE,
    "::ffff:169.254.169.254": Zone.RESERVED,
    "64:ff9b::a9fe:a9fe": Zone.RESERVED,
    "2002:a9fe:a9fe::1": Zone.RESERVED,
    "2002:7f00:1::1": Zone.PRIVATE,
    "2001:0:101:101::8000:fffe": Zone.PRIVATE,  # the client is 127.255.0.1, bits inverted
}


@pytest.mark.parametrize(("text", "zone"), ZONES.items())
def test_address_has_the_zone_of_its_kind(text: str, zone: Zone) -> None:
    """RFC 6890 and its successors; the metadata addresses of all clouds."""
    assert zone_of(ip_address(text)) is zone


@given(V4)
@example(IPv4Address("100.127.255.255"))
def test_address_that_is_not_global_is_not_public(address: IPv4Address) -> None:
    """The special-purpose registry in `ipaddress` decides, except for documentation networks, which have no hosts."""
    documentation = map(ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))
    assume(not any(address in network for network in documentation))
    if not address.is_global or address.is_multicast:
        assert zone_of(address) is not Zone.PUBLIC


@given(V6)
def test_ipv6_address_that_is_not_global_is_not_public(address: IPv6Address) -> None:
    """The same for IPv6."""
    assume(address not in ip_network("2000::/3"))
    if not address.is_global:
        assert zone_of(address) is not Zone.PUBLIC


@given(V4, st.integers(0, 2**80 - 1))
def test_embedded_address_is_no_more_public_than_itself(address: IPv4Address, rest: int) -> None:
    """Mapped, translated, tunnelled: no IPv6 form of an IPv4 address has a more public zone."""
    bits = int(address)
    forms = [0xFFFF << 32 | bits, 0x64FF9B << 96 | bits, 0xFFFF << 48 | bits, 0x2002 << 112 | bits << 80 | rest]
    forms.append(0x20010000 << 96 | 0x01010101 << 64 | ~bits & 0xFFFFFFFF)
    for form in forms:
        assert zone_of(IPv6Address(form)) >= zone_of(address)


def spelled(address: IPv4Address, parts: int, bases: list[str]) -> str:
    """Return *address* in so many parts, each in its base."""
    octets = list(address.packed)
    numbers = [*octets[: parts - 1], int.from_bytes(octets[parts - 1 :], "big")]
    return ".".join(base.format(number) for base, number in zip(bases, numbers, strict=False))


@given(V4, st.integers(1, 4), st.lists(st.sampled_from(["{}", "0{:o}", "0x{:x}", "0X{:X}"]), min_size=4, max_size=4))
def test_every_spelling_of_an_address_is_recognized(address: IPv4Address, parts: int, bases: list[str]) -> None:
    """Every form that inet_aton, and so getaddrinfo, accepts."""
    text = spelled(address, parts, bases)
    assert socket.inet_aton(text) == address.packed
    assert literal(text) == literal(f"{text}.") == address


@given(st.text("0123456789abcdefxX.", max_size=16) | anything())
@example("08")
@example("0x")
@example("1.2.3.4.5")
@example("256.1")
def test_literal_agrees_with_the_resolver(text: str) -> None:
    """Both see the same address, or both see a name."""
    assume(text.strip() == text and text.isascii() and "\0" not in text and not text.endswith("."))
    try:
        expected = IPv4Address(socket.inet_aton(text))
    except OSError:
        assert not isinstance(literal(text), IPv4Address)
    else:
        assume(" " not in text)  # inet_aton stops at the first blank
        assert literal(text) == expected


@given(
    st.one_of(
        anything(),
        st.builds("{}://{}{}".format, st.sampled_from(["http", "https", "HTTP"]), anything(), anything()),
        st.builds("http://{}/x?y".format, st.text("[]:@.%\\/?#0123456789abcxfF-_~", max_size=24)),
    )
)
@example("http://good\\@127.0.0.1/")
@example("http://[::ffff:127.0.0.1]:80/")
@example("http://1.2.3.4:80@127.0.0.1/")
def test_url_parsers_agree_on_an_accepted_url(text: str) -> None:
    """Our parser, urllib and yarl see the same host: the checked host is the host that is dialled."""
    try:
        found = Destination.parse(text)
    except ValueError:
        return
    url = URL(found.url, encoded=True)
    assert (url.scheme, url.port) == (found.scheme, found.port)
    raw = (url.raw_host or "").lower()
    assert literal(raw) == literal(found.host) if literal(found.host) else raw == found.host
    assert urlsplit(found.url).hostname == found.host
    assert url.raw_user is url.raw_password is None
    assert found.url.isascii()
    assert found.url.isprintable()
    assert " " not in found.url


@pytest.mark.parametrize(
    "url",
    [
        "http://user@registry.test/",
        "http://user:password@registry.test/",
        "http://@registry.test/",
        "http://good.test\\@127.0.0.1/",
        "http://127.0.0.1%2f@good.test/",
        "http://[fe80::1%25eth0]/",
        "http://①②⑦.0.0.1/",  # digits, to some IDNA parsers
        "http://1.2.3.999/",
        "http://0x7f.0.0.256/",
        "http://./",
        "http:///path",
        "http://registry.test:99999/",
        "http://registry.test:0/",
        "http://registry.test/\r\nHost: other",
        "ftp://registry.test/",
        "javascript:alert(1)",
        "//registry.test/",
        "http://registry.test/" + "x" * 20_000,
    ],
)
def test_unsafe_url_is_refused(url: str) -> None:
    """Logins, escapes and other alphabets in hosts, invalid numbers, other schemes."""
    with pytest.raises(ValueError, match=r"^a URL (of|with|that|without)"):
        Destination.parse(url)


def test_accepted_url_keeps_its_spelling() -> None:
    """A presigned URL is valid only byte for byte. Characters not allowed on a request line are escaped."""
    url = "https://Store.test:8443/a%2fb/+~!*'()%3d?sig=Zm9v%2B==&empty=&flag"
    assert Destination.parse(url) == Destination("https", "store.test", 8443, url)
    assert Destination.parse("http://x.test/a b\u20ac#part").url == "http://x.test/a%20b%E2%82%AC"


@given(V4 | V6, st.sampled_from(Zone))
def test_connection_outside_its_zone_is_refused(address: IPv4Address | IPv6Address, zone: Zone) -> None:
    """The check applies to the address that the socket connects to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    info = (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(address), 80))
    if zone_of(address) <= zone:
        within(zone)(info).close()
    else:
        with pytest.raises(ZoneForbidden) as refusal:
            within(zone)(info)
        assert refusal.value.zone is zone_of(address)


async def test_name_has_the_zone_of_its_addresses() -> None:
    """The zone is known from the name's resolution on; before that it is PUBLIC, the most restrictive one."""
    neighbourhood = ZoneResolver()
    assert neighbourhood.zone("localhost") is Zone.PUBLIC
    await neighbourhood.resolve("localhost", 80, socket.AF_UNSPEC)
    assert neighbourhood.zone("localhost") is Zone.PRIVATE
    assert neighbourhood.zone("10.0.0.1") is Zone.PRIVATE
