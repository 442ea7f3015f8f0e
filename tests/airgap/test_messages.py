"""Wording of messages of the commands."""

from pathlib import Path

from tests.airgap.command import succeeded
from tests.airgap.test_refused_images import bundle
from tests.fake.content import image


async def test_counts_of_one_are_singular(tmp_path: Path) -> None:
    """Counts of images and blobs use the singular for one."""
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
