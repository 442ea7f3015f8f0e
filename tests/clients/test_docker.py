"""dockerd configured only with `registry-mirrors`."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.real import images
from tests.real.docker import docker
from tests.real.images import Image
from tests.real.mirror import Mirror, mirror
from tests.real.registry import Registry

pytestmark = pytest.mark.needs("busybox", "containerd", "docker", "docker-registry", "dockerd", root=True)


async def test_cold_pull_fills_cache_and_warm_pull_needs_no_upstream(upstream: Registry, mirrored: Mirror) -> None:
    """Pull and run; remove the image; stop the upstream; pull and run again from the cache."""
    image = images.runnable("hello from the mirror")
    await upstream.push(image, "library/hello", "1")

    async with docker(mirrored.url) as engine:
        await engine.pull("hello:1")

        assert await engine.run("hello:1") == "hello from the mirror\n"
        assert await engine.run("hello:1", "echo", "hi") == "hi\n"

        await engine.forget("hello:1")
        assert await engine.images() == []
        await upstream.stop()
        await engine.pull("hello:1")

        assert await engine.run("hello:1") == "hello from the mirror\n"
        assert await engine.digests("hello:1") == [image.digest]

    assert upstream.blob_gets() == Counter(image.blob_digests())


SHAPES = [
    pytest.param(partial(images.runnable, "schema 2", dialect=images.DOCKER), "schema 2", id="schema-2"),
    pytest.param(partial(images.multi_arch, "index on"), f"index on {images.HERE}", id="multi-arch-index"),
    pytest.param(
        partial(images.multi_arch, "list on", dialect=images.DOCKER), f"list on {images.HERE}", id="schema-2-list"
    ),
    pytest.param(partial(images.with_empty_blob, "a blob of nothing"), "a blob of nothing", id="zero-byte-blob"),
    pytest.param(partial(images.with_sha512, "sha512"), "sha512", id="sha512-blobs"),
]


@pytest.mark.parametrize(("make", "greeting"), SHAPES)
async def test_every_image_format_runs_cold_and_warm(
    upstream: Registry, mirrored: Mirror, make: Callable[[], Image], greeting: str
) -> None:
    """Each image format is pulled and run through an empty mirror, and again with the upstream stopped."""
    image = make()
    here = image.images[list(images.ARCHITECTURES.values()).index(images.HERE)] if image.images else image
    await upstream.push(image, "forms/app", "1")

    async with docker(mirrored.url) as engine:
        await engine.pull("forms/app:1")

        assert await engine.run("forms/app:1") == f"{greeting}\n"

        await engine.forget("forms/app:1")
        await upstream.stop()
        await engine.pull("forms/app:1")

        assert await engine.run("forms/app:1") == f"{greeting}\n"
        assert await engine.digests("forms/app:1") == [image.digest]

    assert upstream.blob_gets() == Counter(here.blob_digests())


async def test_each_of_sixty_layers_is_downloaded_once(upstream: Registry, mirrored: Mirror) -> None:
    """dockerd pulls three layers at a time: all are downloaded once, complete, and kept in the cache."""
    image = images.layered(60)
    await upstream.push(image, "deep/image", "1")

    async with docker(mirrored.url) as engine:
        await engine.pull("deep/image:1")
        await upstream.stop()

        listed = await engine.run("deep/image:1", "ls", "/layers")
        assert sorted(map(int, listed.split())) == list(range(1, 60))

        await engine.forget("deep/image:1")
        await engine.pull("deep/image:1")

    assert upstream.blob_gets() == Counter(image.blob_digests())


async def test_concurrent_pulls_share_one_download(upstream: Registry, mirrored: Mirror) -> None:
    """A client that asks for a blob during its download reads along."""
    image = images.runnable("one for both", ballast=32 * 2**20)
    await upstream.push(image, "crowd/app", "1")

    async with docker(mirrored.url) as one, docker(mirrored.url) as other:
        await asyncio.gather(one.pull("crowd/app:1"), other.pull("crowd/app:1"))
        await upstream.stop()

        assert await one.run("crowd/app:1") == await other.run("crowd/app:1") == "one for both\n"

    assert upstream.blob_gets() == Counter(image.blob_digests())


async def test_restarted_mirror_serves_cache_without_upstream(tmp_path: Path, upstream: Registry) -> None:
    """The cache with its tags survives a restart, and the start needs no upstream."""
    image = images.runnable("still here")
    await upstream.push(image, "library/kept", "1")
    async with mirror(tmp_path / "mirror", upstreams={"docker.io": upstream.url}) as first, docker(first.url) as engine:
        await engine.pull("kept:1")
    await upstream.stop()

    async with (
        mirror(tmp_path / "mirror", upstreams={"docker.io": upstream.url}) as second,
        docker(second.url) as engine,
    ):
        await engine.pull("kept:1")

        assert await engine.run("kept:1") == "still here\n"


async def test_tag_is_served_stale_without_upstream(tmp_path: Path, upstream: Registry) -> None:
    """The tag is no longer fresh and upstream is down: the mirror serves the stale image."""
    await upstream.push(images.runnable("stale but good"), "library/stale", "1")
    configuration = tmp_path / "mirror.toml"
    configuration.write_text('[tags]\nfresh_for = "1ms"\n')
    settings = ("--config", str(configuration))

    async with (
        mirror(tmp_path / "mirror", *settings, upstreams={"docker.io": upstream.url}) as mirrored,
        docker(mirrored.url) as engine,
    ):
        await engine.pull("stale:1")
        await engine.forget("stale:1")
        await upstream.stop()
        await engine.pull("stale:1")

        assert await engine.run("stale:1") == "stale but good\n"


async def test_moved_tag_is_revalidated(tmp_path: Path, upstream: Registry) -> None:
    """A tag that is no longer fresh is revalidated; the old digest can still be pulled."""
    before, after = images.runnable("before"), images.runnable("after")
    await upstream.push(before, "library/moving", "1")
    configuration = tmp_path / "mirror.toml"
    configuration.write_text('[tags]\nfresh_for = "1ms"\n')
    settings = ("--config", str(configuration))

    async with (
        mirror(tmp_path / "mirror", *settings, upstreams={"docker.io": upstream.url}) as mirrored,
        docker(mirrored.url) as engine,
    ):
        await engine.pull("moving:1")
        await upstream.push(after, "library/moving", "1")
        await engine.pull("moving:1")

        assert await engine.run("moving:1") == "after\n"

        await upstream.stop()
        await engine.pull(f"moving@{before.digest}")

        assert await engine.run(f"moving@{before.digest}") == "before\n"
