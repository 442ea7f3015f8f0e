"""Image lists for `warm`: Compose files, Kubernetes manifests and sync files, and interrupted commands."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.airgap.command import ended, interrupted, mirror_command, running_command, succeeded
from tests.fake.content import image
from tests.fake.faults import Slow
from tests.fake.registry import Registry
from tests.real.mirror import launched

COMPOSE = """
services:
  web: {image: "team/app:compose"}
  db:
    build: .
"""
MANIFESTS = """
kind: Deployment
spec: {template: {spec: {initContainers: [{image: team/app:init}], containers: [{name: a, image: team/app:pod}]}}}
---
kind: ConfigMap
---
"""
SYNC = """
every = "1s"
[[images]]
images = ["team/app:v*"]
[[images]]
from = "list.txt"
pin = false
at = "Sun 03:00"
[export]
directory = "out"
name = "week"
"""


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A fake Docker Hub, for the connected side."""
    async with Registry.running() as registry:
        yield registry


def at(registry: Registry, cache: Path) -> tuple[str, ...]:
    return ("--cache", str(cache), "--upstream", f"docker.io={registry.url}")


async def pinned(cache: Path) -> dict[str, bool]:
    """Return the cached tags and whether each is pinned."""
    result = await succeeded("ls", "--json", "--cache", cache)
    return {one["name"].partition("team/app:")[2]: one["pinned"] for one in json.loads(result.out)}


async def test_warm_reads_compose_files_and_kubernetes_manifests(tmp_path: Path, registry: Registry) -> None:
    """A Compose file and Kubernetes manifests are read; a file without images or with invalid YAML is refused."""
    for tag in ("compose", "init", "pod", "other"):
        registry.publish("team/app", image(10), tag)
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    (tmp_path / "k8s.yml").write_text(MANIFESTS)
    await succeeded("warm", "--from", tmp_path / "compose.yaml", *at(registry, tmp_path / "cache"))
    await succeeded("warm", "--from", tmp_path / "k8s.yml", *at(registry, tmp_path / "cache"))
    assert (await pinned(tmp_path / "cache")).keys() == {"compose", "init", "pod"}
    for text, reason in (("a: [", "is not YAML"), ("kind: ConfigMap", "names no image")):
        (tmp_path / "bad.yaml").write_text(text)
        result = await mirror_command("warm", "--from", tmp_path / "bad.yaml", "--cache", tmp_path / "cache")
        assert result.status == 2, result
        assert reason in result.err


async def test_sync_file_is_warmed_and_exported(tmp_path: Path, registry: Registry) -> None:
    """Each bundle contains only new images; without new images none is written. Schedules apply with --watch only."""
    cache, sync, out = tmp_path / "cache", tmp_path / "sync.toml", tmp_path / "out"
    sync.write_text(SYNC)
    (tmp_path / "list.txt").write_text("team/app:listed\nteam/app:absent\n")
    base = image(100_000)
    registry.publish("team/app", base, "v1", "listed")

    result = await mirror_command("warm", "--from", sync, *at(registry, cache))
    assert result.status == 1, result
    assert "absent" in result.err
    assert await pinned(cache) == {"v1": True, "listed": False}
    result = await mirror_command("warm", "--from", sync, *at(registry, cache))
    assert "nothing new since" in result.out
    registry.publish("team/app", image(5000), "v2")
    async with running_command("warm", "--from", sync, "--watch", *at(registry, cache)) as program:
        await until((out / "week-0002.tar.json").exists)
        registry.publish("team/app", image(6000), "v1")
        await until((out / "week-0003.tar.json").exists)
        result = await interrupted(program)
    assert result.status == 130, result
    assert "Traceback" not in result.err
    sizes = [(out / f"week-000{number}.tar").stat().st_size for number in (1, 2, 3)]
    assert sizes[0] > 100_000 > sizes[1] + sizes[2]

    await succeeded("import", *sorted(out.glob("week-*.tar")), "--cache", tmp_path / "far")
    assert (await pinned(tmp_path / "far")).keys() >= {"v1", "v2", "listed"}


