"""TLS towards upstreams: private authorities, the mirror's client certificate, and messages about failures."""

import datetime as dt
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.fake.cdn import Cdn
from tests.fake.content import Blob
from tests.fake.faults import Redirect
from tests.fake.registry import Registry
from tests.fake.tokens import Bearer, TokenServer
from tests.http.client import Client, Reply
from tests.http.upstreams import CALM, Upstream, section
from tests.real.mirror import COMMAND, environment
from tests.real.mirror import mirror as running_mirror
from tests.real.program import ran

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY, OTHER = trustme.CA(), trustme.CA()
PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Files:
    """The files named in the mirror's configuration."""

    directory: Path

    def put(self, name: str, *pems: trustme.Blob) -> Path:
        path = self.directory / name
        path.write_bytes(b"".join(pem.bytes() for pem in pems))
        return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("files"))
    files.put("ca.pem", AUTHORITY.cert_pem)
    own = AUTHORITY.issue_cert("mirror.test", common_name="mirror")
    files.put("own.pem", *own.cert_chain_pems)
    files.put("own.key", own.private_key_pem)
    return files


def server_context(
    host: str = "127.0.0.1", *, by: trustme.CA = AUTHORITY, until: dt.datetime | None = None, wants: bool = False
) -> ssl.SSLContext:
    """Return a server's context; with *wants*, clients without a certificate are refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    by.issue_cert(host, not_after=until).configure_cert(context)
    if wants:
        AUTHORITY.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def mirror_of(directory: Path, registry: Registry, lines: str) -> AsyncIterator[tuple[Client, Upstream]]:
    """Run a mirror of this registry, with these lines in the upstream's section."""
    upstream = Upstream("tls.test", registry)
    config = directory / "mirror.toml"
    config.write_text(CALM + section(upstream.name, registry.url, lines))
    async with running_mirror(directory, "--config", str(config)) as mirror, Client.of(mirror.url) as client:
        yield client, upstream


async def pull(client: Client, upstream: Upstream) -> Reply:
    blob = upstream.publish_blob(Blob.noise(1000))
    reply = await client.get(upstream.blob(blob))
    assert reply.status != 200 or reply.body == blob.content, reply
    return reply


async def test_private_authority(tmp_path: Path, files: Files) -> None:
    """ca_file is trusted for this upstream and for its redirects."""
    async with Registry.running(tls=server_context()) as registry, Cdn.running(tls=server_context()) as cdn:
        registry.blobs_at = cdn
        async with mirror_of(tmp_path, registry, f'ca_file = "{files.directory}/ca.pem"') as (client, upstream):
            assert (await pull(client, upstream)).status == 200
    assert cdn.journal.entries


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate_is_sent_to_upstream_only(
    tmp_path: Path, files: Files, version: ssl.TLSVersion
) -> None:
    """Neither the storage nor the token service of the upstream gets it."""
    gate, asked = server_context(wants=True), server_context()
    gate.minimum_version = gate.maximum_version = version
    AUTHORITY.configure_trust(asked)
    asked.verify_mode = ssl.CERT_OPTIONAL
    lines = "\n".join(
        f'{key} = "{files.directory}/{name}"'
        for key, name in (("ca_file", "ca.pem"), ("certificate_file", "own.pem"), ("key_file", "own.key"))
    )
    async with (
        Registry.running(tls=gate) as registry,
        Cdn.running(tls=asked) as cdn,
        TokenServer.running(tls=asked) as tokens,
    ):
        registry.blobs_at, registry.gate = cdn, Bearer(tokens=tokens)
        async with mirror_of(tmp_path, registry, lines) as (client, upstream):
            assert (await pull(client, upstream)).status == 200
        shown = [seen.certified for origin in (cdn, tokens) for seen in origin.journal.entries]
        assert registry.journal.entries
        assert all(seen.certified for seen in registry.journal.entries)
    assert len(shown) >= 2
    assert not any(shown)


