"""A network of its own: nothing in it but the addresses it is given. For what must not happen on a real one."""

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
_Made = TypeVar("_Made")


class Network:
    """A network namespace. Sockets that are made in it stay in it, whoever uses them."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def command(self) -> tuple[str, ...]:
        """What a command line begins with, so that the program runs in this network."""
        return ("ip", "netns", "exec", self.name)

    def listening(self, host: str, port: int = 0) -> socket.socket:
        """A socket that listens in this network."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return self._within(lambda: socket.create_server((host, port), family=family))

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """A socket from which this network can be reached."""
        return self._within(lambda: socket.socket(family, kind, protocol))

    def _within(self, make: Callable[[], _Made]) -> _Made:
        made: list[_Made] = []

        def enter() -> None:  # a thread of its own: the network is the thread's, and ends with it
            namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                made.append(make())
            finally:
                os.close(namespace)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return made[0]


@contextmanager
def network(*addresses: str) -> Iterator[Network]:
    """A network with these addresses (with their prefix lengths) beside 127.0.0.1 and ::1."""
    made = Network(f"test-{uuid4().hex[:8]}")
    _ip("netns", "add", made.name)
    try:
        _ip("-n", made.name, "link", "set", "lo", "up")
        for address in addresses:
            _ip("-n", made.name, "address", "add", address, "dev", "lo")
        yield made
    finally:
        _ip("netns", "delete", made.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
