"""The mirror as `python -m mirror` runs it, and notes of what leaves the process: `watched.py NOTES ARGUMENT…`.

Each line of the notes is what happened and to what: connect, write (a file that is opened for it), run (a program).
"""

import os
import sys
from collections.abc import Callable

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
_PROGRAMS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork"}


def noting(notes: int) -> Callable[[str, tuple[object, ...]], None]:
    """The hook that writes to this descriptor (PEP 578)."""

    def note(event: str, facts: tuple[object, ...]) -> None:
        line = ""
        if event == "socket.connect":
            line = f"connect {facts[1]!r}"
        elif (event == "open" and isinstance(facts[2], int) and facts[2] & _WRITING) or event in _CHANGES:
            line = f"write {facts[0]!r}"
        elif event in _PROGRAMS:
            line = f"run {facts[0]!r}"
        if line:
            os.write(notes, line.encode(errors="replace") + b"\n")

    return note


if __name__ == "__main__":
    opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    sys.argv[:2] = ["mirror"]

    import mirror.cli.programs  # noqa: F401 - loaded before the hook: loading may write bytecode
    from mirror.__main__ import main

    sys.addaudithook(noting(opened))
    main()
