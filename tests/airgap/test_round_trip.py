"""Images warmed from an upstream, exported to a bundle, and imported for a mirror without access to the upstream."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.airgap.command import mirror_command, succeeded
from tests.fake.content import Blob, Manifest, image, image_of, index
from tests.fake.faults import Status
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.real.mirror import mirror

REPOSITORY = "team/app"


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A fake Docker Hub, for the connected side."""
    async with Registry.running() as registry:
        yield registry


def at(registry: Registry, cache: Path) -> tuple[str, ...]:
    return ("--cache", str(cache), "--upstream", f"docker.io={registry.url}")


def an_image(*layers: int) -> Manifest:
    return image(*layers)


async def assert_pulled(client: Client, manifest: Manifest, tag: str | None = None) -> None:
    """Assert that the mirror serves the whole image: by tag, by digest, and each blob."""
    references = [manifest.digest, *([] if tag is None else [tag])]
    for reference in references:
        reply = await client.get(f"/v2/{REPOSITORY}/manifests/{reference}")
        assert (reply.status, reply.body) == (200, manifest.content), reply
        assert reply.headers["Content-Type"] == manifest.media_type
    for child in manifest.children:
        await assert_pulled(client, child)
    for blob in manifest.blobs:
        reply = await client.get(f"/v2/{REPOSITORY}/blobs/{blob.digest}")
        assert (reply.status, reply.body) == (200, blob.content), reply


async def names(cache: Path) -> set[str]:
    result = await succeeded("ls", "--json", "--cache", cache)
    return {one["name"] for one in json.loads(result.out)}


async def test_bundle_and_incremental_bundle_are_carried_over(tmp_path: Path, registry: Registry) -> None:
    """Warm, export, import and pull; then a tag moves, and the second bundle contains only new blobs."""
    base = Blob.noise(300_000)
    first, second = image_of(base, Blob.noise(2000)), image_of(base, Blob.noise(3000))
    many = index(an_image(1000), index(an_image(1500)))
    registry.publish(REPOSITORY, first, "v1")
    registry.publish(REPOSITORY, many, "many")
    near, far = tmp_path / "near", tmp_path / "far"

    await succeeded("warm", f"{REPOSITORY}:*", *at(registry, near))
    await succeeded("export", "-o", tmp_path / "week1.tar", "--all", "--cache", near)
    registry.publish(REPOSITORY, second, "v1")
    await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, near))
    exported = await succeeded(
        *("export", "-o", tmp_path / "week2.tar", f"{REPOSITORY}:v1"),
        *("--since", tmp_path / "week1.tar.json", "--cache", near),
    )
    assert (tmp_path / "week2.tar").stat().st_size < 40_000, exported
    for since in ("week1.tar", "week1.tar.json"):
        again = ("export", "-o", tmp_path / "week1.tar", "--all", "--since", tmp_path / since, "--cache", near)
        result = await mirror_command(*again)
        assert result.status == 2, result
        assert "name another bundle" in result.err
    await registry.go_down()

    await succeeded("import", tmp_path / "week1.tar", "--cache", far)
    async with mirror(tmp_path / "run", "--cache", str(far), "--offline") as offline, Client.of(offline.url) as client:
        await assert_pulled(client, first, "v1")
        await assert_pulled(client, many, "many")
        result = await succeeded("import", tmp_path / "week2.tar", "--cache", far)  # while the mirror is running
        assert result.err == f"docker.io/{REPOSITORY}:v1: imported (tag moved from {first.digest} to {second.digest})\n"
        await assert_pulled(client, second, "v1")
        assert (await client.get(f"/v2/{REPOSITORY}/manifests/absent")).status == 404


async def test_incremental_bundle_alone_shows_no_image(tmp_path: Path, registry: Registry) -> None:
    """The second bundle alone: the import names the missing blob and shows no incomplete image."""
    base = Blob.noise(300_000)
    registry.publish(REPOSITORY, image_of(base), "v1")
    near, far = tmp_path / "near", tmp_path / "far"
    await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, near))
    await succeeded("export", "-o", tmp_path / "week1.tar", "--all", "--cache", near)
    registry.publish(REPOSITORY, image_of(base, Blob.noise(10)), "v1")
    await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, near))
    await succeeded("export", "-o", tmp_path / "w2.tar", "--all", "--since", tmp_path / "week1.tar", "--cache", near)

    result = await mirror_command("import", tmp_path / "w2.tar", "--cache", far)
    assert result.status == 1, result
    assert "is not in the cache" in result.err
    assert "earlier bundle" in result.err
    assert await names(far) == set()


