"""Demo (`make demo`): a real client pulls an image through the mirror, and again with the upstream switched off.

All programs are real and local: docker-registry as the upstream, and dockerd (or skopeo, without root) as the client.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from tests.real import images
from tests.real.docker import Docker, docker
from tests.real.machine import unmet
from tests.real.mirror import Mirror, mirror
from tests.real.program import short_directory
from tests.real.registry import Registry, docker_registry
from tests.real.skopeo import Skopeo

BALLAST = 64 * 2**20  # bytes of random content in the image, which make its transfer measurable
REPOSITORY = "demo/app"
GREETING = "hello from a container"
DOCKERD = ("containerd", "docker", "dockerd")


class Client(Protocol):
    """A client that pulls the image."""

    name: str

    async def pull(self) -> None:
        """Pull the image."""

    async def proof(self) -> str:
        """Return a line that shows that the image works."""

    async def forget(self) -> None:
        """Delete the client's copy of the image."""


class DockerClient:
    """dockerd, configured with `registry-mirrors` only."""

    name = "dockerd"
    _reference = f"{REPOSITORY}:1"

    def __init__(self, engine: Docker) -> None:
        self._engine = engine

    async def pull(self) -> None:
        await self._engine.pull(self._reference)

    async def proof(self) -> str:
        return f"docker run {self._reference} says: {(await self._engine.run(self._reference)).strip()}"

    async def forget(self) -> None:
        await self._engine.forget(self._reference)


class SkopeoClient:
    """skopeo, with the mirror's address in the image name."""

    name = "skopeo"

    def __init__(self, directory: Path, host: str) -> None:
        self._skopeo = Skopeo(directory)
        self._reference = f"{host}/docker.io/{REPOSITORY}:1"
        self._copy: Path | None = None

    async def pull(self) -> None:
        self._copy = await self._skopeo.copy(self._reference)

    async def proof(self) -> str:
        assert self._copy
        return f"skopeo copy {self._reference} holds {len(list(self._copy.iterdir()))} files"

    async def forget(self) -> None:
        assert self._copy
        shutil.rmtree(self._copy)


@asynccontextmanager
async def client(directory: Path, mirrored: Mirror) -> AsyncIterator[Client]:
    """Yield dockerd if it can run on this machine, else skopeo."""
    if unmet(DOCKERD, root=True) is None:
        async with docker(mirrored.url) as engine:
            yield DockerClient(engine)
    else:
        yield SkopeoClient(directory / "skopeo", mirrored.host)


@dataclass(frozen=True, slots=True)
class Pull:
    """Cost of one pull."""

    requests: int  # received by the upstream
    upstream_bytes: int
    client_bytes: float
    seconds: float
    proof: str


async def pulled(puller: Client, mirrored: Mirror, upstream: Registry) -> Pull:
    """Pull, and measure at both ends: in the upstream's access log and the mirror's metrics."""
    seen, served = len(upstream.accesses()), await mirrored.total("mirror_served_bytes_total")
    began = time.monotonic()
    await puller.pull()
    seconds = time.monotonic() - began
    served = await mirrored.total("mirror_served_bytes_total") - served
    asked = upstream.accesses()[seen:]
    return Pull(len(asked), sum(access.size for access in asked), served, seconds, await puller.proof())


def table(name: str, miss: Pull, hit: Pull) -> Table:
    """Return a table that compares the miss with the hit."""
    shown = Table(title=f"{REPOSITORY}, pulled by {name}", title_style="bold")
    shown.caption = "All programs run on this machine; most of the time is the client unpacking the image."
    shown.add_column()
    shown.add_column("miss\n(empty cache)", justify="right")
    shown.add_column("hit\n(upstream off)", justify="right")
    shown.add_row("requests to upstream", str(miss.requests), str(hit.requests))
    shown.add_row("bytes from upstream", _mebibytes(miss.upstream_bytes), _mebibytes(hit.upstream_bytes))
    shown.add_row("bytes to the client", _mebibytes(miss.client_bytes), _mebibytes(hit.client_bytes))
    shown.add_row("seconds", f"{miss.seconds:.2f}", f"{hit.seconds:.2f}")
    return shown


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count else "0"


async def demonstrate(console: Console, directory: Path) -> None:
    async with docker_registry(directory / "upstream") as upstream:
        await upstream.push(images.runnable(GREETING, ballast=BALLAST), REPOSITORY, "1")
        async with (
            mirror(directory / "mirror", upstreams={"docker.io": upstream.url}) as mirrored,
            client(directory, mirrored) as puller,
        ):
            console.print(f"upstream  docker-registry at {upstream.url}\nmirror    {mirrored.url}, its cache empty")
            miss = await pulled(puller, mirrored, upstream)
            console.print(f"miss      {miss.proof}")
            await puller.forget()
            await upstream.stop()
            console.print("upstream  switched off; the client's copy of the image deleted")
            hit = await pulled(puller, mirrored, upstream)
            console.print(f"hit       {hit.proof}\n")
            console.print(table(puller.name, miss, hit))


def main() -> None:
    missing = unmet(("busybox", "docker-registry"), root=False)
    if unmet(DOCKERD, root=True):
        missing = missing or unmet(("skopeo",), root=False)
    if missing:
        sys.exit(f"demo {missing}")
    for name in [name for name in os.environ if name.startswith("MIRROR_")]:
        del os.environ[name]  # the demo uses the defaults
    with short_directory("demo") as directory:
        asyncio.run(demonstrate(Console(highlight=False), directory))


if __name__ == "__main__":
    main()
