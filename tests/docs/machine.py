"""An isolated machine with its own /etc, /run, /var, network and processes, all of which end with it."""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.config import DEFAULT_UPSTREAMS
from tests.real.mirror import ROOT
from tests.real.program import Program, Ran, ran, running, short_directory

ADDRESS = "192.0.2.10"  # of this machine in its network, beside loopback (RFC 5737)
NAME = "mirror.example"
REGISTRY_PORT = 7000
CLOSED_PORT = 9

_SETUP = f"""
set -eu
cd "$1"
mkdir etc etc.work home elsewhere work bin
mount -t overlay -o lowerdir=/etc,upperdir=etc,workdir=etc.work overlay /etc
for place in /run /var/lib/docker /var/lib/containerd /var/lib/containers; do
    mkdir -p "$place"
    mount -t tmpfs tmpfs "$place"
done
rm -rf /etc/docker /etc/containerd /etc/containers /etc/mirror
mkdir -p /etc/containers/registries.conf.d /etc/mirror
ip link set lo up
ip address add {ADDRESS}/32 dev lo
echo "127.0.0.1 localhost\n{ADDRESS} {NAME}" >/etc/hosts
: >/etc/resolv.conf
echo made
# orphaned processes are reaped at once
exec env --ignore-signal=CHLD sleep infinity
"""

_SYSTEMCTL = """#!/bin/sh
# Start, restart and reload daemons like systemd. dockerd runs from before its daemon.json exists, as on most machines.
set -eu
unit=$2
stop() {
    old=$(cat "/run/$unit.own" 2>/dev/null) || return 0
    kill "$old"
    while kill -0 "$old" 2>/dev/null; do sleep 0.05; done
}
start() {
    setsid "$@" >>"/run/$unit.log" 2>&1 </dev/null &
    echo $! >"/run/$unit.own"
    for _ in $(seq 400); do
        $ready >/dev/null 2>&1 && return
        sleep 0.05
    done
    tail "/run/$unit.log" >&2
    exit 1
}
case "$1 $unit" in
    "restart docker") ready="docker version"; stop; start dockerd ;;
    "restart containerd") ready="ctr version"; stop; start containerd ;;
    "reload docker")
        ready="docker version"
        if [ ! -e /run/docker.own ]; then
            mv /etc/docker/daemon.json /etc/docker/later
            start dockerd
            mv /etc/docker/later /etc/docker/daemon.json
        fi
        reloads=$(grep --count "Reloaded configuration" /run/docker.log) || true
        kill -HUP "$(cat /run/docker.own)"
        while [ "$(grep --count "Reloaded configuration" /run/docker.log)" = "$reloads" ]; do sleep 0.05; done ;;
    *) echo "no such unit here: $*" >&2; exit 5 ;;
esac
"""

_SUDO = '#!/bin/sh\nexec "$@"\n'

_FILES = {
    "/etc/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
    "/etc/containers/storage.conf": (
        '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n'
    ),
    "/etc/containers/containers.conf": (
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
    ),
}
"""Configuration of podman as packaged, and for this kernel."""


@dataclass(slots=True)
class Machine:
    """A machine, and the state of a shell there."""

    root: Path
    pid: int
    home: Path
    upstream: str  # the address of all upstreams

    @property
    def work(self) -> Path:
        """Return the working directory of commands."""
        return self.root / "work"

    def argv(self, command: str) -> list[str]:
        """Return the command line that runs *command* in the machine."""
        env = {
            "PATH": f"{self.root}/bin:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "COLUMNS": "500",
            "MIRROR_UPSTREAM": " ".join(f"{name}={self.upstream}" for name in DEFAULT_UPSTREAMS),
        }
        variables = [f"{name}={value}" for name, value in env.items()]
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", f"--wd={self.work}"]
        return [*enter, "env", "--ignore-environment", *variables, "bash", "-euo", "pipefail", "-c", command]

    async def run(self, command: str) -> Ran:
        """Run a command to its end."""
        return await ran(*self.argv(command))

    async def succeeded(self, command: str) -> Ran:
        """Run a command to its end and assert that it succeeds."""
        result = await self.run(command)
        assert result.code == 0, f"{command}\n{result}"
        return result

    async def write(self, path: str, text: str) -> None:
        """Write a file, by its path in the machine."""
        (self.root / "next").write_text(text)
        await self.succeeded(f'file={path}; mkdir -p "$(dirname "$file")"; cp {self.root}/next "$file"')

    def move(self, *, back: bool) -> None:
        """Switch to another machine without state and without upstreams, or *back* to the first."""
        self.home = self.root / ("home" if back else "elsewhere")
        self.upstream = f"http://127.0.0.1:{REGISTRY_PORT if back else CLOSED_PORT}"


@asynccontextmanager
async def machine(storage: Path, programs: Mapping[str, str]) -> AsyncIterator[Machine]:
    """Yield a machine with a registry that serves as every upstream, and a clone of the project as working directory.

    Args:
        storage: the storage of that registry.
        programs: scripts for the machine's PATH, by name.
    """
    with short_directory("docs") as root:
        isolated = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        async with running([*isolated, "sh", "-c", _SETUP, "sh", str(root)], log=root / "log") as holder:
            try:
                await holder.until(lambda: "made" in holder.said())
                made = Machine(root, _only_child(holder.pid), root / "home", f"http://127.0.0.1:{REGISTRY_PORT}")
                await _install_files(made, {"systemctl": _SYSTEMCTL, "sudo": _SUDO, **programs})
                async with _registry(made, storage):
                    yield made
            finally:
                await holder.kill()


async def _install_files(made: Machine, programs: Mapping[str, str]) -> None:
    for name, text in programs.items():
        (made.root / "bin" / name).write_text(text)
        (made.root / "bin" / name).chmod(0o755)
    for path, text in _FILES.items():
        await made.write(path, text)
    _clone(made.work)
    (made.work / "images.txt").write_text("alpine:3.20\n")


def _clone(folder: Path) -> None:
    """Link the project's files, with the tests' environment in the place of the one that `make` creates."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry)
    environment = folder / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name not in {"run", "dev"}:
            (environment / entry.name).symlink_to(entry)
    for stamp in ("run", "dev"):
        (environment / stamp).touch()


@asynccontextmanager
async def _registry(made: Machine, storage: Path) -> AsyncIterator[Program]:
    configuration = made.root / "registry.json"
    configuration.write_text(
        json.dumps(
            {
                "version": "0.1",
                "storage": {"filesystem": {"rootdirectory": str(storage)}},
                "http": {"addr": f":{REGISTRY_PORT}"},
            }
        )
    )
    argv = made.argv(f"exec docker-registry serve {configuration}")
    async with running(argv, log=made.root / "registry.log") as registry:
        await registry.until(lambda: "listening on" in registry.said())
        yield registry
        await registry.kill()


def _only_child(pid: int) -> int:
    """Return the first process of the machine's PID namespace."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])
