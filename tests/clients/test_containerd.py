"""containerd with hosts.toml: the parameter `ns` tells the mirror which registry is meant."""

from collections import Counter
from pathlib import Path

import pytest

from tests.real import images
from tests.real.containerd import containerd
from tests.real.mirror import Mirror, mirror
from tests.real.registry import Registry, docker_registry

pytestmark = pytest.mark.needs("busybox", "containerd", "ctr", "docker-registry", root=True)


async def test_same_name_in_two_registries_is_two_images(tmp_path: Path, upstream: Registry) -> None:
    """team/app:1 of docker.io and of quay.io are distinguished by `ns`, cold and warm."""
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

    # The base layer is in both images: it is stored once, and either registry may be asked whether it has the layer.
    assert upstream.blob_gets() == Counter(ours.blob_digests())
    assert set(quay.blob_gets()) <= theirs.blob_digests()
    assert quay.blob_gets().keys() >= theirs.blob_digests() - ours.blob_digests()


async def test_all_platforms_of_an_index_are_fetched(upstream: Registry, mirrored: Mirror) -> None:
    """Both platforms are fetched cold, and again warm with the upstream stopped."""
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


async def test_artifact_is_fetched(upstream: Registry, mirrored: Mirror) -> None:
    """An artifact (its own type, the empty config) is fetched unchanged, cold and warm."""
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


async def test_image_of_sixty_layers_is_pulled_by_digest(upstream: Registry, mirrored: Mirror) -> None:
    """A pull by digest of 60 layers runs, and each layer was requested from upstream once."""
    image = images.layered(60)
    await upstream.push(image, "deep/image", "1")
    name = f"docker.io/deep/image@{image.digest}"

    async with containerd() as engine:
        engine.mirrored_by(mirrored.url, "docker.io")
        await engine.pull(name)
        await upstream.stop()

        assert len((await engine.run(name, "ls", "/layers")).split()) == 59

    assert upstream.blob_gets() == Counter(image.blob_digests())
