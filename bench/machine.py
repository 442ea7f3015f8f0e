"""What the kernel knows of this machine and of a process and its children."""

import mmap
import os
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROCESS_CPU_CLOCK = 2  # CPUCLOCK_SCHED, the kind of clock that clock_getcpuclockid(3) gives
_QUIET_WINDOW = 0.3  # seconds
_QUIET_SHARE = 0.1  # of all cores
_COMB = 4 << 20  # bytes between two kept pages


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


def warm_memory(size: int) -> mmap.mmap:
    """Makes *size* bytes of free memory cost what memory costs, for as long as the returned map is kept.

    A virtual machine gives free memory back to its host in blocks of some megabytes, and touching it again takes
    several times what writing to it takes: a cold pull would measure the host. So memory is touched, and given back
    except for a page here and there, so that no free block becomes large enough to leave.
    """
    wanted = min(size, available_memory() // 2) // _COMB * _COMB
    comb = mmap.mmap(-1, max(wanted, _COMB), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    for tooth in range(0, len(comb), _COMB):
        comb.madvise(mmap.MADV_DONTNEED, tooth + mmap.PAGESIZE, _COMB - mmap.PAGESIZE)
    return comb


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
