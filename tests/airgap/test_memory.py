"""Memory of import and export does not depend on the size of the bundle."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path

from tests.fake.content import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from tests.real.mirror import environment
from tests.real.program import succeeded

MIB = 2**20
SMALL, LARGE = 8 * MIB, 200 * MIB
PEAK = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)"
PEAK += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # KiB


def layout(place: Path, size: int) -> Path:
    """Write an image layout with one layer of *size* zero bytes, stored as a sparse file."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    hashed = hashlib.sha256()
    for _ in range(size // MIB):
        hashed.update(bytes(MIB))
    with (blobs / hashed.hexdigest()).open("wb") as layer:
        layer.truncate(size)

    def stored(content: dict[str, object], media_type: str) -> dict[str, object]:
        body = json.dumps(content).encode()
        name = hashlib.sha256(body).hexdigest()
        (blobs / name).write_bytes(body)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(body)}

    config = stored({"os": "linux"}, OCI_CONFIG)
    layers = [{"mediaType": OCI_LAYER, "digest": f"sha256:{hashed.hexdigest()}", "size": size}]
    manifest = stored({"schemaVersion": 2, "config": config, "layers": layers}, OCI_MANIFEST)
    named = {**manifest, "annotations": {"org.opencontainers.image.ref.name": "team/app:v1"}}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return place


async def peaks(directory: Path, size: int) -> list[int]:
    """Return the peak memory in bytes of an import, an export, gzip, and imports of the bundle and of the .gz file."""
    source = layout(directory / "layout", size)
    bundle, caches = directory / "b.tar", [directory / name for name in ("near", "far", "farther")]
    commands = [
        ["mirror", "import", source, "--cache", caches[0]],
        ["mirror", "export", "-o", bundle, "--all", "--cache", caches[0]],
        ["mirror", "import", bundle, "--cache", caches[1]],
        ["gzip", "--fast", bundle],
        ["mirror", "import", f"{bundle}.gz", "--cache", caches[2]],
    ]
    peak = (sys.executable, "-c", PEAK, sys.executable, "-m")
    return [1024 * int(await succeeded(*peak, *map(str, one), env=environment())) for one in commands]


async def test_memory_does_not_grow_with_bundle_size(tmp_path: Path) -> None:
    """Bundles of 8 and 200 MiB differ by less than 24 MiB of peak memory."""
    small, large = await asyncio.gather(peaks(tmp_path / "small", SMALL), peaks(tmp_path / "large", LARGE))
    more = [after - before for before, after in zip(small, large, strict=True)]
    assert max(more) < 24 * MIB, (small, large)
