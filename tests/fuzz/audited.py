"""`python -m mirror` with an audit log of its connections, writes and programs: `audited.py LOG ARGUMENT…`.

Each line of the log is an event and its object: connect, write (a file opened for writing), run (a program).
"""

import importlib
import os
import sys
from collections.abc import Callable

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
_PROGRAMS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork"}


def audit_hook(log: int) -> Callable[[str, tuple[object, ...]], None]:
    """Return an audit hook that writes to this descriptor (PEP 578)."""

    def write_event(event: str, facts: tuple[object, ...]) -> None:
        line = ""
        if event == "socket.connect":
            line = f"connect {facts[1]!r}"
        elif (event == "open" and isinstance(facts[2], int) and facts[2] & _WRITING) or event in _CHANGES:
            line = f"write {facts[0]!r}"
        elif event in _PROGRAMS:
            line = f"run {facts[0]!r}"
        if line:
            os.write(log, line.encode(errors="replace") + b"\n")

    return write_event


if __name__ == "__main__":
    opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    sys.argv[:2] = ["mirror"]

    from mirror.__main__ import main

    importlib.import_module("mirror.cli.programs")  # before the hook: loading may write bytecode

    sys.addaudithook(audit_hook(opened))
    main()
