"""A start that can't succeed says what is wrong, where, and what to do; it shows no traceback and loses nothing."""

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


class Bad:
    """A start that is to fail, with a cache that has something to lose."""

    def __init__(self, directory: Path) -> None:
        self.cache = directory / "cache"
        self.configuration = directory / "mirror.toml"
        self._blob = self.cache / "blobs" / "sha256" / hashlib.sha256(CONTENT).hexdigest()
        self._blob.parent.mkdir(parents=True)
        self._blob.write_bytes(CONTENT)

    async def refused(self, *arguments: str, **settings: str) -> str:
        """What it says when it refuses, without line breaks and frames."""
        argv = [*COMMAND, *arguments]
        if "--cache" not in arguments:
            argv += ["--cache", str(self.cache)]
        if "--listen" not in arguments:
            argv += ["--listen", "127.0.0.1:0"]
        # a terminal wide enough for paths to stay in one piece
        result = await ran(*argv, env={**environment(), "COLUMNS": "500", "TERM": "dumb", **settings}, within=20)

        assert result.code not in (0, -signal.SIGKILL), str(result)
        assert "Traceback" not in result.output + result.errors, str(result)
        assert self._blob.read_bytes() == CONTENT
        return " ".join(re.sub(r"[\u2500-\u257f]", " ", result.errors).split())

    async def refused_configuration(self, text: str) -> str:
        self.configuration.write_text(text)
        return await self.refused("--config", str(self.configuration))


@pytest.fixture
def bad(tmp_path: Path) -> Bad:
    return Bad(tmp_path)


async def test_an_unknown_key_is_named_with_the_ones_that_exist(bad: Bad) -> None:
    """A misspelled key would otherwise be a setting that silently doesn't apply."""
    said = await bad.refused_configuration('[cache]\nmax_sise = "1GiB"\n')

    assert "cache.max_sise" in said
    assert str(bad.configuration) in said
    assert "max_size" in said


async def test_an_unknown_section_is_named(bad: Bad) -> None:
    """The same for whole sections."""
    said = await bad.refused_configuration('[cahce]\nmax_size = "1GiB"\n')

    assert "cahce" in said
    assert str(bad.configuration) in said
    assert "cache" in said.replace("cahce", "").replace(str(bad.cache), "")


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
async def test_a_nonsense_value_is_named_with_what_is_allowed(
    bad: Bad, text: str, key: str, found: str, allowed: str
) -> None:
    """The key's path, what stands there, what may stand there."""
    said = await bad.refused_configuration(f"{text}\n")

    assert key in said
    assert found in said
    assert allowed in said


async def test_a_file_that_is_no_toml_is_named_with_the_line(bad: Bad) -> None:
    """Where to look, in a file that can't be read at all."""
    said = await bad.refused_configuration('[cache]\nmax_size = "1GiB\n')

    assert str(bad.configuration) in said
    assert "line 2" in said


async def test_a_missing_configuration_file_is_named(bad: Bad) -> None:
    """--config names a file that has to be there."""
    said = await bad.refused("--config", str(bad.configuration))

    assert str(bad.configuration) in said


async def test_a_missing_password_file_is_named(bad: Bad, tmp_path: Path) -> None:
    """Better at the start than as a 404 at the first pull."""
    said = await bad.refused_configuration(
        '[upstreams."docker.io"]\nurl = "http://127.0.0.1:9"\nusername = "puller"\n'
        f'password_file = "{tmp_path}/no-such-password"\n'
    )

    assert "password_file" in said
    assert f"{tmp_path}/no-such-password" in said


