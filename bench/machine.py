"""What the kernel knows of this machine and of a process and its children."""

import mmap
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROCESS_CPU_CLOCK = 2  # CPUCLOCK_SCHED, the kind of clock that clock_getcpuclockid(3) gives
_QUIET_WINDOW = 0.3  # seconds
_QUIET_SHARE = 0.1  # of all cores
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, which the mmap module does not name


def description() -> str:
    """One line: cores, processor, kernel, memory."""
    facts = dict(_fields(Path("/proc/cpuinfo")))
    memory = int(dict(_fields(Path("/proc/meminfo")))["MemTotal"].split()[0]) / 2**20
    cores = len(os.sched_getaffinity(0))
    model = f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family', '?')})"
    return f"{cores} cores, {model}, Linux {platform.release()}, {memory:.0f} GiB memory"


def family(pid: int) -> Iterator[int]:
    """The process and its living descendants."""
    yield pid
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return
    for child in children:
        yield from family(child)


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its living children, to the nanosecond.

    The same sum as in /proc/<pid>/stat, where it is cut to hundredths: too coarse for a server that
    sends a gibibyte in a twentieth of a second.
    """
    return sum(_clock(member) for member in family(pid))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, summed over a process and its children."""

    resident: int
    peak: int  # VmHWM: since each process began


def memory(pid: int) -> Memory:
    """Resident memory now, and the highest it ever was."""
    resident = peak = 0
    for member in family(pid):
        try:
            fields = dict(_fields(Path(f"/proc/{member}/status")))
        except OSError:
            continue
        resident += _kibibytes(fields.get("VmRSS", "0 kB"))
        peak += _kibibytes(fields.get("VmHWM", "0 kB"))
    return Memory(resident, peak)


def warm_memory(size: int) -> None:
    """Makes the next *size* bytes that the kernel hands out cost what memory costs.

    A virtual machine gives free memory back to its host, and touching it again takes up to ten times as long as
    writing to it: a cold pull would measure the host. So that much is touched, in small pages and in large ones, since
    a file's cache is made of both, and given back. The host does not take it for the next second or two.
    """
    each = min(size, available_memory() // 4)
    maps = []
    for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE):
        pages = mmap.mmap(-1, each, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages, or older than 5.14: then it stays as it is
            pages.madvise(advice)
            pages.madvise(_POPULATE_WRITE)
        maps.append(pages)
    for pages in maps:
        pages.close()


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds: of the whole machine, and of this process with all the children it has waited for."""

    everyone: float
    ours: float
    at: float

    @classmethod
    def so_far(cls) -> "Use":
        """Since the machine's and this process's start."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        user, nice, system, _idle, _waiting, interrupts, soft_interrupts = ticks[:7]
        everyone = (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")
        ours = sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return cls(everyone, ours, time.monotonic())

    def by_others(self, since: "Use") -> float:
        """The share of the machine that other programs, and the kernel for itself, took since then."""
        others = (self.everyone - since.everyone) - (self.ours - since.ours)
        return max(0.0, others) / ((self.at - since.at) * len(os.sched_getaffinity(0)))


def await_quiet(limit: float) -> None:
    """Returns when the machine has hardly anything to do, or after *limit* seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = Use.so_far()
        time.sleep(_QUIET_WINDOW)
        if Use.so_far().by_others(before) < _QUIET_SHARE:
            return


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    return _kibibytes(dict(_fields(Path("/proc/meminfo")))["MemAvailable"])


def _clock(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CPU_CLOCK)
    except OSError:
        return 0.0


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        key, colon, text = line.partition(":")
        if colon:
            yield key.strip(), text.strip()


def _kibibytes(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * 1024
