"""A container base image made of this machine's Python, with as much of the official image as the Dockerfile needs."""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

TOOLS = ("sh", "chown", "id", "ls", "mkdir", "sleep")
EXCLUDED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
}
PIP = """\
#!/usr/local/bin/python3
import sys
sys.path.insert(0, "/usr/local/lib/pip")
from pip._internal.cli.main import main
sys.exit(main())
"""


def write_base(file: Path) -> None:
    """Write a root file system for `docker import`."""
    stdlib = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    program = Path(sys.executable).resolve()
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with tarfile.open(file, "w") as tar:
        tar.add(program, f"usr/local/bin/{name}")
        for link in ("python3", "python"):
            _link(tar, f"usr/local/bin/{link}", name)
        tar.add(stdlib, f"usr/local/lib/{stdlib.name}", filter=_filtered)
        tar.add(_pip(), "usr/local/lib/pip/pip")
        _write(tar, "usr/local/bin/pip", PIP)
        modules = [file for file in stdlib.glob("lib-dynload/*.so") if not file.name.startswith("_tkinter.")]
        _add_libraries(tar, [program, *modules, *Path(sys.prefix).glob("lib/*/site-packages/**/*.so")])
        tar.add(_installed("busybox"), "bin/busybox")
        for tool in TOOLS:
            _link(tar, f"bin/{tool}", "busybox")
        for directory, mode in {"tmp": 0o1777, "proc": 0o755, "sys": 0o755, "dev": 0o755, "etc": 0o755}.items():
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)


def _filtered(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    last = os.path.basename(entry.name)
    return None if last in EXCLUDED or last.startswith(("config-", "_tkinter.")) or ".opt-" in last else entry


def _pip() -> Path:
    return Path(str(distribution("pip").locate_file("pip")))


def _installed(program: str) -> str:
    found = shutil.which(program)
    assert found, program
    return found


def _add_libraries(tar: tarfile.TarFile, binaries: list[Path]) -> None:
    """Add shared libraries: the C library in its loader's first search path, all others beside it."""
    libraries = sorted(set(_needed(binaries)))
    (libc,) = (library for library in libraries if library.name.startswith("libc.so."))
    for library in libraries:
        own = library.name.startswith("ld-")  # programs name the loader with its whole path
        place = library if own else libc.parent / library.name
        tar.add(library.resolve(), str(place).lstrip("/"))


def _needed(binaries: list[Path]) -> Iterator[Path]:
    output = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    for line in output.splitlines():
        found = re.search(r"(?:=> )?(/\S+) \(0x", line)
        if found:
            yield Path(found[1])


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _write(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text), 0o755
    tar.addfile(entry, io.BytesIO(text.encode()))
