"""CI job: a runtime, a database and a tool image, and their pull by dockerd on a fresh machine."""

import asyncio
import io
import json
import random
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.line import THERE, Line
from bench.servers import BenchError, Server, answers, program, running
from tests.real.docker import docker
from tests.real.images import Image, assembled
from tests.real.machine import unmet
from tests.real.registry import Registry, docker_registry

_MIB = 1 << 20
_BASE = 28  # MiB of the base layer that runtime and database share
IMAGES: Mapping[str, tuple[int, ...]] = {
    "library/runtime": (_BASE, 15, 20, 4, 1),
    "library/database": (_BASE, 4, 26, 1),
    "library/tool": (7,),
}
"""Compressed sizes of the layers in MiB."""
_PORT = 5000
_COMPRESSION = 2.6  # bytes of files per byte of compressed layer, as in Debian images
_FILE_SIZE = 24 << 10  # bytes


def prepare(folder: Path) -> int:
    """Push the images to the storage of a docker-registry in *folder*. Return their total size in bytes.

    Raises:
        BenchError: if this machine lacks a program that the job needs.
    """
    missing = unmet(("containerd", "docker", "docker-registry", "dockerd", "ip"), root=True)
    if missing:
        raise BenchError(missing)

    async def push() -> int:
        async with docker_registry(folder) as registry:
            return sum([await _push(registry, name, layers) for name, layers in IMAGES.items()])

    return asyncio.run(push()) - _BASE * _MIB


async def _push(registry: Registry, name: str, layers: tuple[int, ...]) -> int:
    image = _image(name, layers)
    await registry.push(image, name, "1")
    return sum(len(blob.content) for blob in image.blobs)


def _image(name: str, layers: tuple[int, ...]) -> Image:
    return assembled([_tar("base" if size == _BASE else f"{name}-{n}", size) for n, size in enumerate(layers)])


def _tar(seed: str, size: int) -> bytes:
    """Return a tar of files that gzip compresses to *size* MiB."""
    generator = random.Random(seed)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(int(size * _MIB * _COMPRESSION) // _FILE_SIZE):
            entry = tarfile.TarInfo(f"opt/{seed}/{number // 100}/{number}")
            entry.size, entry.mode = _FILE_SIZE, 0o644
            noise = generator.randbytes(int(_FILE_SIZE / _COMPRESSION))
            tar.addfile(entry, io.BytesIO(noise + bytes(_FILE_SIZE - len(noise))))
    return packed.getvalue()


@contextmanager
def far_registry(folder: Path, line: Line) -> Iterator[Server]:
    """Run docker-registry with the pushed images at the far end of the link."""
    configuration = folder / "far.json"
    configuration.write_text(
        json.dumps(
            {
                "version": "0.1",
                "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
                "http": {"addr": f"{THERE}:{_PORT}"},
            }
        )
    )
    command = [*line.command, program("docker-registry"), "serve", str(configuration)]
    with running(command, folder / "far.log", answers(_PORT, THERE), host=THERE) as server:
        yield server


def seconds(registry_mirror: str) -> float:
    """Return the seconds that a fresh dockerd with this `registry-mirrors` takes to pull the images sequentially.

    Raises:
        BenchError: if a pull fails.
    """

    async def pull() -> float:
        async with docker(registry_mirror) as engine:
            began = time.monotonic()
            for name in IMAGES:
                await engine.pull(f"{name.removeprefix('library/')}:1")
            return time.monotonic() - began

    try:
        return asyncio.run(pull())
    except AssertionError as error:
        raise BenchError(f"dockerd could not pull: {str(error)[-300:]}") from error