async def test_warm_and_export_beside_a_running_mirror(tmp_path: Path, registry: Registry) -> None:
    """`warm` goes through the running mirror, which has locked the cache; its images are served at once."""
    near, far = tmp_path / "near", tmp_path / "far"
    manifest = registry_image(registry)
    hub = ("--upstream", f"docker.io={registry.url}")
    async with mirror(tmp_path / "run", "--cache", str(near), *hub) as running, Client.of(running.url) as client:
        await succeeded("warm", f"{REPOSITORY}:v1", "--pin", "--cache", near)
        await registry.go_down()
        await assert_pulled(client, manifest, "v1")
        assert await names(near) == {f"docker.io/{REPOSITORY}:v1"}
        await succeeded("export", "-o", tmp_path / "b.tar", "--pinned", "--split", "1MiB", "--cache", near)
    assert len(list(tmp_path.glob("b.tar.0*"))) > 1
    await succeeded("import", tmp_path / "b.tar", "--cache", far)
    await succeeded("import", tmp_path / "b.tar.001", "--cache", far)  # a repeated import changes nothing
    assert await names(far) == {f"docker.io/{REPOSITORY}:v1"}


def registry_image(registry: Registry) -> Manifest:
    manifest = an_image(2_500_000, 10)
    registry.publish(REPOSITORY, manifest, "v1")
    return manifest


