"""Bundles with inconsistent or oversized images: refused image by image, and no part of a refused image is shown."""

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
from tests.airgap.command import mirror_command, running_command, succeeded
from tests.fake.content import Manifest, image
from tests.real.mirror import mirror


def bundle(path: Path, images: dict[str, Manifest]) -> Path:
    """Write a bundle of these images, with names and digests as given."""
    blobs = {manifest.digest: manifest.content for manifest in images.values()}
    blobs = {blob.digest: blob.content for manifest in images.values() for blob in manifest.blobs} | blobs
    carried = [CarriedImage(name, Digest.parse(m.digest), m.media_type, m.size) for name, m in images.items()]
    listed = [CarriedBlob(Digest.parse(digest), len(content)) for digest, content in blobs.items()]
    contents = Contents(tuple(carried), tuple(listed))
    write_bundle(path, contents, lambda digest: closing(io.BytesIO(blobs[str(digest)])))
    return path


async def test_import_refuses_image_under_a_wrong_digest(tmp_path: Path) -> None:
    """A pull by digest relies on the digest, so an image under a wrong one is refused; other images are imported."""
    good, other = image(100), image(200)
    lie = f"docker.io/team/app@{good.digest}"
    carried = {lie: other, f"docker.io/team/app@{image(1).digest}": good, "team/app:v1": good}
    archive = bundle(tmp_path / "b.tar", carried)
    result = await mirror_command("import", archive, "--cache", tmp_path / "cache")
    assert result.status == 1, result
    assert f"{lie}: the bundle names {lie}, but contains {other.digest} for it: export it again" in result.err
    listed = json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out)
    assert [one["name"] for one in listed] == ["docker.io/team/app:v1"]
    again = json.loads((await succeeded("ls", "--json", "--cache", tmp_path / "cache")).out)
    assert again[0]["used"] == pytest.approx(listed[0]["used"], abs=0.002), "listing an image must not count as its use"


async def test_import_reports_each_image_that_does_not_fit(tmp_path: Path) -> None:
    """An image larger than the cache is refused with the reason; the other images are imported."""
    archive = bundle(tmp_path / "b.tar", {"team/app:large": image(3_000_000), "team/app:small": image(100)})
    (tmp_path / "mirror.toml").write_text('[cache]\nmax_size = "1MB"\n')
    options = ("--cache", tmp_path / "cache", "--config", tmp_path / "mirror.toml")
    result = await mirror_command("import", archive, *options)
    assert result.status == 1, result
    large, small = result.err.splitlines()
    assert large.startswith("team/app:large: ")
    assert ": 3000000 bytes do not fit: the cache has " in large
    assert small == "team/app:small: imported"


async def test_import_reports_mirror_that_stops(tmp_path: Path) -> None:
    """Finished images are kept, and the next import continues with the rest."""
    archive = bundle(tmp_path / "b.tar", {"team/app:v1": image(100), "team/app:v2": image(100_000_000)})
    async with mirror(tmp_path / "run", "--cache", str(tmp_path / "cache")) as running:
        async with running_command("import", archive, "--cache", tmp_path / "cache") as program:
            assert program.stderr is not None
            assert b"v1: imported" in await program.stderr.readline()
            running.program.signal(signal.SIGTERM)
            assert await running.program.ended() == 0
            _, err = await asyncio.wait_for(program.communicate(), 20)
        assert program.returncode == 1, err
        assert b"team/app:v2: " in err
        assert b"broke off" in err or b"no mirror answers" in err
        assert b"Traceback" not in err
    result = await succeeded("import", archive, "--cache", tmp_path / "cache")
    assert result.err.count(": imported\n") == 2


async def test_uncreatable_control_socket_is_reported(tmp_path: Path) -> None:
    """The error has the path and the reason; the mirror does not wait for another mirror."""
    (tmp_path / "control.sock").mkdir()
    for command in (("ls",), ("serve", "--listen", "127.0.0.1:0")):
        result = await mirror_command(*command, "--cache", tmp_path)
        assert result.status == 2, result
        assert f"mirror: the socket {tmp_path}/control.sock" in result.err
        assert "Is a directory" in result.err