@pytest.mark.parametrize("content", [None, "{", '{"auths": {"quay.io": {"auth": "hidden"}}}'])
async def test_a_docker_config_that_makes_no_sense_is_named(bad: Bad, tmp_path: Path, content: str | None) -> None:
    """Missing, broken, or with a login that is none; what it holds is not shown."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    said = await bad.refused_configuration(f'[credentials]\ndocker_config = "{tmp_path}/config.json"\n')

    assert "credentials.docker_config" in said
    assert f"{tmp_path}/config.json" in said
    assert "hidden" not in said


@pytest.mark.parametrize(
    ("flag", "setting", "key", "value"),
    [
        ("--max-size", "MIRROR_MAX_SIZE", "cache.max_size", "plenty"),
        ("--listen", "MIRROR_LISTEN", "server.listen", "nowhere"),
        ("--listen", "MIRROR_LISTEN", "server.listen", "127.0.0.1:99999"),
        ("--log-format", "MIRROR_LOG_FORMAT", "log.format", "xml"),
    ],
)
async def test_a_nonsense_flag_or_environment_variable_is_named(
    bad: Bad, flag: str, setting: str, key: str, value: str
) -> None:
    """The three ways to set something complain alike: by the flag or its key, with what was found."""
    said = await bad.refused(flag, value)

    assert flag in said or key in said
    assert value in said

    if flag != "--listen":  # which keeps the other starts away from port 5000, and goes above the environment
        said = await bad.refused(**{setting: value})

        assert flag in said or key in said
        assert value in said


async def test_a_nonsense_switch_in_the_environment_is_named(bad: Bad) -> None:
    """On the command line a switch takes no value; in the environment it does."""
    said = await bad.refused(MIRROR_OFFLINE="perhaps")

    assert "MIRROR_OFFLINE" in said


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("MIRROR_MAXSIZE", "MIRROR_MAX_SIZE"),
        ("mirror_maxsize", "MIRROR_MAX_SIZE"),
        ("MIRROR_TAGS_FRESH_FOR", "MIRROR_TAGS__FRESH_FOR"),
        ("MIRROR_TAG__FRESH_FOR", "tags"),
    ],
)
async def test_a_misspelled_environment_variable_is_named(bad: Bad, name: str, cure: str) -> None:
    """As a misspelled key is: the setting would silently not apply."""
    said = await bad.refused(**{name: "1"})

    assert name in said
    assert cure in said


async def test_an_unknown_flag_points_to_the_help(bad: Bad) -> None:
    """A misspelled flag."""
    said = await bad.refused("--upstraem", "docker.io=http://127.0.0.1:9")

    assert "--upstraem" in said
    assert "--help" in said or "--upstream" in said


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
async def test_an_upstream_that_is_no_address_is_refused(bad: Bad, upstream: str, fault: str) -> None:
    """What can never be dialled is found at the start, named, with what would do instead."""
    said = await bad.refused("--upstream", upstream)

    assert "upstream" in said
    assert fault in said
    assert any(cure in said.replace(upstream, "") for cure in ("NAME=URL", "http:// or https://", "such as docker.io"))


async def test_an_upstream_address_with_a_password_is_refused_without_showing_it(bad: Bad) -> None:
    """Passwords belong in password_file; one that was written elsewhere isn't copied into the log as well."""
    said = await bad.refused("--upstream", "docker.io=http://puller:s3cret@127.0.0.1:9")

    assert "docker.io" in said
    assert "s3cret" not in said


async def test_a_taken_port_is_named_with_the_flag_that_moves_it(bad: Bad) -> None:
    """The usual cause, port 5000 being somebody else's, is cured by --listen."""
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        address = f"127.0.0.1:{occupant.getsockname()[1]}"
        said = await bad.refused("--listen", address)

    assert address in said
    assert "in use" in said
    assert "--listen" in said


async def test_an_address_of_another_machine_is_named(bad: Bad) -> None:
    """192.0.2.1 (RFC 5737) is nobody's: it can't be listened on."""
    said = await bad.refused("--listen", "192.0.2.1:5000")

    assert "192.0.2.1:5000" in said
    assert "no such address" in said


async def test_a_cache_below_a_file_is_named_with_the_flag_that_moves_it(bad: Bad, tmp_path: Path) -> None:
    """A directory that can't be made, not even by root."""
    (tmp_path / "file").write_text("no directory")
    said = await bad.refused("--cache", str(tmp_path / "file" / "cache"))

    assert str(tmp_path / "file" / "cache") in said
    assert "--cache" in said


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory that may not be written to; against root only the file system itself can say no."""
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


async def test_a_read_only_cache_is_named_with_the_flag_that_moves_it(bad: Bad, read_only: Path) -> None:
    """A directory without the right to write is found at the start, and not at the first pull."""
    said = await bad.refused("--cache", str(read_only))

    assert str(read_only) in said
    assert "--cache" in said


async def test_an_upstream_that_is_down_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    """Ready at once; what isn't cached is refused within seconds, with the name of the upstream."""
    with socket.create_server(("127.0.0.1", 0)) as once_there:
        port = once_there.getsockname()[1]

    async with (
        mirror(tmp_path / "mirror", upstreams={"docker.io": f"http://127.0.0.1:{port}"}) as mirrored,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"{mirrored.url}/readyz") as ready:
            assert ready.status == 200

        began = time.monotonic()
        async with session.get(f"{mirrored.url}/v2/library/hello/manifests/1") as answer:
            assert answer.status in (503, 504)
            assert "docker.io" in await answer.text()
        assert time.monotonic() - began < 10


async def test_an_upstream_whose_name_does_not_resolve_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    """A name that DNS doesn't know (RFC 6761, .invalid) is an upstream that is down, not a wrong configuration."""
    async with (
        mirror(tmp_path / "mirror", upstreams={"docker.io": "http://registry.invalid"}) as mirrored,
        aiohttp.ClientSession() as session,
        session.get(f"{mirrored.url}/v2/library/hello/manifests/1") as answer,
    ):
        assert answer.status in (503, 504)
        assert "docker.io" in await answer.text()
