"""From an upstream into a bundle, and out of it behind a mirror that never sees the upstream."""

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
    """Docker Hub, for the side that sees it."""
    async with Registry.running() as registry:
        yield registry


def at(registry: Registry, cache: Path) -> tuple[str, ...]:
    return ("--cache", str(cache), "--upstream", f"docker.io={registry.url}")


def an_image(*layers: int) -> Manifest:
    return image(*layers)


async def pulled(client: Client, manifest: Manifest, tag: str | None = None) -> None:
    """An image is there whole: by tag, by digest, and each of its blobs."""
    references = [manifest.digest, *([] if tag is None else [tag])]
    for reference in references:
        reply = await client.get(f"/v2/{REPOSITORY}/manifests/{reference}")
        assert (reply.status, reply.body) == (200, manifest.content), reply
        assert reply.headers["Content-Type"] == manifest.media_type
    for child in manifest.children:
        await pulled(client, child)
    for blob in manifest.blobs:
        reply = await client.get(f"/v2/{REPOSITORY}/blobs/{blob.digest}")
        assert (reply.status, reply.body) == (200, blob.content), reply


async def names(cache: Path) -> set[str]:
    said = await succeeded("ls", "--json", "--cache", cache)
    return {one["name"] for one in json.loads(said.out)}


async def test_a_week_and_the_next_are_carried_over(tmp_path: Path, registry: Registry) -> None:
    """Warm, export, import, pull; then a tag moves, and only what is new is carried."""
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
    told = await succeeded(
        *("export", "-o", tmp_path / "week2.tar", f"{REPOSITORY}:v1"),
        *("--since", tmp_path / "week1.tar.json", "--cache", near),
    )
    assert (tmp_path / "week2.tar").stat().st_size < 40_000, told
    for since in ("week1.tar", "week1.tar.json"):
        again = ("export", "-o", tmp_path / "week1.tar", "--all", "--since", tmp_path / since, "--cache", near)
        said = await mirror_command(*again)
        assert said.status == 2, said
        assert "name another bundle" in said.err
    await registry.go_down()

    await succeeded("import", tmp_path / "week1.tar", "--cache", far)
    async with mirror(tmp_path / "run", "--cache", str(far), "--offline") as offline, Client.of(offline.url) as client:
        await pulled(client, first, "v1")
        await pulled(client, many, "many")
        said = await succeeded("import", tmp_path / "week2.tar", "--cache", far)  # beside the running mirror
        assert said.err == f"docker.io/{REPOSITORY}:v1: is here, now {second.digest}, was {first.digest}\n"
        await pulled(client, second, "v1")
        assert (await client.get(f"/v2/{REPOSITORY}/manifests/absent")).status == 404


async def test_without_what_it_builds_on_nothing_of_an_image_is_shown(tmp_path: Path, registry: Registry) -> None:
    """The second week's bundle alone: it says what is missing, and leaves nothing half visible."""
    base = Blob.noise(300_000)
    registry.publish(REPOSITORY, image_of(base), "v1")
    near, far = tmp_path / "near", tmp_path / "far"
    await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, near))
    await succeeded("export", "-o", tmp_path / "week1.tar", "--all", "--cache", near)
    registry.publish(REPOSITORY, image_of(base, Blob.noise(10)), "v1")
    await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, near))
    await succeeded("export", "-o", tmp_path / "w2.tar", "--all", "--since", tmp_path / "week1.tar", "--cache", near)

    said = await mirror_command("import", tmp_path / "w2.tar", "--cache", far)
    assert said.status == 1, said
    assert "is not in the cache" in said.err
    assert "earlier bundle" in said.err
    assert await names(far) == set()


async def test_an_import_beside_a_running_mirror_is_seen_by_it_at_once(tmp_path: Path, registry: Registry) -> None:
    """As is a warming: it goes through the mirror that runs, which holds the cache."""
    near, far = tmp_path / "near", tmp_path / "far"
    manifest = registry_image(registry)
    hub = ("--upstream", f"docker.io={registry.url}")
    async with mirror(tmp_path / "run", "--cache", str(near), *hub) as running, Client.of(running.url) as client:
        await succeeded("warm", f"{REPOSITORY}:v1", "--pin", "--cache", near)
        await registry.go_down()
        await pulled(client, manifest, "v1")
        assert await names(near) == {f"docker.io/{REPOSITORY}:v1"}
        await succeeded("export", "-o", tmp_path / "b.tar", "--pinned", "--split", "1MiB", "--cache", near)
    assert len(list(tmp_path.glob("b.tar.0*"))) > 1
    await succeeded("import", tmp_path / "b.tar", "--cache", far)
    await succeeded("import", tmp_path / "b.tar.001", "--cache", far)  # once more changes nothing
    assert await names(far) == {f"docker.io/{REPOSITORY}:v1"}


def registry_image(registry: Registry) -> Manifest:
    manifest = an_image(2_500_000, 10)
    registry.publish(REPOSITORY, manifest, "v1")
    return manifest


