"""TLS towards clients: the same responses as without it; certificates are replaced without a restart."""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import trustme
from cryptography import x509

from tests.fake.answers import Valve
from tests.fake.content import Blob, image
from tests.fake.faults import Cut, Hold, Wrong
from tests.fake.registry import Registry
from tests.http.client import WITHIN, Client, read_rest, wait_until_cached
from tests.http.resources import MIB
from tests.http.upstreams import CALM, Upstream, sections
from tests.real.mirror import COMMAND, Mirror, environment
from tests.real.mirror import mirror as running_mirror
from tests.real.program import eventually, ran

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY, OTHER = trustme.CA(), trustme.CA()
WITHHELD = 65_536  # bytes at the end that are withheld until the digest is verified


class Files:
    """The files named in [server], which may be replaced under a running mirror."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.authorities = directory / "clients.crt"
        self.authorities.write_bytes(AUTHORITY.cert_pem.bytes())

    def issue(self) -> int:
        """Write a new certificate; return its serial number."""
        issued = AUTHORITY.issue_cert("127.0.0.1")
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        return serial(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode()))

    def section(self) -> str:
        return f'[server]\ncertificate_file = "{self.certificate}"\nkey_file = "{self.key}"\n'


def serial(certificate: bytes | None) -> int:
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


def client_side(*, shows: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts the authority, with a certificate if one is given."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if shows is not None:
        shows.configure_cert(context)
    return context


@asynccontextmanager
async def tls_mirror(directory: Path, files: Files, config: str) -> AsyncIterator[tuple[Mirror, Client]]:
    """Run a mirror with TLS, and a client."""
    path = directory / "mirror.toml"
    path.write_text(CALM + files.section() + config)
    async with (
        running_mirror(directory, "--config", str(path)) as mirror,
        Client.of(mirror.url, tls=client_side()) as client,
    ):
        yield mirror, client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registry() -> AsyncIterator[Registry]:
    async with Registry.running() as registry:
        yield registry


@pytest.fixture(scope="module")
def upstream(registry: Registry) -> Upstream:
    return Upstream("r.test", registry)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> AsyncIterator[tuple[Mirror, Client]]:
    directory = tmp_path_factory.mktemp("sealed")
    files = Files(directory)
    files.issue()
    async with tls_mirror(directory, files, sections([upstream])) as both:
        yield both


@pytest.fixture
def mirror(served: tuple[Mirror, Client]) -> Mirror:
    return served[0]


@pytest.fixture
def client(served: tuple[Mirror, Client]) -> Client:
    return served[1]


async def served_serial(mirror: Mirror) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", mirror.port, ssl=client_side())
    number = serial(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return number


async def test_tls_version_and_alpn(mirror: Mirror) -> None:
    """The event names the scheme; TLS is 1.2 or later, ALPN selects HTTP/1.1."""
    assert mirror.url.startswith("https://127.0.0.1:")
    context = client_side()
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", mirror.port, ssl=context)
    tls = writer.get_extra_info("ssl_object")
    assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_pull_over_tls(client: Client, upstream: Upstream) -> None:
    """An image, cold and cached, and ranges of a blob."""
    manifest = upstream.publish(image(1000, 9 * MIB + 1), "v1")
    for status in ("mirror; fwd=uri-miss; stored", "mirror; hit"):
        reply = await client.get(upstream.manifest("v1"))
        assert (reply.body, reply.cache_status) == (manifest.content, status)
        for blob in manifest.blobs:
            reply = await client.get(upstream.blob(blob))
            assert (reply.status, reply.whole, reply.body, reply.cache_status) == (200, True, blob.content, status)
            await wait_until_cached(client, upstream.blob(blob))
    blob = manifest.blobs[-1]
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=1048000-3000000"})
    assert (reply.status, reply.body) == (206, blob.content[1048000:3000001])
    reply = await client.get(upstream.blob(blob), {"Range": "bytes=0-9,-10"})
    assert reply.status == 206
    assert blob.content[:10] in reply.body
    assert blob.content[-10:] in reply.body
    assert (await client.head(upstream.blob(blob))).length == blob.size


async def test_concurrent_readers_over_tls(client: Client, upstream: Upstream) -> None:
    """Each reader gets its own bytes, from one download."""
    blobs = [upstream.publish_blob(Blob.noise(3 * MIB + number)) for number in range(4)]
    replies = await asyncio.gather(*(client.get(upstream.blob(blob)) for blob in blobs * 5))
    assert [reply.body == blob.content for reply, blob in zip(replies, blobs * 5, strict=True)] == [True] * 20


async def test_cold_blob_is_streamed_over_tls(client: Client, upstream: Upstream) -> None:
    """The first bytes arrive long before the last, which wait for the digest."""
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=2 * MIB), f"*{blob.digest}", times=1)
    async with client.open(upstream.blob(blob)) as answer:
        begin = await answer.content.readexactly(MIB)
        valve.open()
        rest, whole = await read_rest(answer)
    assert whole
    assert begin + rest == blob.content


async def test_wrong_bytes_end_without_close_notify(client: Client, upstream: Upstream) -> None:
    """The connection is closed without the close_notify that would mark a complete body."""
    blob = upstream.publish_blob(Blob.noise(2 * MIB))
    upstream.registry.inject(Wrong(at=100), f"*{blob.digest}")
    head, body, proper_end = await asyncio.to_thread(_read_to_end, client.base, upstream.blob(blob))
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert len(body) <= blob.size - WITHHELD
    assert not proper_end


def _read_to_end(base: str, target: str) -> tuple[bytes, bytes, bool]:
    """Return head, body, and whether the connection ended properly (close_notify)."""
    raw_socket = socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2])), timeout=WITHIN)
    with client_side().wrap_socket(raw_socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as tls_socket:
        tls_socket.sendall(f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())
        received, proper_end = bytearray(), True
        try:
            while piece := tls_socket.recv(2**16):
                received += piece
        except (ssl.SSLEOFError, ConnectionError):
            proper_end = False
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return head, body, proper_end


async def test_interrupted_download_is_resumed_over_tls(client: Client, upstream: Upstream) -> None:
    """The client gets one complete response."""
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    upstream.registry.inject(Cut(at=3 * MIB), f"*{blob.digest}", times=1)
    reply = await client.get(upstream.blob(blob))
    assert (reply.status, reply.whole, reply.body) == (200, True, blob.content)


async def test_plain_http_gets_an_explanation(mirror: Mirror) -> None:
    """A 400 that names the reason."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: mirror.test\r\n\r\n")
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"this port speaks TLS" in answer
    writer.close()


