"""File systems of a test's own: small ones, and places that can be read only."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mount(*arguments: str) -> None:
    """mount, as it is called on a command line."""
    subprocess.run(["mount", *arguments], check=True)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of *size* bytes at *place*, in memory."""
    place.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def read_only(*places: Path) -> Iterator[None]:
    """Nothing can be written to these directories, by root neither."""
    mounted: list[Path] = []
    try:
        for place in places:
            mount("--bind", str(place), str(place))
            mounted.append(place)
            mount("-o", "remount,ro,bind", str(place))
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
