"""Simulated network link to a network namespace, with limited bandwidth and added latency.

`python -m bench.line NAME RATE DELAY` creates the interface NAME here and NAME-far in the network namespace NAME, and
forwards packets between them until it is terminated: RATE bytes a second, DELAY seconds from one end to the other.
The kernel's sch_netem does the same but is not available everywhere; a program is.
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
_BUFFER = 1 << 20  # bytes of queue before the link; packets beyond it are dropped, as by any router
_MTU = 9000  # large packets, to forward them with little CPU on the measured machine
_BATCH = 64  # packets of one direction before the other one is served


@dataclass(frozen=True, slots=True)
class Line:
    """A link, and the network namespace at its far end."""

    name: str

    @property
    def command(self) -> tuple[str, ...]:
        """Prefix of a command line that runs the program at the far end."""
        return (program("ip"), "netns", "exec", self.name)

    def carried(self) -> int:
        """Return the bytes received from the far end so far, including headers."""
        return int(Path(f"/sys/class/net/{self.name}/statistics/rx_bytes").read_text())


@contextmanager
def line(folder: Path, *, rate: float, delay: float) -> Iterator[Line]:
    """Create a link of *rate* bytes a second and *delay* seconds in each direction, until the context ends.

    Raises:
        BenchError: without root, or if the kernel lacks tun devices or namespaces.
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
    """Packets in flight in one direction."""

    source: int
    target: int
    rate: float
    delay: float
    _free_at: float = 0.0
    _in_flight: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self) -> None:
        """Read the available packets into the link, or drop them if its queue is full."""
        for _ in range(_BATCH):
            try:
                packet = os.read(self.source, 65536)
            except BlockingIOError:
                return
            now = time.monotonic()
            start = max(now, self._free_at)
            if (start - now) * self.rate < _BUFFER:
                self._free_at = start + len(packet) / self.rate
                self._in_flight.append((self._free_at + self.delay, packet))

    def deliver(self) -> float:
        """Write the packets that are due. Return the seconds until the next one."""
        while self._in_flight:
            left = self._in_flight[0][0] - time.monotonic()
            if left > 0:
                return left
            os.write(self.target, self._in_flight.popleft()[1])
        return 60.0


def _interface(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH22x", name.encode(), _PACKETS | _BARE))
    return device


def _forward(name: str, rate: float, delay: float) -> None:
    far = f"{name}-far"[:15]
    near_end, far_end = _interface(name), _interface(far)
    _ip("link", "set", far, "netns", name)
    _ip("address", "add", f"{HERE}/{_PREFIX}", "dev", name)
    _ip("link", "set", name, "up", "mtu", str(_MTU))
    _ip("-n", name, "address", "add", f"{THERE}/{_PREFIX}", "dev", far)
    _ip("-n", name, "link", "set", far, "up", "mtu", str(_MTU))
    print("carrying", flush=True)
    directions = [_Direction(near_end, far_end, rate, delay), _Direction(far_end, near_end, rate, delay)]
    wait = 60.0
    while True:
        select.select([near_end, far_end], [], [], wait)
        for direction in directions:
            direction.take()
        wait = min(direction.deliver() for direction in directions)


if __name__ == "__main__":
    _forward(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
