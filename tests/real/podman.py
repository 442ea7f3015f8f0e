"""podman, with storage, run state and registries of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real.program import short_directory, succeeded


class Podman:
    """podman as it is after installation, but for the registries that the test names."""

    def __init__(self, directory: Path) -> None:
        self._registries = directory / "registries.conf"
        self._policy = directory / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._env = {
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
        """Each of *registries* is looked for at *host*/<registry> (path prefix) and nowhere else."""
        lines = ["unqualified-search-registries = []"]
        if host:
            lines += ["[[registry]]", f'location = "{host}"', "insecure = true"]
        for name in registries:
            lines += ["[[registry]]", f'prefix = "{name}"', f'location = "{host}/{name}"', "insecure = true"]
        self._registries.write_text("\n".join(lines) + "\n")

    def configured(self, registries_conf: str) -> None:
        """What it knows of registries, as a whole."""
        self._registries.write_text(registries_conf)

    async def login(self, host: str, user: str, password: str) -> None:
        options = ["--tls-verify=false", "--username", user, "--password", password]
        await succeeded(*self._argv, "login", *options, host, env=self._env)

    async def pull(self, reference: str) -> None:
        policy = ["--signature-policy", str(self._policy)]
        await succeeded(*self._argv, "pull", "--quiet", *policy, reference, env=self._env)

    async def run(self, reference: str, *command: str) -> str:
        """What a container of an image that is already here prints."""
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]  # its defaults need CAP_SYS_RESOURCE
        options = ["run", "--rm", "--pull=never", "--network=host", *limits]
        return await succeeded(*self._argv, *options, reference, *command, env=self._env)

    async def load(self, archive: Path) -> None:
        """Take in the image of an archive."""
        await succeeded(
            *self._argv, "load", "--signature-policy", str(self._policy), "--input", str(archive), env=self._env
        )

    async def save(self, reference: str, archive: Path, *, name: str) -> None:
        """Write an image into an archive, under another name."""
        await succeeded(*self._argv, "tag", reference, name, env=self._env)
        await succeeded(*self._argv, "save", "--output", str(archive), name, env=self._env)

    async def forget(self, *references: str) -> None:
        await succeeded(*self._argv, "rmi", "--force", *references, env=self._env)


@contextmanager
def podman() -> Iterator[Podman]:
    """A podman whose images vanish with the block."""
    with short_directory("podman") as directory:
        yield Podman(directory)
