"""dockerd with directories and a socket of its own; what it is told about registries is `registry-mirrors` alone."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.real.containerd import Containerd, containerd
from tests.real.program import running, short_directory, succeeded

PROXY = (
    "http://127.0.0.1:9"  # all but loopback and the mirror is a closed port: falling back to Docker Hub fails at once
)


class Docker:
    """A Docker engine and its command line."""

    def __init__(self, directory: Path, engine: Containerd) -> None:
        self._directory = directory
        self._engine = engine
        self.socket = directory / "docker.sock"

    def daemon(self, daemon_json: str) -> list[str]:
        """The command that starts it; all flags keep it in its directory and out of this machine's network."""
        configuration = self._directory / "daemon.json"
        configuration.write_text(daemon_json)
        places = {
            "config-file": configuration,
            "data-root": self._directory / "data",
            "exec-root": self._directory / "exec",
            "pidfile": self._directory / "docker.pid",
            "host": f"unix://{self.socket}",
            "containerd": self._engine.socket,
        }
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        return ["dockerd", *(f"--{name}={place}" for name, place in places.items()), *network]

    async def _docker(self, *arguments: str) -> str:
        env = {"DOCKER_CONFIG": str(self._directory / "client")}
        return await succeeded("docker", "--host", f"unix://{self.socket}", *arguments, env=env)

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
async def docker(registry_mirror: str, *, daemon_json: str | None = None) -> AsyncIterator[Docker]:
    """A Docker engine as long as the block lasts.

    Args:
        daemon_json: its whole configuration, in place of the one that has nothing but the mirror.
    """
    async with containerd() as engine:
        with short_directory("dockerd") as directory:
            daemon = Docker(directory, engine)
            near = f"127.0.0.1,localhost,{urlsplit(registry_mirror).hostname}"
            env = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "NO_PROXY": near}
            argv = daemon.daemon(daemon_json or json.dumps({"registry-mirrors": [registry_mirror]}))
            async with running(argv, log=directory / "dockerd.log", env=env) as program:
                await program.until(lambda: "API listen on" in program.said())
                yield daemon