async def until(holds: Callable[[], bool]) -> None:
    """Wait for an effect of a command."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - the condition changes in another process
            await asyncio.sleep(0.05)


UNUSABLE: list[tuple[str, tuple[str, ...], str]] = [
    (SYNC, ("team/app:v1",), "remove IMAGE from the command line"),
    (SYNC, ("--platform", "linux/amd64"), "remove --platform from the command line"),
    ('[[images]]\nimages = ["team/app:v1"]', ("--watch",), "[[images]] number 1 has no schedule"),
    ("images = 1", (), "images: Input should be a valid list"),
]


async def test_unusable_sync_file_is_refused(tmp_path: Path) -> None:
    """The command refuses before it starts any download."""
    for number, (text, _, _) in enumerate(UNUSABLE):
        (tmp_path / f"{number}.toml").write_text(text)
    every = [
        mirror_command("warm", "--from", tmp_path / f"{number}.toml", *arguments, "--cache", tmp_path / "cache")
        for number, (_, arguments, _) in enumerate(UNUSABLE)
    ]
    for (_, _, reason), result in zip(UNUSABLE, await asyncio.gather(*every), strict=True):
        assert result.status == 2, result
        assert reason in result.err, result


async def test_interrupted_warm_resumes(tmp_path: Path, registry: Registry) -> None:
    """Ctrl-C ends the command at once, without a traceback; received bytes are not fetched again."""
    small, large = image(10), image(3_000_000)
    registry.publish("team/app", small, "v1")
    registry.publish("team/app", large, "v2")
    registry.inject(Slow(1_000_000), f"*/blobs/{large.blobs[1].digest}")
    warm = ("warm", "team/app:v1", "team/app:v2", "--jobs", "1", *at(registry, tmp_path / "cache"))
    async with running_command(*warm) as program:
        assert program.stderr is not None
        assert b"v1" in await program.stderr.readline()
        ingest = tmp_path / "cache" / "ingest"
        await until(lambda: any(one.stat().st_size > 200_000 for one in ingest.glob("sha256-*")))
        result = await interrupted(program)
    assert result.status == 130, result
    assert result.err.splitlines()[-1].startswith("mirror: stopped")
    assert "Traceback" not in result.err
    registry.heal()
    before = len(registry.journal)
    await succeeded(*warm)
    requests = [one for one in registry.journal.entries[before:] if "/blobs/" in one.target]
    assert not [one for one in requests if small.blobs[1].digest in one.target]
    (rest,) = [one for one in requests if large.blobs[1].digest in one.target]
    assert rest.range is not None
    assert int(rest.range.removeprefix("bytes=").partition("-")[0]) >= 200_000


async def test_warm_reports_killed_mirror(tmp_path: Path, registry: Registry) -> None:
    """The error says what to do next, and that works."""
    registry.publish("team/app", image(3_000_000), "v1")
    registry.inject(Slow(1_000_000), "*/blobs/*")
    cache = ("--cache", str(tmp_path / "cache"))
    running = await launched(tmp_path / "run", *at(registry, tmp_path / "cache"))
    try:
        await running.serving()
        async with running_command("warm", "team/app:v1", *cache) as program:
            ingest = tmp_path / "cache" / "ingest"
            await until(lambda: any(one.stat().st_size > 200_000 for one in ingest.glob("sha256-*")))
            await running.program.kill()
            result = await ended(program)
    finally:
        await running.program.kill()
    assert result.status == 2, result
    assert result.err.endswith("broke off the connection: run the command again, it continues from there\n"), result
    assert "Error" not in result.err
    registry.heal()
    await succeeded("warm", "team/app:v1", *at(registry, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "mirror: stopped; there is no bundle\n"), (signal.SIGTERM, 143, "")],
)
async def test_interrupted_export_leaves_no_bundle(
    tmp_path: Path, registry: Registry, number: signal.Signals, status: int, word: str
) -> None:
    """An export to a slow reader ends at once on a signal, and no partial bundle is left."""
    registry.publish("team/app", image(40_000_000), "v1")
    await succeeded("warm", "team/app:v1", *at(registry, tmp_path / "cache"))
    pipe = tmp_path / "b.tar.part"
    os.mkfifo(pipe)
    taken = 0
    async with running_command("export", "-o", tmp_path / "b.tar", "--all", "--cache", tmp_path / "cache") as program:
        with await asyncio.to_thread(pipe.open, "rb", buffering=0) as reader:
            program.send_signal(number)
            while piece := await asyncio.to_thread(reader.read, 65536):
                taken += len(piece)
                await asyncio.sleep(0.01)
        result = await ended(program)
    assert (result.status, result.err) == (status, word), result
    assert taken < 20_000_000
    assert not list(tmp_path.glob("b.tar*"))
