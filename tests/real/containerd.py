"""containerd with its own root, state and socket, and `ctr` as its client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.real.program import running, short_directory, succeeded

NOWHERE = "http://127.0.0.1:9"  # the discard port is closed: requests for anything that the mirror lacks fail at once


class Containerd:
    """A running containerd."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hosts = directory / "certs.d"
        self._runs = 0
        self.socket = directory / "containerd.sock"

    def configuration(self) -> str:
        return (
            f'version = 2\nroot = "{self._directory}/root"\nstate = "{self._directory}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.socket}"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self._directory}/opt"\n'
        )

    def mirrored_by(self, url: str, *registries: str, more: str = "", server: str = NOWHERE) -> None:
        """Write hosts.toml for each registry with the mirror as its host; containerd adds `ns=REGISTRY`."""
        for registry in registries:
            folder = self._hosts / registry
            folder.mkdir(parents=True, exist_ok=True)
            host = f'[host."{url}"]\ncapabilities = ["pull", "resolve"]\n'
            (folder / "hosts.toml").write_text(f'server = "{server}"\n{host}{more}\n')

    def configured(self, hosts_toml: str) -> None:
        """Write hosts.toml for every registry without its own."""
        (self._hosts / "_default").mkdir(parents=True)
        (self._hosts / "_default/hosts.toml").write_text(hosts_toml)

    async def ctr(self, *arguments: str) -> str:
        return await succeeded("ctr", "--address", str(self.socket), *arguments)

    async def pull(self, reference: str, *options: str) -> None:
        hosts = ["--hosts-dir", str(self._hosts), "--snapshotter", "native"]
        await self.ctr("images", "pull", *hosts, *options, reference)

    async def fetch(self, reference: str) -> None:
        """Pull all content without unpacking it: for artifacts."""
        await self.ctr("content", "fetch", "--hosts-dir", str(self._hosts), "--all-platforms", reference)

    async def run(self, reference: str, *command: str) -> str:
        options = ["run", "--rm", "--net-host", "--snapshotter", "native"]
        self._runs += 1
        return await self.ctr(*options, reference, f"run-{self._runs}", *command)

    async def forget(self, *references: str) -> None:
        """Remove images, and content that only they used."""
        await self.ctr("images", "remove", "--sync", *references)

    async def content(self) -> set[str]:
        """Return the digests of all stored content."""
        return set((await self.ctr("content", "ls", "--quiet")).split())


@asynccontextmanager
async def containerd() -> AsyncIterator[Containerd]:
    """Run a containerd until the end of the block."""
    with short_directory("containerd") as directory:
        daemon = Containerd(directory)
        configuration = directory / "config.toml"
        configuration.write_text(daemon.configuration())
        async with running(["containerd", "--config", str(configuration)], log=directory / "containerd.log") as program:
            await program.until(lambda: "containerd successfully booted" in program.said())
            yield daemon
