"""A process in which the mirror's program is loaded, and which forks for each command that `launcher` asks it for.

A test runs dozens of commands; to load the program takes half a second each time, and a fork none.
"""

import array
import json
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path

from mirror.__main__ import main
from mirror.cli import image_table, sync

_LOADED = (image_table, sync)  # and everything that these import: a forked command does not load it again


def serve(path: Path) -> None:
    """Forks for whoever connects to the socket *path*, until it is killed."""
    assert threading.active_count() == 1, "a thread is not there after a fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        begun = path.with_suffix(".begun")
        listener.bind(str(begun))
        listener.listen(64)
        begun.rename(path)  # whoever sees it is answered
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                os._exit(_attend(connection))
            connection.close()


def _attend(connection: socket.socket) -> int:
    """Says the command's process id, and then its status; ends it when nobody listens any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ready, taken, _, _ = socket.recv_fds(connection, 1, 3)
    assert ready
    asked = json.loads(connection.makefile().readline())
    pid = os.fork()
    if not pid:
        connection.close()
        _become(asked["arguments"], asked["environment"], array.array("i", taken))
    for descriptor in taken:
        os.close(descriptor)
    connection.sendall(f"{pid}\n".encode())
    child = os.pidfd_open(pid)
    readable, _, _ = select.select([connection.fileno(), child], [], [])
    if child not in readable:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return 0


def _become(arguments: list[str], environment: dict[str, str], descriptors: "array.array[int]") -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["mirror", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
