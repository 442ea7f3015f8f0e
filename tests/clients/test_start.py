"""Failed starts: the message has the problem, its place and the next step, and no traceback; the cache stays intact."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.real.mirror import COMMAND, environment, mirror
from tests.real.program import ran

CONTENT = b"kept through every bad start"


class FailingStart:
    """A start that has to fail, with one blob in the cache."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        self.configuration = directory / "mirror.toml"
        self._blob = self.cache / "blobs" / "sha256" / hashlib.sha256(CONTENT).hexdigest()
        self._blob.parent.mkdir(parents=True)
        self._blob.write_bytes(CONTENT)

    async def refused(self, *arguments: str, **settings: str) -> str:
        """Run the mirror, assert that it refuses to start, and return its message without line breaks and frames."""
        argv = [*COMMAND, *arguments]
        if "--cache" not in arguments:
            argv += ["--cache", str(self.cache)]
        if "--listen" not in arguments:
            argv += ["--listen", "127.0.0.1:0"]
        # wide enough that paths are not wrapped
        result = await ran(*argv, env={**environment(), "COLUMNS": "500", "TERM": "dumb", **settings}, within=20)

        assert result.code not in (0, -signal.SIGKILL), str(result)
        assert "Traceback" not in result.output + result.errors, str(result)
        assert self._blob.read_bytes() == CONTENT
        return " ".join(re.sub(r"[\u2500-\u257f]", " ", result.errors).split())

    async def refused_configuration(self, text: str) -> str:
        self.configuration.write_text(text)
        return await self.refused("--config", str(self.configuration))


@pytest.fixture
def bad(tmp_path: Path) -> FailingStart:
    return FailingStart(tmp_path)


async def test_unknown_key_is_reported_with_known_keys(bad: FailingStart) -> None:
    """A misspelled key would otherwise be silently ignored."""
    message = await bad.refused_configuration('[cache]\nmax_sise = "1GiB"\n')

    assert "cache.max_sise" in message
    assert str(bad.configuration) in message
    assert "max_size" in message


async def test_unknown_section_is_reported(bad: FailingStart) -> None:
    """A misspelled section is reported with its name."""
    message = await bad.refused_configuration('[cahce]\nmax_size = "1GiB"\n')

    assert "cahce" in message
    assert str(bad.configuration) in message
    assert "cache" in message.replace("cahce", "").replace(str(bad.cache), "")


@pytest.mark.parametrize(
    ("text", "key", "found", "allowed"),
    [
        ('[cache]\nmax_size = "plenty"', "cache.max_size", "plenty", "GiB"),
        ("[cache]\nmax_size = -1", "cache.max_size", "-1", "GiB"),
        ('[tags]\nfresh_for = "soon"', "tags.fresh_for", "soon", "60s"),
        ('[server]\nlisten = "here"', "server.listen", "here", "127.0.0.1:5000"),
        ('[server]\noffline = "perhaps"', "server.offline", "perhaps", "boolean"),
        ('[log]\nformat = "xml"', "log.format", "xml", "json"),
        ('[upstreams."docker.io"]\nurl = "ftp://example.test"', "docker.io", "ftp://example.test", "http"),
    ],
)
async def test_invalid_value_is_reported_with_allowed_values(
    bad: FailingStart, text: str, key: str, found: str, allowed: str
) -> None:
    """The message has the key's path, its value and the allowed values."""
    message = await bad.refused_configuration(f"{text}\n")

    assert key in message
    assert found in message
    assert allowed in message


async def test_invalid_toml_is_reported_with_line(bad: FailingStart) -> None:
    """The message has the file and the line of the syntax error."""
    message = await bad.refused_configuration('[cache]\nmax_size = "1GiB\n')

    assert str(bad.configuration) in message
    assert "line 2" in message


async def test_missing_configuration_file_is_reported(bad: FailingStart) -> None:
    """The file of --config must exist."""
    message = await bad.refused("--config", str(bad.configuration))

    assert str(bad.configuration) in message


async def test_missing_password_file_is_reported(bad: FailingStart, tmp_path: Path) -> None:
    """The mirror reports the file at the start, not as a 404 at the first pull."""
    message = await bad.refused_configuration(
        '[upstreams."docker.io"]\nurl = "http://127.0.0.1:9"\nusername = "puller"\n'
        f'password_file = "{tmp_path}/no-such-password"\n'
    )

    assert "password_file" in message
    assert f"{tmp_path}/no-such-password" in message


