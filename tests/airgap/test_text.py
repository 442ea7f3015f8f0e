"""Text that is not Unicode, in arguments, archives, lists and responses: the command reports it and goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.airgap.command import Result, mirror_command, succeeded
from tests.airgap.test_refused_images import bundle
from tests.fake.content import OCI_INDEX, Manifest, descriptor, image
from tests.fake.registry import Registry

BYTE = "\udcff"  # the byte FF in an argument
PLATFORMS = ("platform", ""), ("Windows NT", "x86"), ("\ud800", "amd64")


async def cached(cache: Path) -> set[str]:
    """Return the names of the cached images."""
    listed = json.loads((await succeeded("ls", "--json", "--cache", cache)).out)
    return {one["name"].removeprefix("docker.io/team/") for one in listed}


def lines(result: Result) -> list[str]:
    """Return the lines on standard error, none of which belongs to a traceback."""
    assert "Traceback" not in result.err, result
    return result.err.splitlines()


@asynccontextmanager
async def upstream_of_one_byte() -> AsyncIterator[str]:
    """Start an upstream whose responses have a header that is not UTF-8, and yield its URL."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; \xff\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
            writer.write(head + b"{}")
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_upstream_header_that_is_not_utf8_fails_one_image(tmp_path: Path) -> None:
    """The message of that image has the byte as an escape; the other image is downloaded."""
    async with Registry.running() as registry, upstream_of_one_byte() as url:
        registry.publish("team/app", image(100), "v1")
        upstreams = ("--upstream", f"docker.io={registry.url}", "--upstream", f"bad.test={url}")
        result = await mirror_command("warm", "bad.test/app:v1", "team/app:v1", "--cache", tmp_path, *upstreams)
    assert result.status == 1, result
    (failure,) = (line for line in lines(result) if line.startswith("bad.test/app:v1: "))
    assert r"text/html; \udcff" in failure
    assert result.out.endswith(" 1 failed: bad.test/app:v1\n")
    assert await cached(tmp_path) == {"app:v1"}


@pytest.mark.parametrize("pattern", [BYTE, f"docker.io/team/{BYTE}*", f"docker.io/team/[{BYTE}]*"])
@pytest.mark.parametrize("command", ["pin", "unpin", "rm", "export"])
async def test_name_that_is_not_utf8_selects_no_image(tmp_path: Path, command: str, pattern: str) -> None:
    """The command fails with one line. The characters of the escape `\\udcff` would match an image."""
    cache = tmp_path / "cache"
    await succeeded("import", bundle(tmp_path / "b.tar", {"team/docs:v1": image(100)}), "--cache", cache)
    options = ("--cache", cache, *(("--output", tmp_path / "out.tar") if command == "export" else ()))
    result = await mirror_command(command, "team/docs:v1", pattern, *options)
    assert (result.status, result.out) == (2, "")
    (line,) = lines(result)
    assert line.startswith("mirror: ")
    assert r"\udcff" in line
    assert not (tmp_path / "out.tar").exists()
    assert await cached(cache) == {"docs:v1"}


async def test_warm_of_a_name_that_is_not_unicode_fails_this_name(tmp_path: Path) -> None:
    """An argument, or a name in a YAML list. The other image is downloaded."""
    (tmp_path / "list.yaml").write_text('image: "\\uD800"\n')
    async with Registry.running() as registry:
        registry.publish("team/app", image(100), "v1")
        options = ("--from", tmp_path / "list.yaml", "--upstream", f"docker.io={registry.url}")
        result = await mirror_command("warm", BYTE, "team/app:v1", "--cache", tmp_path / "cache", *options)
    assert result.status == 1, result
    for name in (r"\udcff", r"\ud800"):
        assert any(line.startswith(f"{name}: ") and "is not a repository name" in line for line in lines(result))
    assert result.out.startswith("1 image cached, ")
    assert result.out.endswith(" 2 failed: \\udcff, \\ud800\n")
    assert await cached(tmp_path / "cache") == {"app:v1"}


async def test_import_of_a_name_that_is_not_unicode_fails_this_image(tmp_path: Path) -> None:
    """A name in the archive, or --name. The other image of the archive is imported."""
    archive = bundle(tmp_path / "a.tar", {"\ud800:latest": image(100), "team/app:v1": image(200)})
    result = await mirror_command("import", archive, "--cache", tmp_path / "cache")
    assert result.status == 1, result
    refused, imported = lines(result)
    assert refused.startswith(r"\ud800:latest: ")
    assert "is not a repository name" in refused
    assert imported == "team/app:v1: imported"
    single = bundle(tmp_path / "b.tar", {"": image(100)})
    result = await mirror_command("import", single, "--name", BYTE, "--cache", tmp_path / "cache")
    assert result.status == 1, result
    assert [line.startswith(r"\udcff: ") for line in lines(result)] == [True]
    assert await cached(tmp_path / "cache") == {"app:v1"}


async def test_images_with_any_platform_are_listed(tmp_path: Path) -> None:
    """An index can name platforms that break the grammar of `--platform`: empty, with blanks, not Unicode."""
    children = [image(100) for _ in PLATFORMS]
    entries = [
        {**descriptor(child, child.media_type), "platform": {"os": os, "architecture": architecture}}
        for child, (os, architecture) in zip(children, PLATFORMS, strict=True)
    ]
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    async with Registry.running() as registry:
        registry.publish("team/app", Manifest.of(body, OCI_INDEX, children=tuple(children)), "v1")
        await succeeded("warm", "team/app:v1", "--cache", tmp_path, "--upstream", f"docker.io={registry.url}")
    (listed,) = json.loads((await succeeded("ls", "--json", "--cache", tmp_path)).out)
    assert listed["platforms"] == ["platform", "Windows NT/x86", r"\ud800/amd64"]
    assert "app:v1" in (await succeeded("ls", "--cache", tmp_path)).out
