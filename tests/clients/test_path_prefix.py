"""podman and skopeo with the registry's name in the path: `127.0.0.1:5000/quay.io/team/app`."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.real import images
from tests.real.mirror import Mirror, mirror
from tests.real.podman import podman
from tests.real.registry import Registry, docker_registry
from tests.real.skopeo import Skopeo


@pytest.mark.needs("busybox", "docker-registry", "podman", root=True)
async def test_podman_pulls_from_two_registries_by_path_prefix(tmp_path: Path, upstream: Registry) -> None:
    """The same name under docker.io/ and quay.io/ is two images; both run again with the upstreams stopped."""
    ours, theirs = images.runnable("docker.io's"), images.runnable("quay.io's")
    async with docker_registry(tmp_path / "quay") as quay:
        await upstream.push(ours, "team/app", "1")
        await quay.push(theirs, "team/app", "1")
        upstreams = {"docker.io": upstream.url, "quay.io": quay.url}

        async with mirror(tmp_path / "mirror", upstreams=upstreams) as mirrored:
            names = (f"{mirrored.host}/docker.io/team/app:1", f"{mirrored.host}/quay.io/team/app:1")
            for stopped in (False, True):
                if stopped:
                    await upstream.stop()
                    await quay.stop()
                with podman() as engine:
                    engine.mirrored_by(mirrored.host)
                    for name in names:
                        await engine.pull(name)

                    assert await engine.run(names[0]) == "docker.io's\n"
                    assert await engine.run(names[1]) == "quay.io's\n"


@pytest.mark.needs("busybox", "docker-registry", "podman", root=True)
async def test_podman_uses_mirror_of_registries_conf(upstream: Registry, mirrored: Mirror) -> None:
    """Image names stay the same; only registries.conf has the mirror's name."""
    image = images.runnable("as ever", dialect=images.DOCKER)
    await upstream.push(image, "library/known", "1")

    with podman() as engine:
        engine.mirrored_by(mirrored.host, "docker.io")
        await engine.pull("docker.io/library/known:1")
        await upstream.stop()

        assert await engine.run("docker.io/library/known:1") == "as ever\n"

        await engine.forget("docker.io/library/known:1")
        await engine.pull("docker.io/library/known:1")

        assert await engine.run("docker.io/library/known:1") == "as ever\n"

    assert upstream.blob_gets() == Counter(image.blob_digests())


FORMS = {
    "index": lambda: images.multi_arch("any"),
    "list": lambda: images.multi_arch("any", dialect=images.DOCKER),
    "artifact": lambda: images.artifact("application/vnd.test.report.v1", b"a report"),
    "empty-artifact": lambda: images.artifact("application/vnd.test.nothing.v1", b""),
    "zero-byte-blob": lambda: images.with_empty_blob("nothing"),
    "sixty-layers": lambda: images.layered(60),
}


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
@pytest.mark.parametrize("form", FORMS)
async def test_skopeo_copies_every_format_unchanged(
    tmp_path: Path, upstream: Registry, mirrored: Mirror, form: str
) -> None:
    """Copies have the same manifest and blobs, cold and warm; each blob was requested from upstream once."""
    image = FORMS[form]()
    members = image.images or (image,)
    blobs = {blob.digest: blob.content for member in members for blob in member.blobs}
    await upstream.push(image, "team/form", "1")
    skopeo = Skopeo(tmp_path / "skopeo")

    for stopped in (False, True):
        if stopped:
            await upstream.stop()
        copy = await skopeo.copy(f"{mirrored.host}/docker.io/team/form:1", every_platform=True)

        assert (copy / "manifest.json").read_bytes() == image.manifest.content
        assert {digest: (copy / digest.partition(":")[2]).read_bytes() for digest in blobs} == blobs

    assert upstream.blob_gets() == Counter(blobs.keys())


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
async def test_all_spellings_of_a_name_share_one_cache_entry(
    tmp_path: Path, upstream: Registry, mirrored: Mirror
) -> None:
    """hello, library/hello, docker.io/hello and docker.io/library/hello cause one download."""
    image = images.runnable("spelled")
    await upstream.push(image, "library/hello", "1")
    skopeo = Skopeo(tmp_path / "skopeo")

    for spelling in ("docker.io/library/hello", "docker.io/hello", "library/hello", "hello"):
        copy = await skopeo.copy(f"{mirrored.host}/{spelling}:1")

        assert (copy / "manifest.json").read_bytes() == image.manifest.content

    await upstream.stop()
    assert upstream.blob_gets() == Counter(image.blob_digests())


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
async def test_skopeo_lists_tags_and_reads_raw_manifests(tmp_path: Path, upstream: Registry, mirrored: Mirror) -> None:
    """Beside pulls, skopeo requests tag lists and raw manifests."""
    image = images.runnable("listed")
    await upstream.push(image, "team/listed", "1", "2", "latest")
    skopeo = Skopeo(tmp_path / "skopeo")
    name = f"{mirrored.host}/docker.io/team/listed"

    assert sorted(await skopeo.tags(name)) == ["1", "2", "latest"]
    assert json.loads(await skopeo.raw_manifest(f"{name}:2")) == json.loads(image.manifest.content)