@pytest.mark.parametrize("content", [None, "{", '{"auths": {"quay.io": {"auth": "hidden"}}}'])
async def test_invalid_docker_config_is_reported(bad: FailingStart, tmp_path: Path, content: str | None) -> None:
    """The file is missing, broken, or has an invalid login; its content is not shown."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    message = await bad.refused_configuration(f'[credentials]\ndocker_config = "{tmp_path}/config.json"\n')

    assert "credentials.docker_config" in message
    assert f"{tmp_path}/config.json" in message
    assert "hidden" not in message


@pytest.mark.parametrize(
    ("flag", "setting", "key", "value"),
    [
        ("--max-size", "MIRROR_MAX_SIZE", "cache.max_size", "plenty"),
        ("--listen", "MIRROR_LISTEN", "server.listen", "nowhere"),
        ("--listen", "MIRROR_LISTEN", "server.listen", "127.0.0.1:99999"),
        ("--log-format", "MIRROR_LOG_FORMAT", "log.format", "xml"),
    ],
)
async def test_invalid_flag_or_environment_variable_is_reported(
    bad: FailingStart, flag: str, setting: str, key: str, value: str
) -> None:
    """Flags and variables are reported like keys of the file: by flag or key, with the value."""
    message = await bad.refused(flag, value)

    assert flag in message or key in message
    assert value in message

    if flag != "--listen":  # --listen keeps the other starts away from port 5000, and overrides the environment
        message = await bad.refused(**{setting: value})

        assert flag in message or key in message
        assert value in message


async def test_invalid_switch_in_environment_is_reported(bad: FailingStart) -> None:
    """A switch takes a value in the environment only."""
    message = await bad.refused(MIRROR_OFFLINE="perhaps")

    assert "MIRROR_OFFLINE" in message


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("MIRROR_MAXSIZE", "MIRROR_MAX_SIZE"),
        ("mirror_maxsize", "MIRROR_MAX_SIZE"),
        ("MIRROR_TAGS_FRESH_FOR", "MIRROR_TAGS__FRESH_FOR"),
        ("MIRROR_TAG__FRESH_FOR", "tags"),
    ],
)
async def test_misspelled_environment_variable_is_reported(bad: FailingStart, name: str, fix: str) -> None:
    """A misspelled variable is reported like a misspelled key: it would be silently ignored."""
    message = await bad.refused(**{name: "1"})

    assert name in message
    assert fix in message


async def test_unknown_flag_refers_to_help(bad: FailingStart) -> None:
    """A misspelled flag is reported with advice."""
    message = await bad.refused("--upstraem", "docker.io=http://127.0.0.1:9")

    assert "--upstraem" in message
    assert "--help" in message or "--upstream" in message


@pytest.mark.parametrize(
    ("upstream", "fault"),
    [
        ("docker.io", "docker.io"),
        ("docker.io=", "docker.io="),
        ("=http://127.0.0.1:9", "=http://127.0.0.1:9"),
        ("docker.io=nonsense", "nonsense"),
        ("docker.io=ftp://127.0.0.1", "ftp://127.0.0.1"),
        ("docker.io=http://", "http://"),
        ("docker.io=http://127.0.0.1:port", "http://127.0.0.1:port"),
        ("docker.io=http://127.0.0.1:99999", "http://127.0.0.1:99999"),
        ("docker.io=http://127.0.0.1:9/?ns=x", "http://127.0.0.1:9/?ns=x"),
        ("a b=http://127.0.0.1:9", "a b"),
        ("docker.io/library=http://127.0.0.1:9", "docker.io/library"),
    ],
)
async def test_invalid_upstream_address_is_refused(bad: FailingStart, upstream: str, fault: str) -> None:
    """An address that can never be dialled is reported at the start, with a valid example."""
    message = await bad.refused("--upstream", upstream)

    assert "upstream" in message
    assert fault in message
    assert any(fix in message.replace(upstream, "") for fix in ("NAME=URL", "http:// or https://", "such as docker.io"))


async def test_password_in_upstream_address_is_refused_and_not_shown(bad: FailingStart) -> None:
    """Passwords belong in password_file; the message must not copy one into the log."""
    message = await bad.refused("--upstream", "docker.io=http://puller:s3cret@127.0.0.1:9")

    assert "docker.io" in message
    assert "s3cret" not in message


async def test_port_in_use_is_reported_with_listen_flag(bad: FailingStart) -> None:
    """Usually another program has port 5000; the message suggests --listen."""
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        address = f"127.0.0.1:{occupant.getsockname()[1]}"
        message = await bad.refused("--listen", address)

    assert address in message
    assert "in use" in message
    assert "--listen" in message


async def test_address_of_another_machine_is_reported(bad: FailingStart) -> None:
    """192.0.2.1 (RFC 5737) belongs to no machine, so listening fails."""
    message = await bad.refused("--listen", "192.0.2.1:5000")

    assert "192.0.2.1:5000" in message
    assert "no such address" in message


async def test_cache_below_a_file_is_reported_with_cache_flag(bad: FailingStart, tmp_path: Path) -> None:
    """The directory cannot be created, not even by root."""
    (tmp_path / "file").write_text("no directory")
    message = await bad.refused("--cache", str(tmp_path / "file" / "cache"))

    assert str(tmp_path / "file" / "cache") in message
    assert "--cache" in message


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory without write permission; for root, a read-only mount."""
    path = tmp_path / "read-only"
    path.mkdir(mode=0o500)
    if os.geteuid() != 0:
        yield path
        return
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


async def test_read_only_cache_is_reported_with_cache_flag(bad: FailingStart, read_only: Path) -> None:
    """Missing write permission is reported at the start, not at the first pull."""
    message = await bad.refused("--cache", str(read_only))

    assert str(read_only) in message
    assert "--cache" in message


async def test_mirror_starts_while_upstream_is_down(tmp_path: Path) -> None:
    """The mirror is ready at once; uncached images fail within seconds with the upstream's name."""
    with socket.create_server(("127.0.0.1", 0)) as once_there:
        port = once_there.getsockname()[1]

    async with (
        mirror(tmp_path / "mirror", upstreams={"docker.io": f"http://127.0.0.1:{port}"}) as mirrored,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"{mirrored.url}/readyz") as ready:
            assert ready.status == 200

        started = time.monotonic()
        async with session.get(f"{mirrored.url}/v2/library/hello/manifests/1") as answer:
            assert answer.status in (503, 504)
            assert "docker.io" in await answer.text()
        assert time.monotonic() - started < 10


async def test_mirror_starts_while_upstream_name_does_not_resolve(tmp_path: Path) -> None:
    """An unknown host name (RFC 6761, .invalid) counts as an upstream that is down, not as a wrong configuration."""
    async with (
        mirror(tmp_path / "mirror", upstreams={"docker.io": "http://registry.invalid"}) as mirrored,
        aiohttp.ClientSession() as session,
        session.get(f"{mirrored.url}/v2/library/hello/manifests/1") as answer,
    ):
        assert answer.status in (503, 504)
        assert "docker.io" in await answer.text()
