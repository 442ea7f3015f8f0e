"""Mounts for tests: small file systems, and read-only directories."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mount(*arguments: str) -> None:
    """Run mount with these arguments."""
    subprocess.run(["mount", *arguments], check=True)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """Mount a tmpfs of *size* bytes at *place*."""
    place.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def read_only(*places: Path) -> Iterator[None]:
    """Make these directories read-only, for root too."""
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
