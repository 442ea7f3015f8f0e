"""Kernel statistics: CPU time and memory of a process with its children, and a description of this machine."""

import mmap
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROCESS_CPU_CLOCK = 2  # CPUCLOCK_SCHED, the kind of clock that clock_getcpuclockid(3) returns
_QUIET_WINDOW = 0.3  # seconds
_QUIET_SHARE = 0.1  # of all cores
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, missing in the mmap module


def description() -> str:
    """Return a line with the number of cores, the processor, the kernel and the memory."""
    facts = dict(_fields(Path("/proc/cpuinfo")))
    memory = int(dict(_fields(Path("/proc/meminfo")))["MemTotal"].split()[0]) / 2**20
    cores = len(os.sched_getaffinity(0))
    model = f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family', '?')})"
    return f"{cores} cores, {model}, Linux {platform.release()}, {memory:.0f} GiB memory"


def family(pid: int) -> Iterator[int]:
    """Yield the process and its running descendants."""
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
    """Return the user and system time of the process and its running descendants, to the nanosecond.

    /proc/<pid>/stat has the same sum in hundredths of a second, which is too coarse: a server sends a GiB in 50 ms.
    """
    return sum(_clock(member) for member in family(pid))


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes, summed over a process and its descendants."""

    resident: int
    peak: int  # VmHWM: since the start of each process


def memory(pid: int) -> Memory:
    """Return the current and the peak resident memory of a process and its descendants."""
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
    """Touch and release *size* bytes of memory, so that the next allocations run at normal speed.

    A virtual machine returns free memory to its host, and touching it again takes up to ten times as long as writing to
    it: a cold pull would measure the host. Both small and huge pages are touched, since the page cache consists of
    both. The host does not reclaim them for a second or two.
    """
    each = min(size, available_memory() // 4)
    maps = []
    for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE):
        pages = mmap.mmap(-1, each, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages, or older than 5.14: nothing to do
            pages.madvise(advice)
            pages.madvise(_POPULATE_WRITE)
        maps.append(pages)
    for pages in maps:
        pages.close()


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds used by the whole machine, and by this process with the children it has waited for."""

    everyone: float
    ours: float
    at: float

    @classmethod
    def so_far(cls) -> "Use":
        """Return the use since the start of the machine and of this process."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        user, nice, system, _idle, _waiting, interrupts, soft_interrupts = ticks[:7]
        everyone = (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")
        ours = sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return cls(everyone, ours, time.monotonic())

    def by_others(self, since: "Use") -> float:
        """Return the share of all cores that other programs and the kernel have used since *since*."""
        others = (self.everyone - since.everyone) - (self.ours - since.ours)
        return max(0.0, others) / ((self.at - since.at) * len(os.sched_getaffinity(0)))


def await_quiet(limit: float) -> None:
    """Wait until the machine is nearly idle, for at most *limit* seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = Use.so_far()
        time.sleep(_QUIET_WINDOW)
        if Use.so_far().by_others(before) < _QUIET_SHARE:
            return


def available_memory() -> int:
    """Return the bytes of memory available without swapping."""
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