async def test_failed_handshakes_do_not_flood_the_log(mirror: Mirror) -> None:
    """Failed handshakes are logged at a limited rate."""
    for _ in range(30):
        _, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
        writer.write(b"\x16\x03\x01\x00\x05junk!")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def told() -> bool:
        return len(mirror.events("handshake_failed")) == 1

    await eventually(told)
    assert not mirror.events("library_warned")


async def test_client_without_trust_is_disconnected(mirror: Mirror) -> None:
    """The mirror continues to serve others."""
    stranger = ssl.create_default_context()
    OTHER.configure_trust(stranger)
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", mirror.port, ssl=stranger)
    async with Client.of(mirror.url, tls=client_side()) as client:
        assert (await client.get("/healthz")).status == 200


async def test_sighup_reloads_the_certificate(tmp_path: Path, upstream: Upstream) -> None:
    """New connections get it, responses in flight continue. A broken file changes nothing, and is named."""
    files = Files(tmp_path)
    first = files.issue()
    blob = upstream.publish_blob(Blob.noise(4 * MIB))
    valve = Valve()
    upstream.registry.inject(Hold(valve, at=2 * MIB), f"*{blob.digest}", times=1)
    async with tls_mirror(tmp_path, files, sections([upstream])) as (mirror, client):
        async with client.open(upstream.blob(blob)) as answer:
            begin = await answer.content.readexactly(MIB)
            assert await served_serial(mirror) == first
            second = files.issue()
            await _reload(mirror, "reloaded", 1)
            assert await served_serial(mirror) == second
            files.key.write_text("no key")
            await _reload(mirror, "reload_failed", 1)
            assert str(files.key) in str(mirror.events("reload_failed")[0]["reason"])
            assert await served_serial(mirror) == second
            valve.open()
            rest, whole = await read_rest(answer)
        assert (whole, begin + rest) == (True, blob.content)
        third = files.issue()
        await _reload(mirror, "reloaded", 2)
        assert await served_serial(mirror) == third


