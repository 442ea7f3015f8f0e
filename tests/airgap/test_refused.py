"""What a bundle says and does not hold: refused image by image, and nothing of it is shown."""

import io
import json
from contextlib import closing
from pathlib import Path

from mirror.airgap.contents import CarriedBlob, CarriedImage, Contents
from mirror.airgap.writing import write_bundle
from mirror.oci.digest import Digest
from tests.airgap.command import mirror_command, succeeded
from tests.fake.content import Manifest, image


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
