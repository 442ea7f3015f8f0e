"""Benchmark client: pulls with minimal CPU use, at the same cost for every server.

It is a separate program (`python -m bench.client '<order as JSON>'`, with a JSON report on stdout) with few imports, so
that its CPU time is separate from the measuring process. The kernel counts and discards the bytes of bodies (MSG_TRUNC
on a TCP socket), which leaves a core to the server on machines with few cores. With "check", the client reads and
hashes them instead.
"""

import hashlib
import json
import mmap
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

ACCEPT = ", ".join(  # as containerd and docker send it
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "*/*",
    )
)
_HEAD_LIMIT = 16 << 10
_WINDOW = 64 << 20
_BATCH = 512 << 10  # bytes per wake-up in the middle of a body
_TICK = 0.1  # seconds between reads of a slow client
_SLOW_BUFFER = 64 << 10  # bytes of a slow client's receive buffer, which the server can fill ahead of the reads


@dataclass(frozen=True, slots=True)
class Order:
    """Parameters of a run of the client."""

    port: int
    path: str
    connections: int = 1
    pulls: int = 1  # per connection, sequentially
    pace: int = 0  # bytes a second per connection; 0: unlimited
    limit: float = 120.0  # seconds until the run ends, with unfinished pulls
    check: bool = False  # read and hash the body


@dataclass(slots=True)
class Pull:
    """Result of pulling one blob on one connection. Times are in seconds since all requests were sent."""

    size: int = 0
    received: int = 0
    first_byte: float | None = None
    end: float | None = None
    sha256: str | None = None
    failure: str | None = None


@dataclass(slots=True)
class Report:
    """Result of an order."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    pulls: list[Pull] = field(default_factory=list)


class Connection:
    """One connection, which pulls the same blob repeatedly."""

    def __init__(self, order: Order, window: mmap.mmap) -> None:
        self._order = order
        self._window = window
        self._start = 0.0
        self._pulls_left = order.pulls
        self._sha256 = hashlib.sha256() if order.check else None
        self._batched = False
        self.pulls: list[Pull] = []
        self.socket = socket.socket()
        if order.pace:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        self.socket.connect(("127.0.0.1", order.port))
        self.socket.setblocking(False)

    @property
    def over(self) -> bool:
        """Whether all pulls have finished or failed."""
        return self._pulls_left == 0

    def ask(self, start: float) -> None:
        """Send the request. *start* is the origin of the reported times."""
        self._start = start
        self.pulls.append(Pull())
        self.socket.send(
            f"GET {self._order.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._order.port}\r\n"
            f"User-Agent: bench\r\nAccept: {ACCEPT}\r\n\r\n".encode()
        )

    def receive(self, allowance: int) -> int:
        """Receive the available bytes of body, at most *allowance*. Return their number."""
        pull = self.pulls[-1]
        try:
            if not pull.size and not self._head(pull):
                return 0
            taken = self._body(pull, min(allowance, pull.size - pull.received))
        except BlockingIOError:
            return 0
        except OSError as error:
            self._fail(str(error))
            return 0
        if pull.received == pull.size:
            self._finish(pull)
        elif taken == 0:
            self._fail("the connection was closed in the middle of the body")
        return taken

    def _head(self, pull: Pull) -> bool:
        """Read exactly the head of the response. Return False while it is incomplete."""
        head = self.socket.recv(_HEAD_LIMIT, socket.MSG_PEEK)
        end = head.find(b"\r\n\r\n")
        if end < 0:
            if not head:
                self._fail("the connection was closed before the response")
            return False
        head = self.socket.recv(end + 4)
        status, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        if status.split()[1] != "200" or not fields.get("content-length"):
            self._fail(f"answered {status!r}, length {fields.get('content-length')}")
            return False
        pull.size = int(fields["content-length"])
        return True

    def _body(self, pull: Pull, wanted: int) -> int:
        if self._sha256 is None:
            taken = self.socket.recv_into(self._window, min(wanted, _WINDOW), socket.MSG_TRUNC)
        else:
            taken = self.socket.recv_into(self._window, min(wanted, _BATCH))
            self._sha256.update(memoryview(self._window)[:taken])
        if taken and pull.first_byte is None:
            pull.first_byte = time.monotonic() - self._start
        pull.received += taken
        self._batch(pull.size - pull.received > 2 * _BATCH)
        return taken

    def _batch(self, wanted: bool) -> None:
        """Set the number of bytes that wakes up the client: _BATCH if *wanted*, else 1."""
        if wanted != self._batched and not self._order.pace:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _BATCH if wanted else 1)
            self._batched = wanted

    def _finish(self, pull: Pull) -> None:
        pull.end = time.monotonic() - self._start
        if self._sha256 is not None:
            pull.sha256 = self._sha256.hexdigest()
            self._sha256 = hashlib.sha256()
        self._pulls_left -= 1
        if self._pulls_left:
            self.ask(self._start)

    def _fail(self, reason: str) -> None:
        self.pulls[-1].failure = reason
        self._pulls_left = 0


def carry_out(order: Order) -> Report:
    """Open all connections, send all requests, and receive until all pulls finish or the time limit is reached."""
    window = mmap.mmap(-1, _WINDOW)  # not touched, and so not resident, if bytes are discarded
    connections = [Connection(order, window) for _ in range(order.connections)]
    start, cpu = time.monotonic(), time.process_time()
    for connection in connections:
        connection.ask(start)
    receive: Callable[[list[Connection], float, int], None] = _receive_slowly if order.pace else _receive
    receive(connections, start + order.limit, order.pace)
    report = Report(time.monotonic() - start, time.process_time() - cpu)
    for connection in connections:
        connection.socket.close()
        report.pulls += connection.pulls
    return report


def _receive(connections: list[Connection], deadline: float, _pace: int) -> None:
    waiting = {connection.socket.fileno(): connection for connection in connections}
    with select.epoll() as poll:
        for descriptor in waiting:
            poll.register(descriptor, select.EPOLLIN)
        while waiting and time.monotonic() < deadline:
            for descriptor, _ in poll.poll(1.0):
                connection = waiting[descriptor]
                connection.receive(_WINDOW)
                if connection.over:
                    poll.unregister(descriptor)
                    del waiting[descriptor]


def _receive_slowly(connections: list[Connection], deadline: float, pace: int) -> None:
    """Receive a share on each connection per tick. The rest remains with the server."""
    while time.monotonic() < deadline:
        waiting = [connection for connection in connections if not connection.over]
        if not waiting:
            return
        tick = time.monotonic() + _TICK
        for connection in waiting:
            allowance = int(pace * _TICK)
            while allowance and not connection.over:
                taken = connection.receive(allowance)
                if not taken:
                    break
                allowance -= taken
        time.sleep(max(0.0, tick - time.monotonic()))


if __name__ == "__main__":
    json.dump(asdict(carry_out(Order(**json.loads(sys.argv[1])))), sys.stdout)
