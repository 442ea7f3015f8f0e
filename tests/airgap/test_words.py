"""What commands say to people."""

from pathlib import Path

from tests.airgap.command import succeeded
from tests.airgap.test_refused import bundle
from tests.fake.content import image


async def test_one_is_no_plural(tmp_path: Path) -> None:
    """Of images, and of blobs."""
    cache = ("--cache", tmp_path / "cache")
    manifest = image(100)
    archive = bundle(tmp_path / "b.tar", {"team/app:v1": manifest})
    await succeeded("import", archive, *cache)
    assert (await succeeded("stats", *cache)).out.startswith("1 image, 1 pinned, 0 incomplete; 3 blobs, ")
    assert (await succeeded("verify", *cache)).out.startswith("3 blobs, ")
    for lost in manifest.blobs:
        (tmp_path / "cache/blobs/sha256" / lost.digest.partition(":")[2]).unlink()
    assert (await succeeded("stats", *cache)).out.startswith("1 image, 1 pinned, 1 incomplete; 1 blob, ")
    assert (await succeeded("verify", *cache)).out.startswith("1 blob, ")
