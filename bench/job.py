"""A CI job's images and their pull: a runtime, a database and a tool, as dockerd on a fresh machine gets them."""

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
_BASE = 28  # MiB of layer that runtime and database are both built on
IMAGES: Mapping[str, tuple[int, ...]] = {
    "library/runtime": (_BASE, 15, 20, 4, 1),
    "library/database": (_BASE, 4, 26, 1),
    "library/tool": (7,),
}
"""Sizes of the layers, in MiB as they are transferred."""
_PORT = 5000
_SHRINKS = 2.6  # how many bytes of files a byte of layer is, as in images of Debian
_FILE = 24 << 10  # bytes


def prepare(folder: Path) -> int:
    """Pushes the images into the storage of a docker-registry in *folder*; says how many bytes they are.

    Raises:
        BenchError: this machine can't run the job.
    """
    cure = unmet(("containerd", "docker", "docker-registry", "dockerd", "ip"), root=True)
    if cure:
        raise BenchError(cure)

    async def push() -> int:
        async with docker_registry(folder) as registry:
            return sum([await _pushed(registry, name, layers) for name, layers in IMAGES.items()])

    return asyncio.run(push()) - _BASE * _MIB


async def _pushed(registry: Registry, name: str, layers: tuple[int, ...]) -> int:
    image = _image(name, layers)
    await registry.push(image, name, "1")
    return sum(len(blob.content) for blob in image.blobs)


def _image(name: str, layers: tuple[int, ...]) -> Image:
    return assembled([_tar("base" if size == _BASE else f"{name}-{n}", size) for n, size in enumerate(layers)])


def _tar(seed: str, size: int) -> bytes:
    """Files that gzip makes *size* MiB of."""
    dice = random.Random(seed)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(int(size * _MIB * _SHRINKS) // _FILE):
            entry = tarfile.TarInfo(f"opt/{seed}/{number // 100}/{number}")
            entry.size, entry.mode = _FILE, 0o644
            noise = dice.randbytes(int(_FILE / _SHRINKS))
            tar.addfile(entry, io.BytesIO(noise + bytes(_FILE - len(noise))))
    return packed.getvalue()


@contextmanager
def far_registry(folder: Path, line: Line) -> Iterator[Server]:
    """docker-registry with what was pushed, at the far end of the line."""
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
    """How long a fresh dockerd takes to pull the images one after the other, when it is told of that address.

    Raises:
        BenchError: a pull failed.
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
