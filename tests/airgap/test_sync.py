"""Lists of images, and sync files that are followed: once, and week after week."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.airgap.command import ended, going_on, interrupted, mirror_command, succeeded
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
    """Docker Hub, for the side that sees it."""
    async with Registry.running() as registry:
        yield registry


def at(registry: Registry, cache: Path) -> tuple[str, ...]:
    return ("--cache", str(cache), "--upstream", f"docker.io={registry.url}")


async def pinned(cache: Path) -> dict[str, bool]:
    """The tags that are here, and whether they are pinned."""
    said = await succeeded("ls", "--json", "--cache", cache)
    return {one["name"].partition("team/app:")[2]: one["pinned"] for one in json.loads(said.out)}


async def test_images_are_taken_from_the_files_that_people_have(tmp_path: Path, registry: Registry) -> None:
    """A Compose file and Kubernetes manifests; a file that names none, or is no YAML, is refused."""
    for tag in ("compose", "init", "pod", "other"):
        registry.publish("team/app", image(10), tag)
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    (tmp_path / "k8s.yml").write_text(MANIFESTS)
    await succeeded("warm", "--from", tmp_path / "compose.yaml", *at(registry, tmp_path / "cache"))
    await succeeded("warm", "--from", tmp_path / "k8s.yml", *at(registry, tmp_path / "cache"))
    assert (await pinned(tmp_path / "cache")).keys() == {"compose", "init", "pod"}
    for text, reason in (("a: [", "is no YAML"), ("kind: ConfigMap", "names no image")):
        (tmp_path / "bad.yaml").write_text(text)
        said = await mirror_command("warm", "--from", tmp_path / "bad.yaml", "--cache", tmp_path / "cache")
        assert said.status == 2, said
        assert reason in said.err


async def test_a_sync_file_is_followed(tmp_path: Path, registry: Registry) -> None:
    """What is new goes into the next bundle, and where nothing is, there is none. Schedules are for --watch."""
    cache, sync, out = tmp_path / "cache", tmp_path / "sync.toml", tmp_path / "out"
    sync.write_text(SYNC)
    (tmp_path / "list.txt").write_text("team/app:listed\nteam/app:absent\n")
    base = image(100_000)
    registry.publish("team/app", base, "v1", "listed")

    said = await mirror_command("warm", "--from", sync, *at(registry, cache))
    assert said.status == 1, said
    assert "absent" in said.err
    assert await pinned(cache) == {"v1": True, "listed": False}
    said = await mirror_command("warm", "--from", sync, *at(registry, cache))
    assert "nothing new since" in said.out
    registry.publish("team/app", image(5000), "v2")
    async with going_on("warm", "--from", sync, "--watch", *at(registry, cache)) as program:
        await until((out / "week-0002.tar.json").exists)
        registry.publish("team/app", image(6000), "v1")
        await until((out / "week-0003.tar.json").exists)
        said = await interrupted(program)
    assert said.status == 130, said
    assert "Traceback" not in said.err
    sizes = [(out / f"week-000{number}.tar").stat().st_size for number in (1, 2, 3)]
    assert sizes[0] > 100_000 > sizes[1] + sizes[2]

    await succeeded("import", *sorted(out.glob("week-*.tar")), "--cache", tmp_path / "far")
    assert (await pinned(tmp_path / "far")).keys() >= {"v1", "v2", "listed"}


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what a command does."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.05)


UNFIT: list[tuple[str, tuple[str, ...], str]] = [
    (SYNC, ("team/app:v1",), "remove them from the command line"),
    (SYNC, ("--platform", "linux/amd64"), "remove them from the command line"),
    ('[[images]]\nimages = ["team/app:v1"]', ("--watch",), "images.0 has no schedule"),
    ("images = 1", (), "images: Input should be a valid list"),
]


async def test_what_can_not_be_followed_is_said(tmp_path: Path) -> None:
    """Before anything is begun."""
    for number, (text, _, _) in enumerate(UNFIT):
        (tmp_path / f"{number}.toml").write_text(text)
    every = [
        mirror_command("warm", "--from", tmp_path / f"{number}.toml", *arguments, "--cache", tmp_path / "cache")
        for number, (_, arguments, _) in enumerate(UNFIT)
    ]
    for (_, _, reason), said in zip(UNFIT, await asyncio.gather(*every), strict=True):
        assert said.status == 2, said
        assert reason in said.err, said


async def test_a_stopped_warming_goes_on_where_it_was(tmp_path: Path, registry: Registry) -> None:
    """Ctrl-C ends it at once, without a traceback; what came is not fetched again."""
    small, large = image(10), image(3_000_000)
    registry.publish("team/app", small, "v1")
    registry.publish("team/app", large, "v2")
    registry.inject(Slow(1_000_000), f"*/blobs/{large.blobs[1].digest}")
    warm = ("warm", "team/app:v1", "team/app:v2", "--jobs", "1", *at(registry, tmp_path / "cache"))
    async with going_on(*warm) as program:
        assert program.stderr is not None
        assert b"v1" in await program.stderr.readline()
        ingest = tmp_path / "cache" / "ingest"
        await until(lambda: any(one.stat().st_size > 200_000 for one in ingest.glob("sha256-*")))
        said = await interrupted(program)
    assert said.status == 130, said
    assert said.err.splitlines()[-1].startswith("mirror: stopped")
    assert "Traceback" not in said.err
    registry.heal()
    before = len(registry.journal)
    await succeeded(*warm)
    asked = [one for one in registry.journal.entries[before:] if "/blobs/" in one.target]
    assert not [one for one in asked if small.blobs[1].digest in one.target]
    (rest,) = [one for one in asked if large.blobs[1].digest in one.target]
    assert rest.range is not None
    assert int(rest.range.removeprefix("bytes=").partition("-")[0]) >= 200_000


async def test_a_mirror_that_is_killed_under_a_warming_is_said(tmp_path: Path, registry: Registry) -> None:
    """In words that say what to do next, and that does it."""
    registry.publish("team/app", image(3_000_000), "v1")
    registry.inject(Slow(1_000_000), "*/blobs/*")
    cache = ("--cache", str(tmp_path / "cache"))
    running = await launched(tmp_path / "run", *at(registry, tmp_path / "cache"))
    try:
        await running.serving()
        async with going_on("warm", "team/app:v1", *cache) as program:
            ingest = tmp_path / "cache" / "ingest"
            await until(lambda: any(one.stat().st_size > 200_000 for one in ingest.glob("sha256-*")))
            await running.program.kill()
            said = await ended(program)
    finally:
        await running.program.kill()
    assert said.status == 2, said
    assert said.err.endswith("broke off the connection: run the command again, it continues from there\n"), said
    assert "Error" not in said.err
    registry.heal()
    await succeeded("warm", "team/app:v1", *at(registry, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "mirror: stopped; there is no bundle\n"), (signal.SIGTERM, 143, "")],
)
async def test_a_stopped_export_leaves_nothing(
    tmp_path: Path, registry: Registry, number: signal.Signals, status: int, word: str
) -> None:
    """Not even after it has written all the rest: who reads slowly sees it end at once."""
    registry.publish("team/app", image(40_000_000), "v1")
    await succeeded("warm", "team/app:v1", *at(registry, tmp_path / "cache"))
    pipe = tmp_path / "b.tar.part"
    os.mkfifo(pipe)
    taken = 0
    async with going_on("export", "-o", tmp_path / "b.tar", "--all", "--cache", tmp_path / "cache") as program:
        with await asyncio.to_thread(pipe.open, "rb", buffering=0) as reader:
            program.send_signal(number)
            while piece := await asyncio.to_thread(reader.read, 65536):
                taken += len(piece)
                await asyncio.sleep(0.01)
        said = await ended(program)
    assert (said.status, said.err) == (status, word), said
    assert taken < 20_000_000
    assert not list(tmp_path.glob("b.tar*"))
