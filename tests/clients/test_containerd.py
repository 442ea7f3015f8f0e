"""containerd with hosts.toml: what the mirror is asked for, it learns from `ns`."""

from collections import Counter
from pathlib import Path

import pytest

from tests.real import images
from tests.real.containerd import containerd
from tests.real.mirror import Mirror, mirror
from tests.real.registry import Registry, docker_registry

pytestmark = pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)


async def test_equal_names_of_two_registries_are_two_images(tmp_path: Path, upstream: Registry) -> None:
    """team/app:1 of docker.io and team/app:1 of quay.io are told apart by `ns`, cold and warm."""
    ours, theirs = images.runnable("docker.io's"), images.runnable("quay.io's")
    async with docker_registry(tmp_path / "quay") as quay:
        await upstream.push(ours, "team/app", "1")
        await quay.push(theirs, "team/app", "1")
        upstreams = {"docker.io": upstream.url, "quay.io": quay.url}

        async with mirror(tmp_path / "mirror", upstreams=upstreams) as mirrored, containerd() as engine:
            engine.mirrored_by(mirrored.url, "docker.io", "quay.io")
            names = ("docker.io/team/app:1", "quay.io/team/app:1")
            for name in names:
                await engine.pull(name)

            assert await engine.run(names[0]) == "docker.io's\n"
            assert await engine.run(names[1]) == "quay.io's\n"

            await engine.forget(*names)
            assert await engine.content() == set()
            await upstream.stop()
            await quay.stop()
            for name in names:
                await engine.pull(name)

            assert await engine.run(names[0]) == "docker.io's\n"
            assert await engine.run(names[1]) == "quay.io's\n"

    # the base layer is in both images: stored once, it may be asked of either registry to prove that it holds it
    assert upstream.blob_gets() == Counter(ours.blob_digests())
    assert set(quay.blob_gets()) <= theirs.blob_digests()
    assert quay.blob_gets().keys() >= theirs.blob_digests() - ours.blob_digests()


async def test_every_platform_of_an_index_is_fetched_through_the_mirror(upstream: Registry, mirrored: Mirror) -> None:
    """Both platforms arrive cold, and again warm with the upstream switched off."""
    index = images.multi_arch("anywhere:")
    wanted = {index.digest, *(image.digest for image in index.images)}
    wanted |= {digest for image in index.images for digest in image.blob_digests()}
    await upstream.push(index, "library/anywhere", "1")

    async with containerd() as engine:
        engine.mirrored_by(mirrored.url, "docker.io")
        await engine.fetch("docker.io/library/anywhere:1")

        assert await engine.content() == wanted

        await engine.forget("docker.io/library/anywhere:1")
        assert await engine.content() == set()
        await upstream.stop()
        await engine.fetch("docker.io/library/anywhere:1")

        assert await engine.content() == wanted

    assert upstream.blob_gets() == Counter({digest for image in index.images for digest in image.blob_digests()})


async def test_an_artifact_is_fetched_like_an_image(upstream: Registry, mirrored: Mirror) -> None:
    """What is no image (a type of its own, the empty config) passes unchanged, cold and warm."""
    artifact = images.artifact("application/vnd.test.report.v1", b"a report, not a layer")
    await upstream.push(artifact, "team/report", "1")

    async with containerd() as engine:
        engine.mirrored_by(mirrored.url, "docker.io")
        await engine.fetch("docker.io/team/report:1")

        assert await engine.content() == {artifact.digest, *artifact.blob_digests()}

        await engine.forget("docker.io/team/report:1")
        await upstream.stop()
        await engine.fetch("docker.io/team/report:1")

        assert await engine.content() == {artifact.digest, *artifact.blob_digests()}


async def test_sixty_layers_by_digest(upstream: Registry, mirrored: Mirror) -> None:
    """A pull by digest of many layers runs, and each layer was asked for once."""
    image = images.layered(60)
    await upstream.push(image, "deep/image", "1")
    name = f"docker.io/deep/image@{image.digest}"

    async with containerd() as engine:
        engine.mirrored_by(mirrored.url, "docker.io")
        await engine.pull(name)
        await upstream.stop()

        assert len((await engine.run(name, "ls", "/layers")).split()) == 59

    assert upstream.blob_gets() == Counter(image.blob_digests())
