"""docker-registry as an independent upstream, with its storage in a directory and its access log."""

import base64
import io
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp

from tests.real.images import Blob, Image
from tests.real.program import Program

LISTENING = re.compile(r'msg="listening on 127\.0\.0\.1:(\d+)')
ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/1\.[01]" (?P<status>\d{3}) (?P<size>\d+)')
BLOB = re.compile(r"/v2/(?P<repository>.+)/blobs/(?P<digest>[a-z0-9]+:[0-9a-f]+)$")


class Authenticator(Protocol):
    """The authentication of a registry: its configuration, and the Authorization header of a push."""

    def configuration(self) -> dict[str, object]: ...

    async def authorization(self, repository: str) -> str | None: ...


class Open:
    """No authentication."""

    def configuration(self) -> dict[str, object]:
        return {}

    async def authorization(self, repository: str) -> str | None:
        return None


class Htpasswd:
    """One user with a password (Basic)."""

    user = "puller"
    password = "correct horse"
    line = "puller:$2y$05$umqaJNtzkK0lu4jlgqDe/..UMZjodxfDV1MbOpO7p7Bqu3zx/PfGW\n"

    def __init__(self, directory: Path) -> None:
        self._file = directory / "htpasswd"
        self._file.write_text(self.line)

    def configuration(self) -> dict[str, object]:
        return {"htpasswd": {"realm": "test", "path": str(self._file)}}

    async def authorization(self, repository: str) -> str | None:
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the access log."""

    method: str
    path: str
    status: int
    size: int  # bytes of the body that were sent


class Registry:
    """A docker-registry that can be stopped, and started again at the same address with the same content."""

    def __init__(self, directory: Path, authenticator: Authenticator) -> None:
        self._directory = directory
        self._authenticator = authenticator
        self._program: Program | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self._directory / "registry.log"

    async def start(self) -> None:
        configuration = self._directory / "config.yml"
        configuration.write_text(json.dumps(self._configuration()))  # JSON is YAML
        self.log.touch()
        earlier = self.log.stat().st_size
        program = await Program.start(["docker-registry", "serve", str(configuration)], log=self.log)
        self._program = program
        await program.until(lambda: LISTENING.search(program.said(), earlier) is not None)
        found = LISTENING.search(program.said(), earlier)
        assert found
        self.port = int(found[1])

    async def stop(self) -> None:
        """Stop the registry: connections are refused from now on, and the access log is complete."""
        if self._program is not None:
            program, self._program = self._program, None
            await program.kill()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Accept connections without answering, until the end of the block."""
        assert self._program is not None
        self._program.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._program.signal(signal.SIGCONT)

    def _configuration(self) -> dict[str, object]:
        return {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self._directory / "storage")}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
            "auth": self._authenticator.configuration(),
        }

    async def push(self, image: Image, repository: str, *references: str) -> None:
        """Push all that *image* references, then its manifest under each of *references* (default: its digest)."""
        for child in image.images:
            await self.push(child, repository)
        authorization = await self._authenticator.authorization(repository)
        headers = {"Authorization": authorization} if authorization else {}
        async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
            for blob in image.blobs:
                await self._push_blob(session, blob, repository)
            for reference in references or (image.digest,):
                url = f"{self.url}/v2/{repository}/manifests/{reference}"
                headers = {"Content-Type": image.manifest.media_type}
                async with session.put(url, data=image.manifest.content, headers=headers):
                    pass

    async def _push_blob(self, session: aiohttp.ClientSession, blob: Blob, repository: str) -> None:
        async with session.post(f"{self.url}/v2/{repository}/blobs/uploads/") as started:
            upload = started.headers["Location"]
        headers = {"Content-Type": "application/octet-stream"}
        async with session.put(f"{upload}&digest={blob.digest}", data=io.BytesIO(blob.content), headers=headers):
            pass

    def accesses(self) -> list[Access]:
        """Return all requests so far, pushes included."""
        return [
            Access(line["method"], line["path"], int(line["status"]), int(line["size"]))
            for line in ACCESS.finditer(self.log.read_text())
        ]

    def blob_gets(self) -> Counter[str]:
        """Return how often each blob was requested with GET, by digest."""
        paths = (BLOB.match(access.path) for access in self.accesses() if access.method == "GET")
        return Counter(path["digest"] for path in paths if path)


@asynccontextmanager
async def docker_registry(directory: Path, authenticator: Authenticator | None = None) -> AsyncIterator[Registry]:
    """Run a docker-registry in *directory* until the end of the block, or until it is stopped."""
    directory.mkdir(parents=True, exist_ok=True)
    registry = Registry(directory, authenticator or Open())
    try:
        await registry.start()
        yield registry
    finally:
        await registry.stop()
