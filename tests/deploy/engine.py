"""A Docker engine in its own network namespace, with the mirror's image built by deploy/docker/Dockerfile."""

import hashlib
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.base_image import write_base
from tests.deploy.files import ROOT
from tests.fake import content
from tests.fake.registry import Registry
from tests.real.docker import Docker, docker
from tests.real.images import Image
from tests.real.network import Network, network
from tests.real.program import succeeded

HERE = "10.77.0.1"  # the namespace's address, which containers can reach too
CONTEXT = ("pyproject.toml", "README.md", "LICENSE", ".dockerignore", "requirements", "mirror", "deploy")
MIRROR = "mirror"  # name of the image
NETWORK = "site"  # network of the containers that publish a port


@dataclass(frozen=True, slots=True)
class Site:
    """A Docker engine whose registry mirror is 127.0.0.1:5000, and an upstream in the role of Docker Hub."""

    net: Network
    engine: Docker
    hub: Registry

    @property
    def upstream(self) -> str:
        """Return the value of MIRROR_UPSTREAM for a container."""
        return f"docker.io={self.hub.url}"

    def publish(self, name: str, image: Image, tag: str) -> None:
        """Push an image that can be run."""
        blobs = tuple(content.Blob.of(blob.content) for blob in image.blobs)
        manifest = content.Manifest.of(image.manifest.content, image.manifest.media_type, blobs=blobs)
        self.hub.publish(name, manifest, tag)


async def wheels() -> Path:
    """Return a directory with the image's Python packages; downloaded once for each lock file and kept in the venv."""
    lock = ROOT / "requirements" / "run.txt"
    kept = Path(sys.prefix) / "wheels" / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not kept.exists():
        partial = kept.with_suffix(".part")
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ]
        await succeeded(*fetch, "--requirement", str(lock), "--dest", str(partial), within=240)
        partial.rename(kept)
    return kept


async def build(engine: Docker, directory: Path) -> None:
    """Build the image from the project's files and the wheels only."""
    write_base(directory / "base.tar")
    await engine.make("base", directory / "base.tar")
    context = directory / "context"
    context.mkdir()
    for name in CONTEXT:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, context / name)
    shutil.copytree(await wheels(), context / "wheels")
    await engine.build(MIRROR, context, "deploy/docker/Dockerfile", BASE="base", PIP_NO_INDEX="1")


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    """Yield a site, which is stopped with the block."""
    with network(f"{HERE}/32") as net:
        async with (
            Registry.running(HERE, listening=net.listening) as hub,
            docker("http://127.0.0.1:5000", network=net) as engine,
        ):
            await engine.create_network(NETWORK)
            await build(engine, directory)
            yield Site(net, engine, hub)
