"""What a bundle says and does not hold: refused image by image, and nothing of it is shown."""

import asyncio
import io
import json
import signal
from contextlib import closing
from pathlib import Path

import pytest

from mirror.airgap.bundle_writer import write_bundle
from mirror.airgap.contents import CarriedBlob, CarriedImage, Contents
from mirror.oci.digest import Digest
from tests.airgap.command import going_on, mirror_command, succeeded
from tests.fake.content import Manifest, image
from tests.real.mirror import mirror


def bundle(path: Path, images: dict[str, Manifest]) -> Path:
    """A bundle, as whoever has the format can make one."""
    blobs = {manifest.digest: manifest.content for manifest in images.values()}
    blobs = {blob.digest: blob.content for manifest in images.values() for blob in manifest.blobs} | blobs
    carried = [CarriedImage(name, Digest.parse(m.digest), m.media_type, m.size) for name, m in images.items()]
    listed = [CarriedBlob(Digest.parse(digest), len(content)) for digest, content in blobs.items()]
    contents = Contents(tuple(carried), tuple(listed))
    write_bundle(path, contents, lambda digest: closing(io.BytesIO(blobs[str(digest)])))
    return path


async def test_a_name_by_digest_is_that_of_nothing_else(tmp_path: Path) -> None:
    """Whoever pulls by digest relies on it; the image beside it comes in."""
    good, other = image(100), image(200)
    lie = f"docker.io/team/app@{good.digest}"
    carried = {lie: other, f"docker.io/team/app@{image(1).digest}": good, "team/app:v1": good}
    archive = bundle(tmp_path / "b.tar", carried)
    said = await mirror_command("import", archive, "--cache", tmp_path / "cache")
    assert said.status == 1, said
    assert f"{lie}: what the bundle calls {lie} is {other.digest}" in said.err
    listed = json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out)
    assert [one["name"] for one in listed] == ["docker.io/team/app:v1"]
    again = json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out)
    assert again[0]["used"] == pytest.approx(listed[0]["used"], abs=0.002), "to be listed is no use"


async def test_what_there_is_no_room_for_is_said_image_by_image(tmp_path: Path) -> None:
    """With the reason; the others come in."""
    archive = bundle(tmp_path / "b.tar", {"team/app:large": image(3_000_000), "team/app:small": image(100)})
    (tmp_path / "mirror.toml").write_text('[cache]\nmax_size = "1MB"\n')
    options = ("--cache", tmp_path / "cache", "--config", tmp_path / "mirror.toml")
    said = await mirror_command("import", archive, *options)
    assert said.status == 1, said
    large, small = said.err.splitlines()
    assert large.startswith("team/app:large: ")
    assert "no space for 3000000 bytes" in large
    assert small == "team/app:small: is here"


async def test_a_mirror_that_ends_in_the_middle_ends_the_import_with_a_word(tmp_path: Path) -> None:
    """What came is kept, and the next import goes on with it."""
    archive = bundle(tmp_path / "b.tar", {"team/app:v1": image(100), "team/app:v2": image(100_000_000)})
    async with mirror(tmp_path / "run", "--cache", str(tmp_path / "cache")) as running:
        async with going_on("import", archive, "--cache", tmp_path / "cache") as program:
            assert program.stderr is not None
            assert b"v1: is here" in await program.stderr.readline()
            running.program.signal(signal.SIGTERM)
            assert await running.program.ended() == 0
            _, err = await asyncio.wait_for(program.communicate(), 20)
        assert program.returncode == 1, err
        assert b"team/app:v2: " in err
        assert b"broke off" in err or b"no mirror answers" in err
        assert b"Traceback" not in err
    said = await succeeded("import", archive, "--cache", tmp_path / "cache")
    assert said.err.count("is here") == 2


async def test_a_socket_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    """Which, and why; nobody waits for another mirror then."""
    (tmp_path / "control.sock").mkdir()
    for command in (("ls",), ("serve", "--listen", "127.0.0.1:0")):
        said = await mirror_command(*command, "--cache", tmp_path)
        assert said.status == 2, said
        assert f"mirror: the socket {tmp_path}/control.sock" in said.err
        assert "Is a directory" in said.err
