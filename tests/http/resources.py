"""What the mirror's process takes of its machine, as the kernel tells it."""

import os
from pathlib import Path

MIB = 2**20


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_files(pid: int) -> tuple[str, ...]:
    """What a process has open, by name; of what has none (a socket) the kind."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}").partition(":[")[0])
        except FileNotFoundError:
            continue  # closed meanwhile
    return tuple(sorted(found))


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    return _status(pid, "VmRSS")


def most_resident(pid: int) -> int:
    """Bytes of memory that a process had at its worst, since that was forgotten last."""
    return _status(pid, "VmHWM")


def forget_most_resident(pid: int) -> None:
    """The worst is what is there now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
