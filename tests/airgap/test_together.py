"""Commands beside a running mirror and beside each other."""

import asyncio
import json
from pathlib import Path

from tests.airgap.command import mirror_command, succeeded
from tests.airgap.test_refused import bundle
from tests.fake.content import Blob, image_of
from tests.http.client import Client
from tests.real.mirror import mirror


async def test_imports_and_collections_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Three imports of one bundle, while others collect, list, count and verify; all is there, and can go again."""
    base = Blob.noise(1_000_000)
    images = {f"docker.io/team/app{n % 3}:v{n}": image_of(base, Blob.noise(100_000)) for n in range(30)}
    archive, cache = bundle(tmp_path / "b.tar", images), tmp_path / "cache"
    done = asyncio.Event()

    async def again_and_again(*command: str) -> int:
        times = 0
        while not done.is_set():
            said = await mirror_command(*command, "--cache", cache)
            assert said.status == 0, said
            times += 1
        return times

    async with mirror(tmp_path / "run", "--cache", str(cache), "--offline") as running:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(again_and_again(name)) for name in ("gc", "ls", "stats", "verify")]
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
