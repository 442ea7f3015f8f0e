"""Resource use of the mirror's process, read from /proc."""

import os
from pathlib import Path

MIB = 2**20


def descriptors(pid: int) -> int:
    """Return the number of open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_files(pid: int) -> tuple[str, ...]:
    """Return the names of a process's open files; of nameless ones (sockets) the kind."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}").partition(":[")[0])
        except FileNotFoundError:
            continue  # closed in the meantime
    return tuple(sorted(found))


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return _status(pid, "VmRSS")


def peak_memory(pid: int) -> int:
    """Return the peak resident memory of a process since the last reset, in bytes."""
    return _status(pid, "VmHWM")


def reset_peak_memory(pid: int) -> None:
    """Reset the peak to the current value."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