async def test_a_broken_bundle_brings_nothing(tmp_path: Path, registry: Registry) -> None:
    """A flipped bit or a missing end is told, by name, and the image does not appear."""
    registry_image(registry)
    await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, tmp_path / "near"))
    await succeeded("export", "-o", tmp_path / "b.tar", "--all", "--cache", tmp_path / "near")
    whole = (tmp_path / "b.tar").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for name, body in (("flipped", bytes(flipped)), ("short", whole[: len(whole) // 2])):
        (tmp_path / f"{name}.tar").write_bytes(body)
        said = await mirror_command("import", tmp_path / f"{name}.tar", "--cache", tmp_path / name)
        assert said.status in {1, 2}, said
        assert said.err.endswith((": copy the bundle again\n", "; copy it again\n")), said
        assert await names(tmp_path / name) == set()


async def test_an_image_that_lost_its_tag_has_its_digest_for_a_name(tmp_path: Path, registry: Registry) -> None:
    """By which it is listed, pinned and removed; what an older bundle moves back is told."""
    old, new, cache = an_image(100), an_image(200), tmp_path / "cache"
    for week, manifest in (("1", old), ("2", new)):
        registry.publish(REPOSITORY, manifest, "v1")
        await succeeded("warm", f"{REPOSITORY}:v1", *at(registry, tmp_path / "near"))
        await succeeded("export", "-o", tmp_path / week, f"{REPOSITORY}:v1", "--cache", tmp_path / "near")
    said = await mirror_command("import", tmp_path / "1", tmp_path / "2", "--name", "q:1", "--cache", cache)
    assert said.status == 2, said
    assert "--name applies to the image of one bundle" in said.err
    name = f"docker.io/{REPOSITORY}:v1"
    said = await succeeded("import", *(tmp_path / week for week in "1212"), "--cache", cache)
    forth, back = ((f"now {one.digest}, was {two.digest}") for one, two in ((new, old), (old, new)))
    assert said.err.splitlines() == [
        f"{name}: is here{moved}" for moved in ("", f", {forth}", f", {back}", f", {forth}")
    ]
    lost = f"docker.io/{REPOSITORY}@{old.digest}"
    await succeeded("pin", lost, "--cache", cache)
    assert lost in (await succeeded("ls", "--cache", cache)).out
    await succeeded("rm", lost, "--cache", cache)
    assert await names(cache) == {name}


async def test_what_is_pinned_is_not_evicted_and_what_is_removed_is_gone(tmp_path: Path, registry: Registry) -> None:
    """Pins hold against a full cache; rm takes what only that image had."""
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
        said = await mirror_command("warm", *fillers, "--jobs", "1", "--cache", cache)
        assert said.out.startswith("1 image here, "), said
        assert said.err.count("blobs were evicted again") == 5, "an image that a later one evicted is reported"
        assert f"docker.io/{REPOSITORY}:kept" in await complete(cache)
        await succeeded("rm", f"{REPOSITORY}:filler*", "--cache", cache)
        await succeeded("warm", f"{REPOSITORY}:one", f"{REPOSITORY}:two", "--cache", cache)
        await succeeded("rm", "team/*:on?", "--cache", cache)
        assert await complete(cache) == {f"docker.io/{REPOSITORY}:{tag}" for tag in ("kept", "two")}
        await asyncio.wait_for(registry.go_down(), 10)
        await pulled(client, two, "two")
        await pulled(client, kept, "kept")


async def complete(cache: Path) -> set[str]:
    said = await succeeded("ls", "--json", "--cache", cache)
    return {one["name"] for one in json.loads(said.out) if one["complete"]}


async def test_what_could_not_be_had_is_said(tmp_path: Path, registry: Registry) -> None:
    """Which, and why; the others are here all the same, also of those that one pattern means."""
    registry_image(registry)
    tags = {f"b{number}": an_image(100, 200) for number in range(3)}
    for tag, manifest in tags.items():
        registry.publish(REPOSITORY, manifest, tag)
    registry.inject(Status(404), f"*/blobs/{tags['b1'].blobs[2].digest}")
    names = (f"{REPOSITORY}:v1", f"{REPOSITORY}:absent", "nowhere.example/app:v1", f"{REPOSITORY}:x*")
    more = (f"{REPOSITORY}:b*", f"{REPOSITORY}:b0", "--jobs", "1")
    said = await mirror_command("warm", *names, *more, *at(registry, tmp_path / "cache"))
    assert said.status == 1, said
    assert said.out.startswith("3 images here")
    for name in ("absent", "nowhere.example", "x*", f"{REPOSITORY}:b1: "):
        assert name in said.err
    assert said.err.count(":b0: ") == 1


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


async def test_what_can_not_be_done_is_said_in_a_line(tmp_path: Path) -> None:
    """With what to do about it, and status 2."""
    every = [mirror_command(*arguments, "--cache", tmp_path / str(n)) for n, arguments in enumerate(IMPOSSIBLE)]
    for arguments, said in zip(IMPOSSIBLE, await asyncio.gather(*every), strict=True):
        assert said.status == 2, (arguments, said)
        assert said.err.startswith("mirror: "), (arguments, said)
        assert "Traceback" not in said.err, (arguments, said)
