"""Commands and a running mirror share one cache, one after the other and at the same time."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.airgap.command import Result, mirror_command, succeeded
from tests.fake.answers import Valve
from tests.fake.content import Manifest, image
from tests.fake.faults import Hold
from tests.fake.registry import Registry
from tests.http.client import Client, poll_until
from tests.real.mirror import launched, mirror

REPOSITORY = "team/app"


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A fake Docker Hub."""
    async with Registry.running() as registry:
        yield registry


def at(registry: Registry, cache: Path) -> tuple[str, ...]:
    return ("--cache", str(cache), "--upstream", f"docker.io={registry.url}")


async def complete(cache: Path, **environment: str) -> dict[str, bool]:
    """Return each listed image and whether it is complete."""
    result = await succeeded("ls", "--json", "--cache", cache, **environment)
    return {one["name"]: one["complete"] for one in json.loads(result.out)}


async def pinned(registry: Registry, cache: Path, *sizes: int) -> list[Manifest]:
    """Publish images with layers of these sizes, and warm and pin them."""
    images = [image(size) for size in sizes]
    for number, one in enumerate(images):
        registry.publish(REPOSITORY, one, f"v{number}")
        await succeeded("warm", f"{REPOSITORY}:v{number}", "--pin", *at(registry, cache))
    return images


async def held(registry: Registry, cache: Path, manifest: Manifest, valve: Valve) -> asyncio.Task[Result]:
    """Start a `warm` that locks the cache until the valve is opened."""
    registry.publish(REPOSITORY, manifest, "v1")
    registry.inject(Hold(valve, at=100_000), f"*/blobs/{manifest.blobs[1].digest}")
    warming = asyncio.create_task(mirror_command("warm", f"{REPOSITORY}:v1", *at(registry, cache)))
    await valve.reached()
    return warming


async def test_smaller_limit_evicts_no_pinned_image(tmp_path: Path, registry: Registry) -> None:
    """Neither a command with a smaller limit nor a mirror start evicts pinned images; the start evicts others."""
    cache = tmp_path / "cache"
    kept = await pinned(registry, cache, 300_000, 300_000)
    manifests = {f"v{number}": one for number, one in enumerate(kept)} | {"loose": image(300_000)}
    registry.publish(REPOSITORY, manifests["loose"], "loose")
    await succeeded("warm", f"{REPOSITORY}:loose", *at(registry, cache))
    names = {f"docker.io/{REPOSITORY}:{tag}": True for tag in ("v0", "v1", "loose")}
    assert await complete(cache, MIRROR_MAX_SIZE="650000") == names
    async with mirror(tmp_path, "--max-size", "650000", "--offline") as running, Client.of(running.url) as client:
        for tag, whole in (("v0", True), ("v1", True), ("loose", False)):
            status = (await client.get(f"/v2/{REPOSITORY}/blobs/{manifests[tag].blobs[1].digest}")).status
            assert (status == 200) is whole, tag


async def test_environment_variables_apply_to_every_command(tmp_path: Path, registry: Registry) -> None:
    """Commands also read the variables of settings for which they have no flag."""
    cache = tmp_path / "cache"
    await pinned(registry, cache, 1000)
    result = await succeeded("stats", MIRROR_CACHE=str(cache), MIRROR_MAX_SIZE="7MiB")
    assert "7.0 MiB" in result.out, result
    requests_before = len(registry.journal.entries)
    result = await mirror_command("warm", f"{REPOSITORY}:v0", *at(registry, cache), MIRROR_OFFLINE="1")
    assert len(registry.journal.entries) == requests_before
    for variable, value in (("MIRROR_MAX_SIZE", "zz"), ("MIRROR_MAX_SIZE", "0"), ("MIRROR_LISTEN", "nowhere")):
        result = await mirror_command("ls", "--cache", cache, **{variable: value})
        assert result.status == 2, result
        assert "Traceback" not in result.err
        assert value in result.err, result


async def test_mirror_start_waits_for_running_command(tmp_path: Path, registry: Registry) -> None:
    """A mirror that starts during a long command waits for it; a second mirror on the same cache fails."""
    cache, valve, manifest = tmp_path / "cache", Valve(), image(200_000)
    warming = await held(registry, cache, manifest, valve)
    waiting = await launched(tmp_path, upstreams={"docker.io": registry.url})
    try:
        await waiting.program.until(lambda: bool(waiting.events("waiting")))
        assert not waiting.events("listening")
        valve.open()
        assert (await warming).status == 0
        await waiting.serving()
        async with Client.of(waiting.url) as client:
            reply = await poll_until(
                lambda: client.get(f"/v2/{REPOSITORY}/manifests/v1"), lambda one: one.status == 200
            )
        assert reply.body == manifest.content
        (event,) = waiting.events("waiting")
        assert str(cache) in str(event["reason"])
        another = await mirror_command("serve", "--listen", "127.0.0.1:0", "--cache", cache)
        assert another.status == 2, another
        assert "another mirror" in another.err
    finally:
        await waiting.program.stop()


async def test_waiting_mirror_can_be_stopped(tmp_path: Path, registry: Registry) -> None:
    """SIGTERM ends a waiting mirror at once with status 0, as it ends a serving one."""
    cache, valve, manifest = tmp_path / "cache", Valve(), image(200_000)
    warming = await held(registry, cache, manifest, valve)
    waiting = await launched(tmp_path, upstreams={"docker.io": registry.url})
    try:
        await waiting.program.until(lambda: bool(waiting.events("waiting")))
        waiting.program.signal(signal.SIGTERM)
        assert await waiting.program.ended(within=5) == 0
        assert not warming.done()
    finally:
        valve.open()
        await waiting.program.kill()
    assert (await warming).status == 0


async def test_removed_blobs_are_deleted_during_integrity_scan(tmp_path: Path, registry: Registry) -> None:
    """`rm` deletes blobs at once, even while the integrity scan has them open."""
    config = tmp_path / "mirror.toml"
    config.write_text('[cache]\nscrub_rate = "100KB"\n')
    cache = tmp_path / "cache"
    await pinned(registry, cache, 2_000_000)
    async with mirror(tmp_path, "--config", str(config), "--offline") as running:
        await running.program.until(
            lambda: any(str(cache / "blobs") in name for name in open_names(running.program.pid))
        )
        await succeeded("rm", f"{REPOSITORY}:v0", "--cache", cache)
        assert not running.cache.contents().blobs


def open_names(pid: int) -> list[str]:
    """Return the names of the files that a process has open."""
    names = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return names
