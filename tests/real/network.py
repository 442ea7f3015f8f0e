"""A network namespace with given addresses only, for traffic that must not reach a real network."""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import uuid4

_CLONE_NEWNET = 0x40000000
_Result = TypeVar("_Result")


class Network:
    """A network namespace. Sockets created in it stay in it, in any thread."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def command(self) -> tuple[str, ...]:
        """The beginning of a command line that runs a program in this network."""
        return ("ip", "netns", "exec", self.name)

    def listening(self, host: str, port: int = 0) -> socket.socket:
        """Return a listening socket in this network."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return self._within(lambda: socket.create_server((host, port), family=family))

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """Return a socket that connects within this network."""
        return self._within(lambda: socket.socket(family, kind, protocol))

    def _within(self, create: Callable[[], _Result]) -> _Result:
        created: list[_Result] = []

        def enter() -> None:  # in a thread of its own: setns changes the namespace of one thread
            namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                created.append(create())
            finally:
                os.close(namespace)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return created[0]


@contextmanager
def network(*addresses: str) -> Iterator[Network]:
    """Create a network with these addresses (with prefix lengths) beside 127.0.0.1 and ::1."""
    created = Network(f"test-{uuid4().hex[:8]}")
    _ip("netns", "add", created.name)
    try:
        _ip("-n", created.name, "link", "set", "lo", "up")
        for address in addresses:
            _ip("-n", created.name, "address", "add", address, "dev", "lo")
        yield created
    finally:
        _ip("netns", "delete", created.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
