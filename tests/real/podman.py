"""podman with its own storage, run state and registries.conf, on an OCI runtime (crun or runc) that works here.

podman prefers crun. crun refuses to start a container on a machine with cgroup v1 where the cgroup v2 hierarchy is also
mounted and has controllers ("cgroups in hybrid mode not supported"). Containers are therefore started in a mount
namespace without that second hierarchy, and `oci_runtime` selects a runtime by starting a container.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tests.real.program import short_directory, succeeded

_RUNTIMES = ("crun", "runc")  # in podman's order of preference
_HYBRID = "/sys/fs/cgroup/unified"  # where cgroup v2 is mounted on a machine with cgroup v1
_STARTS_WITHIN = 30.0  # seconds until a container of one command has ended
_CLEANED_UP_WITHIN = 10.0  # seconds until podman's own processes behind a container have ended


class Podman:
    """podman in its state after installation, except for the registries that the test configures."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._registries = directory / "registries.conf"
        self._policy = directory / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.env = {
            "CONTAINERS_REGISTRIES_CONF": str(self._registries),
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
            "REGISTRY_AUTH_FILE": str(directory / "auth.json"),
            "HOME": str(directory),
        }
        (directory / "auth.json").write_text("{}")
        (directory / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{directory}/root"\nrunroot = "{directory}/run"\n'
        )
        self._argv = ["podman", "--tmpdir", str(directory / "tmp"), "--cgroup-manager", "cgroupfs"]
        self._argv += ["--events-backend", "none"]
        self.mirrored_by(None)

    def mirrored_by(self, host: str | None, *registries: str) -> None:
        """Pull each of *registries* only from *host*/<registry> (path prefix)."""
        lines = ["unqualified-search-registries = []"]
        if host:
            lines += ["[[registry]]", f'location = "{host}"', "insecure = true"]
        for name in registries:
            lines += ["[[registry]]", f'prefix = "{name}"', f'location = "{host}/{name}"', "insecure = true"]
        self._registries.write_text("\n".join(lines) + "\n")

    def configured(self, registries_conf: str) -> None:
        """Replace registries.conf with this text."""
        self._registries.write_text(registries_conf)

    async def login(self, host: str, user: str, password: str) -> None:
        options = ["--tls-verify=false", "--username", user, "--password", password]
        await succeeded(*self._argv, "login", *options, host, env=self.env)

    async def pull(self, reference: str) -> None:
        policy = ["--signature-policy", str(self._policy)]
        await succeeded(*self._argv, "pull", "--quiet", *policy, reference, env=self.env)

    async def run(self, reference: str, *command: str) -> str:
        """Run a container of an image in the local storage and return its output."""
        argv = self.run_command(oci_runtime(), "--pull=never", reference, *command)
        return await succeeded(*argv, env=self.env)

    def run_command(self, runtime: str, *arguments: str) -> list[str]:
        """Return the command line of `podman run` on this OCI runtime."""
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]  # podman's defaults need CAP_SYS_RESOURCE
        options = ["run", "--rm", "--network=host", *limits]
        return [*_without_hybrid_cgroups(), *self._argv, "--runtime", runtime, *options, *arguments]

    async def load(self, archive: Path) -> None:
        """Load the image of an archive into the local storage."""
        await succeeded(
            *self._argv, "load", "--signature-policy", str(self._policy), "--input", str(archive), env=self.env
        )

    async def save(self, reference: str, archive: Path, *, name: str) -> None:
        """Write an image to an archive, under another name."""
        await succeeded(*self._argv, "tag", reference, name, env=self.env)
        await succeeded(*self._argv, "save", "--output", str(archive), name, env=self.env)

    async def forget(self, *references: str) -> None:
        await succeeded(*self._argv, "rmi", "--force", *references, env=self.env)


@contextmanager
def podman() -> Iterator[Podman]:
    """Yield a podman whose images are removed with the block."""
    with short_directory("podman") as directory:
        yield Podman(directory)
        _wait_for_cleanup(directory)


@cache
def oci_runtime() -> str:
    """Return the first OCI runtime on which podman runs a container here; fail with the errors of all if none does."""
    errors = []
    for runtime in _RUNTIMES:
        error = _start_error(runtime)
        if error is None:
            return runtime
        errors.append(f"{runtime}: {error}")
    raise AssertionError("\n".join(["podman needs an OCI runtime that works here: apt-get install runc", *errors]))


def _start_error(runtime: str) -> str | None:
    """Return why podman cannot run `true` in a container on this OCI runtime; None if it can."""
    with podman() as engine:
        root = engine.directory / "rootfs"
        root.mkdir()
        shutil.copy(shutil.which("busybox") or "busybox", root / "busybox")
        argv = engine.run_command(runtime, "--rootfs", str(root), "/busybox", "true")
        env = {**os.environ, **engine.env}
        try:
            ran = subprocess.run(
                argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=_STARTS_WITHIN, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no end within {_STARTS_WITHIN} s"
    return ran.stderr.decode(errors="replace").strip() if ran.returncode else None


def _wait_for_cleanup(directory: Path) -> None:
    """Wait until conmon and `podman container cleanup`, which outlive `podman run`, no longer write to *directory*."""
    deadline = time.monotonic() + _CLEANED_UP_WITHIN
    while _commands_with(str(directory)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _commands_with(argument: str) -> list[str]:
    """Return the command lines of running programs that contain *argument*."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(file.read_bytes().decode(errors="replace"))
    return [line for line in found if argument in line]


def _without_hybrid_cgroups() -> list[str]:
    """Return the start of a command line that hides the cgroup v2 hierarchy of a machine with cgroup v1."""
    if not os.path.ismount(_HYBRID):
        return []
    return ["unshare", "--mount", "sh", "-c", f'umount {_HYBRID} && exec "$@"', "sh"]
