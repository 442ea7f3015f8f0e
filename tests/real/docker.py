"""dockerd with its own directories and socket, configured only with `registry-mirrors`."""

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
    "http://127.0.0.1:9"  # all but loopback and the mirror go to a closed port: a fallback to Docker Hub fails at once
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
        """The engine's daemon.json, which it reads again on SIGHUP."""
        return self._directory / "etc" / "daemon.json"

    @property
    def pid(self) -> Path:
        """The file with the engine's process id."""
        return self._directory / "docker.pid"

    def daemon(self, daemon_json: str) -> list[str]:
        """Return the engine's command line, with its own directories and no change to the host's network."""
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
        # not `ip netns exec`: containerd would not see mounts in its mount namespace
        within = () if self._network is None else ("nsenter", f"--net=/run/netns/{self._network.name}")
        return [*within, "dockerd", *(f"--{name}={place}" for name, place in places.items()), *network]

    async def fetch(self, hosts: Path, reference: str) -> None:
        """Fetch a whole image with containerd, as for a kubelet, from the hosts in *hosts* (certs.d)."""
        within = () if self._network is None else ("nsenter", f"--net=/run/netns/{self._network.name}")
        arguments = ("content", "fetch", "--all-platforms", "--hosts-dir", str(hosts), reference)
        await succeeded(*within, "ctr", "--address", str(self._engine.socket), *arguments)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a client, docker or Compose, that connects to this engine."""
        return {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self._directory / "client"),
            "DOCKER_BUILDKIT": "0",  # the engine's own builder; the other one is a separate program that may be missing
        }

    async def _docker(self, *arguments: str, within: float = 60.0) -> str:
        return await succeeded("docker", *arguments, env=self.environment, within=within)

    async def make(self, name: str, root: Path) -> None:
        """Create an image of one layer: the root file system in a tar file."""
        await self._docker("import", str(root), name)

    async def build(self, name: str, context: Path, file: str, **arguments: str) -> None:
        """Build an image from a Dockerfile, without a network."""
        given = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        await self._docker(
            *("build", "--network=none", "--force-rm", "--tag", name, "--file", f"{context}/{file}", *given),
            str(context),
            within=240,
        )

    async def inspect(self, name: str) -> dict[str, Any]:
        """Return the engine's description of a container or an image."""
        (found,) = json.loads(await self._docker("inspect", name))
        assert isinstance(found, dict)
        return found

    async def stop(self, container: str) -> None:
        """Stop a container with SIGTERM, and with SIGKILL only after its own time limit."""
        await self._docker("stop", container)

    async def remove(self, *containers: str) -> None:
        if containers:
            await self._docker("rm", "--force", "--volumes", *containers)

    async def copy(self, image: str, place: str, to: Path) -> Path:
        """Copy a directory of an image to a path that does not exist yet."""
        container = (await self._docker("create", image)).strip()
        await self._docker("cp", "--archive", f"{container}:{place}", str(to))
        await self.remove(container)
        return to

    async def create_network(self, name: str) -> None:
        await self._docker("network", "create", name)

    async def mirrors(self) -> list[str]:
        """Return the addresses that the engine asks before Docker Hub."""
        shown = json.loads(await self._docker("info", "--format", "{{json .RegistryConfig.Mirrors}}"))
        return [str(url) for url in shown or []]

    async def logs(self, container: str) -> str:
        result = await ran("docker", "logs", container, env=self.environment)
        return result.output + result.errors

    async def inside(self, container: str, *command: str) -> Ran:
        """Run a command in a running container."""
        return await ran("docker", "exec", container, *command, env=self.environment)

    async def started(self, *arguments: str) -> str:
        """Start a container in the background with these arguments of `docker run`; return its id."""
        return (await self._docker("run", "--detach", *arguments)).strip()

    async def completed(self, *arguments: str) -> str:
        """Run a container to its end with these arguments of `docker run`; return its output."""
        return await self._docker("run", "--rm", *arguments)

    async def login(self, host: str, user: str, password: str) -> None:
        await self._docker("login", "--username", user, "--password", password, host)

    def logged_in_to_docker_hub(self, user: str, password: str) -> None:
        """Write the client configuration that `docker login` writes for Docker Hub."""
        folder = self._directory / "client"
        folder.mkdir(exist_ok=True)
        login = b64encode(f"{user}:{password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": login}}}))

    async def pull(self, reference: str) -> None:
        await self._docker("pull", "--quiet", reference)

    async def run(self, reference: str, *command: str) -> str:
        """Run a container of a local image and return its output."""
        return await self._docker("run", "--rm", "--pull=never", "--network=none", reference, *command)

    async def load(self, archive: Path) -> None:
        """Load the images of an archive."""
        await self._docker("load", "--quiet", "--input", str(archive))

    async def save(self, reference: str, archive: Path, *, name: str) -> None:
        """Write an image to an archive, under another name."""
        await self._docker("tag", reference, name)
        await self._docker("save", "--output", str(archive), name)

    async def forget(self, *references: str) -> None:
        """Remove images and all layers that no other image uses."""
        await self._docker("rmi", "--force", *references)

    async def images(self) -> list[str]:
        """Return the ids of all local images."""
        return (await self._docker("images", "--quiet", "--all")).split()

    async def digests(self, reference: str) -> list[str]:
        """Return the digests that the engine recorded for an image."""
        shown = json.loads(await self._docker("inspect", "--format", "{{json .RepoDigests}}", reference))
        return [str(name).partition("@")[2] for name in shown]


@asynccontextmanager
async def docker(
    registry_mirror: str, *, daemon_json: str | None = None, network: Network | None = None
) -> AsyncIterator[Docker]:
    """Run a Docker engine until the end of the block.

    Args:
        daemon_json: the whole configuration; by default it has only the mirror.
        network: the engine's network namespace; None for the host's.
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
