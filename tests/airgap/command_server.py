"""A process with the mirror's modules loaded, which forks once for each command that `launcher` sends.

One test runs dozens of commands. Loading the modules takes half a second for each; a fork takes almost no time.
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
    """Fork for each connection to the socket *path*, until this process is killed."""
    assert threading.active_count() == 1, "threads do not survive a fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        starting = path.with_suffix(".starting")
        listener.bind(str(starting))
        listener.listen(64)
        starting.rename(path)  # a client that sees the path can connect
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                os._exit(_run_command(connection))
            connection.close()


def _run_command(connection: socket.socket) -> int:
    """Run one command: send its process id, then its exit status; kill it if the launcher disconnects."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ready, taken, _, _ = socket.recv_fds(connection, 1, 3)
    assert ready
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if not pid:
        connection.close()
        _exec_command(request["arguments"], request["environment"], array.array("i", taken))
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


def _exec_command(arguments: list[str], environment: dict[str, str], descriptors: "array.array[int]") -> None:
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
