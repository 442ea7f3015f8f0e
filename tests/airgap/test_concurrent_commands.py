"""Commands at the same time as a running mirror and as each other."""

import asyncio
import json
from pathlib import Path

from tests.airgap.command import mirror_command, succeeded
from tests.airgap.test_refused_images import bundle
from tests.fake.content import Blob, image_of
from tests.http.client import Client
from tests.real.mirror import mirror


async def test_concurrent_imports_and_gc_lose_nothing(tmp_path: Path) -> None:
    """Three imports of one bundle during gc, ls, stats and verify: all images are complete, and can be removed."""
    base = Blob.noise(1_000_000)
    images = {f"docker.io/team/app{n % 3}:v{n}": image_of(base, Blob.noise(100_000)) for n in range(30)}
    archive, cache = bundle(tmp_path / "b.tar", images), tmp_path / "cache"
    done = asyncio.Event()

    async def repeat(*command: str) -> int:
        times = 0
        while not done.is_set():
            result = await mirror_command(*command, "--cache", cache)
            assert result.status == 0, result
            times += 1
        return times

    async with mirror(tmp_path / "run", "--cache", str(cache), "--offline") as running:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(repeat(name)) for name in ("gc", "ls", "stats", "verify")]
            await asyncio.gather(*(succeeded("import", archive, "--cache", cache) for _ in range(3)))
            done.set()
        assert all(task.result() for task in beside)
        async with Client.of(running.url) as client:
            for name, manifest in images.items():
                repository, _, tag = name.removeprefix("docker.io/").partition(":")
                assert (await client.get(f"/v2/{repository}/manifests/{tag}")).body == manifest.content
                for blob in manifest.blobs:
                    assert (await client.get(f"/v2/{repository}/blobs/{blob.digest}")).body == blob.content
        await succeeded("rm", "team/*", "--cache", cache)
        assert json.loads((await succeeded("stats", "--json", "--cache", cache)).out)["blobs"] == 0
        assert not [event for event in running.events() if event.get("level") in {"warning", "error"}]
