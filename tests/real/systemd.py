"""systemd as the first process of an isolated machine: the host's files with an overlay, and few units.

The sandboxes of its services are systemd's own.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from tests.real.network import Network
from tests.real.program import Program, Ran, eventually, ran, short_directory

UNITS = "/etc/units"
TARGETS = ("sysinit", "basic", "network-online", "shutdown")  # units that services name, and that do nothing here
PREPARE = """
mount --make-rprivate /
mount -t tmpfs tmpfs "$TOP"
mkdir "$TOP/upper" "$TOP/work" "$TOP/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$TOP/upper,workdir=$TOP/work" "$TOP/root"
cd "$TOP/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for place in run tmp dev var/cache; do mount -t tmpfs tmpfs "$place"; done
for device in null zero full random urandom tty ptmx; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
cp -r "$FILES/." .
while [ $# -gt 0 ]; do
    mkdir -p ".$1"
    mount --bind "$2" ".$1"
    shift 2
done
pivot_root . mnt
umount -l /mnt
systemd-sysusers
exec env -i container=test "SYSTEMD_UNIT_PATH=$UNITS" PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --system --unit=boot.target --log-target=null --show-status=no
"""


class Systemd:
    """A machine with a running systemd."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def file(self, place: str) -> Path:
        """Return the host's path of a file of that machine."""
        return Path(f"/proc/{self._pid}/root{place}")

    async def within(self, *argv: str) -> Ran:
        """Run a program in that machine, as root."""
        return await ran("nsenter", f"--target={self._pid}", "--all", *argv)

    async def systemctl(self, *arguments: str) -> str:
        """Run systemctl, assert that it succeeds, and return its output."""
        result = await self.within("systemctl", *arguments)
        assert result.code == 0, str(result)
        return result.output

    async def state(self, unit: str) -> dict[str, str]:
        """Return all properties of a unit."""
        lines = (await self.systemctl("show", unit)).splitlines()
        return {key: value for key, _, value in (line.partition("=") for line in lines)}

    async def becomes(self, unit: str, **wanted: str) -> dict[str, str]:
        """Wait until a unit has these properties."""
        properties: dict[str, str] = {}

        async def has_properties() -> bool:
            properties.update(await self.state(unit))
            return all(properties[key] == value for key, value in wanted.items())

        try:
            await eventually(has_properties, within=20)
        except TimeoutError:
            await self._fail(unit, wanted)
        return properties

    async def _fail(self, unit: str, wanted: Mapping[str, str]) -> NoReturn:
        raise AssertionError(f"not {wanted}: {await self.within('systemctl', 'status', '--no-pager', unit)}")


@asynccontextmanager
async def systemd(
    unit: str, network: Network, *, files: Mapping[str, str], directories: Mapping[str, Path]
) -> AsyncIterator[Systemd]:
    """Run a machine that starts *unit*, until the end of the block.

    Args:
        files: contents, by their path in that machine.
        directories: directories of the host, by their path in that machine.
    """
    async with _own_group() as group:
        with short_directory("systemd") as directory:
            (directory / "top").mkdir()
            _write_files(directory / "files", {**_units(unit), **files})
            mounts = [word for place, source in directories.items() for word in (place, str(source))]
            enter = 'echo $$ > "$GROUP/cgroup.procs" && exec "$@"'
            isolated = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child"]
            argv = ["nsenter", f"--net=/run/netns/{network.name}", "sh", "-c", enter, "sh"]
            argv += [*isolated, "sh", "-euc", PREPARE, "sh", *mounts]
            env = {"TOP": f"{directory}/top", "FILES": f"{directory}/files", "GROUP": str(group), "UNITS": UNITS}
            log = directory / "boot.log"
            log.touch()
            program = await Program.start(argv, log=log, env=env)
            try:
                await program.until(lambda: _is_systemd(_child(program.pid)))
                machine = Systemd(_child(program.pid))
                await program.until(lambda: machine.file("/run/systemd/private").exists())
                yield machine
            finally:
                await program.kill()


def _units(unit: str) -> dict[str, str]:
    empty_unit = "[Unit]\nDefaultDependencies=no\n"
    targets = {f"{UNITS}/{target}.target": empty_unit for target in TARGETS}
    return {**targets, f"{UNITS}/boot.target": f"{empty_unit}Requires={unit}\n"}


def _write_files(root: Path, files: Mapping[str, str]) -> None:
    for place, text in files.items():
        file = root / place.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@asynccontextmanager
async def _own_group() -> AsyncIterator[Path]:
    """Create a cgroup: systemd takes the cgroup it starts in as the whole machine's."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    group = next(Path(point) for _, point, kind, *_ in mounts if kind == "cgroup2") / f"test-{uuid4().hex[:8]}"
    group.mkdir()
    try:
        yield group
    finally:

        async def is_empty() -> bool:
            return "populated 0" in (group / "cgroup.events").read_text()

        await eventually(is_empty)
        for below, _, _ in os.walk(group, topdown=False):
            os.rmdir(below)


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def _is_systemd(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "systemd"
    except OSError:
        return False
