"""A line between this machine and a network of its own: so many bytes a second each way, and so long on the way.

`python -m bench.line NAME RATE DELAY` makes the interface NAME here and NAME-far in the network namespace NAME, and
carries packets between them until it is terminated: RATE bytes a second, DELAY seconds from one end to the other.
Kernels can do the same (sch_netem), but not all of them have it; what a program carries is the same everywhere.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.servers import BenchError, program, running

HERE, THERE = "198.18.0.1", "198.18.0.2"  # addresses for benchmarks (RFC 2544)
_PREFIX = 30
_SET_INTERFACE = 0x400454CA  # TUNSETIFF
_PACKETS, _BARE = 0x0001, 0x1000  # IFF_TUN, IFF_NO_PI
_BUFFER = 1 << 20  # bytes that wait in front of the line; what comes on top is lost, as at any router
_MTU = 9000  # few and large packets: carrying them takes hardly anything of the machine that is measured
_AT_ONCE = 64  # packets of one direction before the other has a turn


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and the network at its far end."""

    name: str

    @property
    def command(self) -> tuple[str, ...]:
        """What a command line begins with, so that the program runs at the far end."""
        return (program("ip"), "netns", "exec", self.name)

    def carried(self) -> int:
        """Bytes that have come from the far end, headers included."""
        return int(Path(f"/sys/class/net/{self.name}/statistics/rx_bytes").read_text())


@contextmanager
def line(folder: Path, *, rate: float, delay: float) -> Iterator[Line]:
    """A line of *rate* bytes a second each way, *delay* seconds long; gone afterwards, with the network.

    Raises:
        BenchError: this is not root, or the kernel has no tun devices or no namespaces.
    """
    made = Line(f"bench{os.getpid()}")
    _ip("netns", "add", made.name)
    try:
        command = [sys.executable, "-m", "bench.line", made.name, str(rate), str(delay)]

        def ready(log: Path) -> int | None:
            return 1 if "carrying" in log.read_text() else None

        with running(command, folder / "line.log", ready):
            yield made
    finally:
        _ip("netns", "delete", made.name)


def _ip(*arguments: str) -> None:
    done = subprocess.run([program("ip"), *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@dataclass(slots=True)
class _Direction:
    """Packets that are under way, one way."""

    source: int
    target: int
    rate: float
    delay: float
    _free_at: float = 0.0
    _under_way: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self) -> None:
        """Whatever is there to be carried."""
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(self.source, 65536)
            except BlockingIOError:
                return
            now = time.monotonic()
            start = max(now, self._free_at)
            if (start - now) * self.rate < _BUFFER:
                self._free_at = start + len(packet) / self.rate
                self._under_way.append((self._free_at + self.delay, packet))

    def deliver(self) -> float:
        """What has arrived; then the seconds until the next."""
        while self._under_way:
            left = self._under_way[0][0] - time.monotonic()
            if left > 0:
                return left
            os.write(self.target, self._under_way.popleft()[1])
        return 60.0


def _interface(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH22x", name.encode(), _PACKETS | _BARE))
    return device


def _carry(name: str, rate: float, delay: float) -> None:
    far = f"{name}-far"[:15]
    near_end, far_end = _interface(name), _interface(far)
    _ip("link", "set", far, "netns", name)
    _ip("address", "add", f"{HERE}/{_PREFIX}", "dev", name)
    _ip("link", "set", name, "up", "mtu", str(_MTU))
    _ip("-n", name, "address", "add", f"{THERE}/{_PREFIX}", "dev", far)
    _ip("-n", name, "link", "set", far, "up", "mtu", str(_MTU))
    print("carrying", flush=True)
    ways = [_Direction(near_end, far_end, rate, delay), _Direction(far_end, near_end, rate, delay)]
    wait = 60.0
    while True:
        select.select([near_end, far_end], [], [], wait)
        for way in ways:
            way.take()
        wait = min(way.deliver() for way in ways)


if __name__ == "__main__":
    _carry(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