FAILURES: Mapping[str, tuple[ssl.SSLContext, str]] = {
    "unknown": (server_context(by=OTHER), 'is from an unknown authority; set ca_file in [upstreams."tls.test"]'),
    "expired": (server_context(until=PAST), "has expired"),
    "another's": (server_context("other.test"), "is for another name"),
    "wants one": (server_context(wants=True), 'set certificate_file and key_file in [upstreams."tls.test"]'),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_tls_failure_is_explained(tmp_path: Path, files: Files, name: str) -> None:
    """The message names the configuration key that fixes it."""
    context, said = FAILURES[name]
    async with Registry.running(tls=context) as registry:
        async with mirror_of(tmp_path, registry, f'ca_file = "{files.directory}/ca.pem"') as (client, upstream):
            reply = await pull(client, upstream)
        assert not registry.journal.entries
    assert reply.status == 503, reply
    assert said in str(reply.error["message"])


async def test_https_to_a_plain_http_registry(tmp_path: Path) -> None:
    """The message points at the scheme of the URL."""
    async with Registry.running() as registry:
        plain = Registry()
        plain.port, plain._tls = registry.port, server_context()
        async with mirror_of(tmp_path, plain, "") as (client, upstream):
            reply = await pull(client, upstream)
    assert reply.status == 503, reply
    assert 'or correct url in [upstreams."tls.test"]' in str(reply.error["message"])


async def test_downgrade_from_https_to_http_is_refused(tmp_path: Path, files: Files) -> None:
    """Neither a redirect nor a realm may lead from https to http."""
    async with Registry.running(tls=server_context()) as registry, TokenServer.running() as plain:
        async with mirror_of(tmp_path, registry, f'ca_file = "{files.directory}/ca.pem"') as (client, upstream):
            registry.inject(Redirect(f"{plain.url}/token"))
            redirected = await pull(client, upstream)
            registry.heal()
            registry.gate = Bearer(tokens=plain)
            challenged = await pull(client, upstream)
        assert not plain.journal.entries
    assert "from https to http" in str(redirected.error["message"])
    assert "which is not an https URL" in str(challenged.error["message"])


BROKEN = {
    "no authorities": (["ca_file"], {}, "ca_file"),
    "junk for authorities": (["ca_file"], {"ca_file": "junk"}, "ca_file"),
    "no certificate": (["certificate_file", "key_file"], {"key_file": "own.key"}, "certificate_file"),
    "no key": (["certificate_file", "key_file"], {"certificate_file": "own.pem"}, "key_file"),
    "another's key": (
        ["certificate_file", "key_file"],
        {"certificate_file": "own.pem", "key_file": "other.key"},
        "key_file",
    ),
    "junk for a key": (
        ["certificate_file", "key_file"],
        {"certificate_file": "own.pem", "key_file": "junk"},
        "key_file",
    ),
    "a locked key": (
        ["certificate_file", "key_file"],
        {"certificate_file": "own.pem", "key_file": "locked.key"},
        "passphrase",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_unusable_tls_file_stops_the_start(tmp_path: Path, files: Files, case: str) -> None:
    """The message names file and key, at the start and not at the first pull."""
    keys, names, said = BROKEN[case]
    files.put("other.key", OTHER.issue_cert("x.test").private_key_pem)
    (files.directory / "junk").write_text("junk\n")
    (files.directory / "locked.key").write_bytes(encrypted_key(AUTHORITY.issue_cert("x.test")))
    config = tmp_path / "mirror.toml"
    lines = "\n".join(f'{key} = "{files.directory}/{names.get(key, "missing")}"' for key in keys)
    config.write_text(section("tls.test", "https://127.0.0.1:1", lines))
    argv = [*COMMAND, "--listen", "127.0.0.1:0", "--cache", str(tmp_path / "cache"), "--config", str(config)]
    result = await ran(*argv, env={**environment(), "COLUMNS": "500", "TERM": "dumb"}, within=20)
    assert result.code > 0, str(result)
    assert "Traceback" not in result.errors
    assert said in result.errors
    assert "tls.test" in result.errors
    assert str(files.directory) in result.errors


def encrypted_key(certificate: trustme.LeafCert) -> bytes:
    """Return the certificate's key, encrypted with a passphrase."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