async def _reload(mirror: Mirror, event: str, times: int) -> None:
    mirror.program.signal(signal.SIGHUP)
    await mirror.program.until(lambda: len(mirror.events(event)) == times, within=5)


async def test_sighup_without_files_to_reload(tmp_path: Path, upstream: Upstream) -> None:
    """The default action of SIGHUP would end the mirror."""
    async with running_mirror(tmp_path, upstreams={upstream.name: upstream.registry.url}) as mirror:
        await _reload(mirror, "reloaded", 1)
        await _reload(mirror, "reloaded", 2)
        async with Client.of(mirror.url) as client:
            assert (await client.get("/healthz")).status == 200


@pytest.mark.parametrize("offers", ["ours", "nothing", "another authority's"])
async def test_client_certificate_authentication(tmp_path: Path, upstream: Upstream, offers: str) -> None:
    """A certificate of the authority is accepted, /healthz needs none, one of another authority fails the handshake."""
    files = Files(tmp_path)
    files.issue()
    config = sections([upstream]) + f'[clients]\ncertificates_file = "{files.authorities}"\n'
    leaf = {
        "ours": AUTHORITY.issue_cert("ci.test", common_name="ci"),
        "nothing": None,
        "another authority's": OTHER.issue_cert("ci.test", common_name="ci"),
    }[offers]
    async with (
        tls_mirror(tmp_path, files, config) as (mirror, _),
        Client.of(mirror.url, tls=client_side(shows=leaf)) as client,
    ):
        if offers == "another authority's":
            with pytest.raises((aiohttp.ClientError, ConnectionError, ssl.SSLError)):
                await client.get("/healthz")
        else:
            assert (await client.get("/healthz")).status == 200
            assert (await client.get("/v2/")).status == (200 if offers == "ours" else 403)


async def test_mismatched_key_stops_the_start(tmp_path: Path) -> None:
    """Likewise an invalid or missing file: exit code 2, and the configuration key in the message."""
    files = Files(tmp_path)
    files.issue()
    good, other = files.key.read_text(), AUTHORITY.issue_cert("127.0.0.1").private_key_pem.bytes().decode()
    encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    for key, wrong in ((other, "server.key_file"), ("junk", "server.key_file"), (encrypted, "server.key_file")):
        files.key.write_text(key)
        await _assert_refused(tmp_path, files, wrong)
    files.key.write_text(good)
    files.certificate.write_text("junk")
    await _assert_refused(tmp_path, files, "server.certificate_file")
    files.certificate.unlink()
    await _assert_refused(tmp_path, files, "server.certificate_file")
    files.issue()
    files.authorities.write_text("")
    await _assert_refused(tmp_path, files, "clients.certificates_file")


async def test_client_certificates_without_tls_stop_the_start(tmp_path: Path) -> None:
    """Clients could never send one."""
    config = tmp_path / "plain.toml"
    config.write_text(f'[clients]\ncertificates_file = "{tmp_path}/clients.crt"\n')
    result = await ran(*COMMAND, "--config", str(config), env=environment(), within=20)
    assert result.code == 2
    assert "clients.certificates_file" in result.errors


async def _assert_refused(directory: Path, files: Files, key: str) -> None:
    config = directory / "wrong.toml"
    config.write_text(files.section() + f'[clients]\ncertificates_file = "{files.authorities}"\n')
    argv = [*COMMAND, "--listen", "127.0.0.1:0", "--cache", str(directory / "cache"), "--config", str(config)]
    result = await ran(*argv, env=environment(), within=20)
    assert result.code == 2, str(result)
    assert f"mirror: {key} " in result.errors, str(result)
    assert "Traceback" not in result.errors, str(result)
