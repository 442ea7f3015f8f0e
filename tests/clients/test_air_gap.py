"""Bundles between two networks, with real registries, container engines and archives on both sides."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.airgap.command import succeeded as mirror_command
from tests.real import images
from tests.real.containerd import containerd
from tests.real.docker import docker
from tests.real.images import Image
from tests.real.mirror import mirror
from tests.real.podman import podman
from tests.real.program import succeeded
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo

pytestmark = pytest.mark.needs(
    "busybox", "containerd", "ctr", "docker", "docker-registry", "dockerd", "podman", "skopeo", root=True
)


def tag_of(subject: Image, ending: str = "") -> str:
    return f"{subject.digest.replace(':', '-')}{ending}"


async def warmed(cache: Path, upstream: Registry, *arguments: str | Path) -> None:
    await mirror_command("warm", *arguments, "--cache", cache, "--upstream", f"docker.io={upstream.url}")


@dataclass(frozen=True, slots=True)
class Carried:
    """The images of an upstream: one whose tag moves, and one with a signature and an SBOM."""

    before: Image
    after: Image
    kept: Image
    signature: Image
    sbom: Image

    @classmethod
    def create(cls) -> "Carried":
        kept = images.runnable("kept")
        return cls(
            before=images.multi_arch("week one"),
            after=images.multi_arch("week two"),
            kept=kept,
            signature=images.artifact("x/cosign", b"signed"),
            sbom=images.artifact("x/sbom", b"all that is in it", subject=kept),
        )

    def greetings(self) -> dict[str, str]:
        """Return the output of each image, by each of its names."""
        return {
            "docker.io/library/kept:1": "kept\n",
            f"docker.io/library/kept@{self.kept.digest}": "kept\n",
            "docker.io/team/app:1": f"week two {images.HERE}\n",
            f"docker.io/team/app@{self.after.digest}": f"week two {images.HERE}\n",
            f"docker.io/team/app@{self.before.digest}": f"week one {images.HERE}\n",
        }


async def two_weeks(directory: Path, upstream: Registry, carried: Carried) -> tuple[Path, Path]:
    """Export two bundles, the second with only new blobs; then stop the upstream and delete its storage."""
    kept, sbom = carried.kept, carried.sbom
    await upstream.push(carried.before, "team/app", "1")
    await upstream.push(kept, "library/kept", "1")
    await upstream.push(sbom, "library/kept")
    await upstream.push(images.listing(sbom), "library/kept", tag_of(kept))
    await upstream.push(carried.signature, "library/kept", tag_of(kept, ".sig"))
    names, near = directory / "images.txt", directory / "near"
    names.write_text("# images to carry\nteam/app:1\n\nkept:1  # signed\n")

    await warmed(near, upstream, "--from", names, "--pin")
    await mirror_command("export", "-o", directory / "week1.tar", "--pinned", "--cache", near)
    await upstream.push(carried.after, "team/app", "1")
    await warmed(near, upstream, "--from", names, "--pin")
    week2 = directory / "week2.tar"
    await mirror_command("export", "-o", week2, "--pinned", "--since", directory / "week1.tar", "--cache", near)
    assert week2.stat().st_size < (directory / "week1.tar").stat().st_size / 4
    await upstream.stop()
    shutil.rmtree(directory / "upstream")
    shutil.rmtree(near)
    return directory / "week1.tar", week2


async def test_engines_pull_imported_images_without_upstream(tmp_path: Path, upstream: Registry) -> None:
    """Images of both bundles run, by tag and by digest; the signature has its tag, and the SBOM is a referrer."""
    carried = Carried.create()
    kept, greetings = carried.kept, carried.greetings()
    week1, week2 = await two_weeks(tmp_path, upstream, carried)
    far = tmp_path / "far"
    await mirror_command("import", week1, "--cache", far)
    async with mirror(tmp_path / "run", "--cache", str(far), "--offline") as offline:
        await mirror_command("import", week2, "--cache", far)
        async with docker(offline.url) as engine:
            for name, greeting in greetings.items():
                await engine.pull(name)
                assert await engine.run(name) == greeting
        async with containerd() as other:
            other.mirrored_by(offline.url, "docker.io")
            for name, greeting in greetings.items():
                await other.pull(name)
                assert await other.run(name) == greeting
        with podman() as pods:
            pods.mirrored_by(offline.host, "docker.io")
            for name, greeting in greetings.items():
                await pods.pull(name)
                assert await pods.run(name) == greeting
        tags = await Skopeo(tmp_path / "skopeo").tags(f"{offline.host}/library/kept")
        assert tags == ["1", tag_of(kept), tag_of(kept, ".sig")]
        async with aiohttp.ClientSession(f"{offline.url}/v2/library/kept/", raise_for_status=True) as session:
            async with session.get(f"referrers/{kept.digest}") as answer:
                (found,) = (await answer.json(content_type=None))["manifests"]
                assert (found["digest"], found["artifactType"]) == (carried.sbom.digest, "x/sbom")
            async with session.get(f"manifests/{tag_of(kept, '.sig')}") as answer:
                (layer,) = (await answer.json(content_type=None))["layers"]
            async with session.get(f"blobs/{layer['digest']}") as answer:
                assert await answer.read() == b"signed"


async def test_engines_load_bundle_of_several_images(tmp_path: Path, upstream: Registry) -> None:
    """docker and podman load a bundle of several images of one platform, also of images from an index."""
    one, two = images.runnable("one"), images.multi_arch("two")
    await upstream.push(one, "team/one", "1")
    await upstream.push(two, "team/two", "1")
    near, bundle = tmp_path / "near", tmp_path / "b.tar"
    await warmed(near, upstream, "team/one:1", "team/two:1", "--platform", f"linux/{images.HERE}", "--pin")
    await mirror_command("export", "-o", bundle, "--pinned", "--cache", near)
    greetings = {"docker.io/team/one:1": "one\n", "docker.io/team/two:1": f"two {images.HERE}\n"}
    with podman() as pods:
        await pods.load(bundle)
        for name, greeting in greetings.items():
            assert await pods.run(name) == greeting
    async with docker("http://127.0.0.1:9") as engine:
        await engine.load(bundle)
        for name, greeting in greetings.items():
            assert await engine.run(name) == greeting


async def test_bundles_and_archives_of_other_tools_are_interchangeable(tmp_path: Path, upstream: Registry) -> None:
    """skopeo and podman read a bundle; archives of `docker save`, `podman save` and skopeo are imported and run."""
    image = images.runnable("carried")
    await upstream.push(image, "team/app", "1")
    near, far, bundle = tmp_path / "near", tmp_path / "far", tmp_path / "b.tar"
    await warmed(near, upstream, "team/app:1")
    await mirror_command("export", "-o", bundle, "--all", "--cache", near)
    source = f"oci-archive:{bundle}"
    raw = await succeeded("skopeo", "--insecure-policy", "inspect", "--raw", source)
    assert raw.encode() == image.manifest.content
    await succeeded("skopeo", "--insecure-policy", "copy", source, f"oci-archive:{tmp_path}/skopeo.tar:team/skopeo:1")
    with podman() as pods:
        await pods.load(bundle)
        assert await pods.run("docker.io/team/app:1") == "carried\n"
        await pods.save("docker.io/team/app:1", tmp_path / "podman.tar", name="docker.io/team/podman:1")
    serving = mirror(tmp_path / "near-run", "--cache", str(near), "--offline")
    async with serving as served, docker(served.url) as engine:
        await engine.pull("team/app:1")
        await engine.save("team/app:1", tmp_path / "docker.tar", name="team/docker:1")
    theirs = [tmp_path / f"{program}.tar" for program in ("docker", "podman", "skopeo")]
    await mirror_command("import", *theirs, "--cache", far)
    listed = json.loads((await mirror_command("ls", "--json", "--cache", far)).out)
    names = {f"docker.io/team/{program}:1" for program in ("docker", "podman", "skopeo")}
    assert {one["name"] for one in listed if one["complete"] and one["pinned"]} == names
    async with mirror(tmp_path / "run", "--cache", str(far), "--offline") as offline, docker(offline.url) as engine:
        for name in names:
            await engine.pull(name)
            assert await engine.run(name) == "carried\n"