async def test_damaged_bundle_imports_nothing(tmp_path: Path, registry: Registry) -> None:
    """A flipped bit or a truncated file is reported with advice, and the image is not shown."""
    registry_image(registry)
    await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, tmp_path / "near"))
    await succeeded("export", "-o", tmp_path / "b.tar", "--all", "--cache", tmp_path / "near")
    whole = (tmp_path / "b.tar").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for name, body in (("flipped", bytes(flipped)), ("short", whole[: len(whole) // 2])):
        (tmp_path / f"{name}.tar").write_bytes(body)
        result = await mirror_command("import", tmp_path / f"{name}.tar", "--cache", tmp_path / name)
        assert result.status in {1, 2}, result
        assert result.err.endswith((": copy the bundle again\n", "; copy it again\n")), result
        assert await names(tmp_path / name) == set()


async def test_untagged_image_is_named_by_digest(tmp_path: Path, registry: Registry) -> None:
    """The image is listed, pinned and removed by its digest; a tag that an older bundle moves back is reported."""
    old, new, cache = an_image(100), an_image(200), tmp_path / "cache"
    for week, manifest in (("1", old), ("2", new)):
        registry.publish(REPOSITORY, manifest, "v1")
        await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, tmp_path / "near"))
        await succeeded("export", "-o", tmp_path / week, f"{REPOSITORY}:v1", "--cache", tmp_path / "near")
    result = await mirror_command("import", tmp_path / "1", tmp_path / "2", "--name", "q:1", "--cache", cache)
    assert result.status == 2, result
    assert "--name applies to a single bundle, but 2 were given" in result.err
    name = f"docker.io/{REPOSITORY}:v1"
    result = await succeeded("import", *(tmp_path / week for week in "1212"), "--cache", cache)
    forth, back = (f" (tag moved from {one.digest} to {two.digest})" for one, two in ((old, new), (new, old)))
    assert result.err.splitlines() == [f"{name}: imported{moved}" for moved in ("", forth, back, forth)]
    lost = f"docker.io/{REPOSITORY}@{old.digest}"
    await succeeded("pin", lost, "--cache", cache)
    assert lost in (await succeeded("ls", "--cache", cache)).out
    await succeeded("rm", lost, "--cache", cache)
    assert await names(cache) == {name}


async def test_pinned_images_are_kept_and_removed_images_deleted(tmp_path: Path, registry: Registry) -> None:
    """Pinned images survive a full cache; `rm` deletes only the blobs that no other image uses."""
    kept, base = an_image(400_000), Blob.noise(100_000)
    one, two = image_of(base, Blob.noise(50_000)), image_of(base, Blob.noise(60_000))
    for tag, manifest in (("kept", kept), ("one", one), ("two", two)):
        registry.publish(REPOSITORY, manifest, tag)
    cache = tmp_path / "cache"
    size = ("--max-size", "1000000")
    hub = ("--upstream", f"docker.io={registry.url}")
    async with (
        mirror(tmp_path / "run", "--cache", str(cache), *hub, *size) as running,
        Client.of(running.url) as client,
    ):
        await succeeded("warm", f"{REPOSITORY}:kept", "--pin", "--cache", cache)
        for number in range(6):
            registry.publish(REPOSITORY, an_image(300_000), f"filler{number}")
        fillers = [f"{REPOSITORY}:filler{number}" for number in range(6)]
        result = await mirror_command("warm", *fillers, "--jobs", "1", "--cache", cache)
        assert result.out.startswith("1 image cached, "), result
        assert result.err.count("blobs were evicted again") == 5, "images evicted for later ones are reported"
        assert f"docker.io/{REPOSITORY}:kept" in await complete(cache)
        await succeeded("rm", f"{REPOSITORY}:filler*", "--cache", cache)
        await succeeded("warm", f"{REPOSITORY}:one", f"{REPOSITORY}:two", "--cache", cache)
        await succeeded("rm", "team/*:on?", "--cache", cache)
        assert await complete(cache) == {f"docker.io/{REPOSITORY}:{tag}" for tag in ("kept", "two")}
        await asyncio.wait_for(registry.go_down(), 10)
        await assert_pulled(client, two, "two")
        await assert_pulled(client, kept, "kept")


async def complete(cache: Path) -> set[str]:
    result = await succeeded("ls", "--json", "--cache", cache)
    return {one["name"] for one in json.loads(result.out) if one["complete"]}


async def test_warm_reports_each_failed_image(tmp_path: Path, registry: Registry) -> None:
    """Each failed image is reported with the reason, also of images that a pattern matches; the others are warmed."""
    registry_image(registry)
    tags = {f"b{number}": an_image(100, 200) for number in range(3)}
    for tag, manifest in tags.items():
        registry.publish(REPOSITORY, manifest, tag)
    registry.inject(Status(404), f"*/blobs/{tags['b1'].blobs[2].digest}")
    names = (f"{REPOSITORY}:v1", f"{REPOSITORY}:absent", "nowhere.example/app:v1", f"{REPOSITORY}:x*")
    more = (f"{REPOSITORY}:b*", f"{REPOSITORY}:b0", "--jobs", "1")
    result = await mirror_command("warm", *names, *more, *at(registry, tmp_path / "cache"))
    assert result.status == 1, result
    assert result.out.startswith("3 images cached, ")
    for name in ("absent", "nowhere.example", "x*", f"{REPOSITORY}:b1: "):
        assert name in result.err
    assert result.err.count(":b0: ") == 1


IMPOSSIBLE = [
    ("warm",),
    ("warm", "--from", "/nonexistent"),
    ("warm", "--watch", "a:1"),
    ("export", "-o", "x.tar"),
    ("export", "-o", "x.tar", "absent:v1"),
    ("export", "-o", "x.tar", "--all"),
    ("export", "-o", "x.tar", "--all", "--split", "1kB"),
    ("import", "/nonexistent.tar"),
    ("import", "/nonexistent.tar/" + "x" * 300),
    ("pin", "absent:v1"),
    ("rm", "absent:*"),
]


async def test_impossible_arguments_are_reported_in_one_line(tmp_path: Path) -> None:
    """Impossible arguments are one line on standard error and status 2."""
    every = [mirror_command(*arguments, "--cache", tmp_path / str(n)) for n, arguments in enumerate(IMPOSSIBLE)]
    for arguments, result in zip(IMPOSSIBLE, await asyncio.gather(*every), strict=True):
        assert result.status == 2, (arguments, result)
        assert result.err.startswith("mirror: "), (arguments, result)
        assert "Traceback" not in result.err, (arguments, result)
