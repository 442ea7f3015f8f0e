"""dockerd with directories and a socket of its own; what it is told about registries is `registry-mirrors` alone."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.real.containerd import Containerd, containerd
from tests.real.network import Network
from tests.real.program import Ran, ran, running, short_directory, succeeded

PROXY = (
    "http://127.0.0.1:9"  # all but loopback and the mirror is a closed port: falling back to Docker Hub fails at once
)


class Docker:
    """A Docker engine and its command line."""

    def __init__(self, directory: Path, engine: Containerd, network: Network | None = None) -> None:
        self._network = network
        self._directory = directory
        self._engine = engine
        self.socket = directory / "docker.sock"

    @property
    def configuration(self) -> Path:
        """Its daemon.json; it reads that anew on SIGHUP."""
        return self._directory / "etc" / "daemon.json"

    @property
    def pid(self) -> Path:
        """The file with its process id."""
        return self._directory / "docker.pid"

    def daemon(self, daemon_json: str) -> list[str]:
        """The command that starts it; all flags keep it in its directory and out of this machine's network."""
        self.configuration.parent.mkdir()
        self.configuration.write_text(daemon_json)
        places = {
            "config-file": self.configuration,
            "data-root": self._directory / "data",
            "exec-root": self._directory / "exec",
            "pidfile": self.pid,
            "host": f"unix://{self.socket}",
            "containerd": self._engine.socket,
        }
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        # Not by `ip netns exec`: what is mounted there, containerd does not see.
        within = () if self._network is None else ("nsenter", f"--net=/run/netns/{self._network.name}")
        return [*within, "dockerd", *(f"--{name}={place}" for name, place in places.items()), *network]

    async def fetch(self, hosts: Path, reference: str) -> None:
        """Have containerd fetch all of an image, as it does for a kubelet: it asks whom *hosts* names (certs.d)."""
        within = () if self._network is None else ("nsenter", f"--net=/run/netns/{self._network.name}")
        words = ("content", "fetch", "--all-platforms", "--hosts-dir", str(hosts), reference)
        await succeeded(*within, "ctr", "--address", str(self._engine.socket), *words)

    @property
    def environment(self) -> dict[str, str]:
        """What sends a client of its own here: docker's, or Compose."""
        return {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self._directory / "client"),
            "DOCKER_BUILDKIT": "0",  # the engine's own builder: the other is a program that may be missing
        }

    async def _docker(self, *arguments: str, within: float = 60.0) -> str:
        return await succeeded("docker", *arguments, env=self.environment, within=within)

    async def make(self, name: str, root: Path) -> None:
        """An image of one layer: the root file system in a tar."""
        await self._docker("import", str(root), name)

    async def build(self, name: str, context: Path, file: str, **arguments: str) -> None:
        """An image out of a Dockerfile, without a network."""
        given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        await self._docker(
            *("build", "--network=none", "--force-rm", "--tag", name, "--file", f"{context}/{file}", *given),
            str(context),
            within=240,
        )

    async def inspect(self, name: str) -> dict[str, Any]:
        """What the engine says of a container, or of an image."""
        (found,) = json.loads(await self._docker("inspect", name))
        assert isinstance(found, dict)
        return found

    async def stop(self, container: str) -> None:
        """Stopped as it wants to be: SIGTERM, its own time, and only then SIGKILL."""
        await self._docker("stop", container)

    async def remove(self, *containers: str) -> None:
        if containers:
            await self._docker("rm", "--force", "--volumes", *containers)

    async def copy(self, image: str, place: str, to: Path) -> Path:
        """What an image has in a directory, copied to one that is not there yet."""
        container = (await self._docker("create", image)).strip()
        await self._docker("cp", "--archive", f"{container}:{place}", str(to))
        await self.remove(container)
        return to

    async def create_network(self, name: str) -> None:
        await self._docker("network", "create", name)

    async def mirrors(self) -> list[str]:
        """The addresses that it asks before Docker Hub."""
        shown = json.loads(await self._docker("info", "--format", "{{json .RegistryConfig.Mirrors}}"))
        return [str(url) for url in shown or []]

    async def logs(self, container: str) -> str:
        said = await ran("docker", "logs", container, env=self.environment)
        return said.output + said.errors

    async def inside(self, container: str, *command: str) -> Ran:
        """What comes of a command in a container that runs."""
        return await ran("docker", "exec", container, *command, env=self.environment)

    async def started(self, *arguments: str) -> str:
        """A container in the background, as `docker run` is told; its id."""
        return (await self._docker("run", "--detach", *arguments)).strip()

    async def completed(self, *arguments: str) -> str:
        """What a container says that ends by itself, well, as `docker run` is told."""
        return await self._docker("run", "--rm", *arguments)

    async def login(self, host: str, user: str, password: str) -> None:
        await self._docker("login", "--username", user, "--password", password, host)

    def logged_in_to_docker_hub(self, user: str, password: str) -> None:
        """What `docker login` leaves behind when Docker Hub has let it in."""
        folder = self._directory / "client"
        folder.mkdir(exist_ok=True)
        login = b64encode(f"{user}:{password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": login}}}))

    async def pull(self, reference: str) -> None:
        await self._docker("pull", "--quiet", reference)

    async def run(self, reference: str, *command: str) -> str:
        """What a container of an image that is already here prints."""
        return await self._docker("run", "--rm", "--pull=never", "--network=none", reference, *command)

    async def load(self, archive: Path) -> None:
        """Take in the images of an archive."""
        await self._docker("load", "--quiet", "--input", str(archive))

    async def save(self, reference: str, archive: Path, *, name: str) -> None:
        """Write an image into an archive, under another name."""
        await self._docker("tag", reference, name)
        await self._docker("save", "--output", str(archive), name)

    async def forget(self, *references: str) -> None:
        """Remove images and every layer of theirs that no other image uses."""
        await self._docker("rmi", "--force", *references)

    async def images(self) -> list[str]:
        """The ids of all images that are here."""
        return (await self._docker("images", "--quiet", "--all")).split()

    async def digests(self, reference: str) -> list[str]:
        """The names by digest that the engine noted for an image."""
        shown = json.loads(await self._docker("inspect", "--format", "{{json .RepoDigests}}", reference))
        return [str(name).partition("@")[2] for name in shown]


@asynccontextmanager
async def docker(
    registry_mirror: str, *, daemon_json: str | None = None, network: Network | None = None
) -> AsyncIterator[Docker]:
    """A Docker engine as long as the block lasts.

    Args:
        daemon_json: its whole configuration, in place of the one that has nothing but the mirror.
        network: where it lives; None for this machine's own network.
    """
    async with containerd() as engine:
        with short_directory("dockerd") as directory:
            daemon = Docker(directory, engine, network)
            near = f"127.0.0.1,localhost,{urlsplit(registry_mirror).hostname}"
            env = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "NO_PROXY": near}
            argv = daemon.daemon(daemon_json or json.dumps({"registry-mirrors": [registry_mirror]}))
            async with running(argv, log=directory / "dockerd.log", env=env) as program:
                await program.until(lambda: "API listen on" in program.said())
                yield daemon
