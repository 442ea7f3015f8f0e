"""The clients: each repeatedly pulls something in some way; the model checks the responses."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from tests.fake.content import Manifest
from tests.http.client import Client, Reply, read_rest
from tests.http.upstreams import Upstream
from tests.soak.model import HEAD_WITHIN, Exchange, Model
from tests.soak.service import Service

_LOST = (aiohttp.ClientError, ConnectionError, TimeoutError)
_SLOW_PIECES = 20
_SLOW_PAUSE = 0.07  # seconds


@dataclass(slots=True)
class Clients:
    """Any number of clients, each running until its task is cancelled."""

    model: Model
    service: Service
    client: Client
    rng: random.Random
    pause: asyncio.Event = field(default_factory=asyncio.Event)  # set: clients may pull
    under_way: int = 0

    async def pull_forever(self) -> None:
        """Run one client: pull image after image while the event is set."""
        while True:
            await self.pause.wait()
            await self.service.serving()
            self.under_way += 1
            try:
                await self._pull(self.rng.choice(list(self.model.shelves)))
            finally:
                self.under_way -= 1
            await asyncio.sleep(self.rng.uniform(0, 0.02))

    async def stopped(self) -> None:
        """Start no more pulls, and wait until all running ones end."""
        self.pause.clear()
        while self.under_way:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.01)

    async def _pull(self, name: str) -> None:
        shelf = self.model.shelves[name]
        tags = list(shelf.tags)
        repository, tag = tags[int(len(tags) * self.rng.random() ** 2)]  # some are pulled far more often than others
        if self.rng.randrange(10):
            await self._image(name, repository, tag)
        else:
            target = f"/v2/{name}/{repository}/tags/list"
            self.model.page(await self._ask("list", name, lambda: self.client.get(target), target))

    async def _image(self, name: str, repository: str, tag: str) -> None:
        shelf = self.model.shelves[name]
        target = Upstream(name, shelf.registry, repository).manifest(tag)
        exchange = await self._ask("manifest by tag", name, lambda: self.client.get(target), target)
        digest = self.model.tag(exchange, repository, tag)
        if digest is None:
            await asyncio.sleep(self.rng.uniform(0.1, 0.4))  # as real clients do
            return
        root = shelf.manifests[digest]
        for manifest in (root, *root.children):
            if not self.pause.is_set():
                return
            await self._manifest(name, repository, manifest)
            blobs = self.rng.sample(manifest.blobs, len(manifest.blobs))
            await asyncio.gather(*(self._blob(name, repository, blob.digest) for blob in blobs))

    async def _manifest(self, name: str, repository: str, manifest: Manifest) -> None:
        target = Upstream(name, self.model.shelves[name].registry, repository).manifest(manifest)
        etag = {"If-None-Match": f'"{manifest.digest}"'}
        match self.rng.randrange(6):
            case 0:
                exchange = await self._ask("manifest, HEAD", name, lambda: self.client.head(target), target)
                self.model.head(exchange, manifest.digest)
            case 1:
                exchange = await self._ask("manifest, conditional", name, lambda: self.client.get(target, etag), target)
                self.model.manifest(exchange, manifest.digest)
            case _:
                exchange = await self._ask("manifest by digest", name, lambda: self.client.get(target), target)
                self.model.manifest(exchange, manifest.digest)

    async def _blob(self, name: str, repository: str, digest: str) -> None:
        shelf = self.model.shelves[name]
        target = Upstream(name, shelf.registry, repository).blob(digest)
        size = len(shelf.content(digest))
        ways = [self._whole, self._whole, self._whole, self._part, self._part, self._two_parts, self._head]
        if size > 100_000:
            ways += [self._slowly, self._leaving]
        await self.rng.choice(ways)(name, target, digest, size)

    async def _whole(self, name: str, target: str, digest: str, size: int) -> None:
        self.model.blob(await self._ask("blob", name, lambda: self.client.get(target), target), digest)

    async def _part(self, name: str, target: str, digest: str, size: int) -> None:
        first, last = self._span(size)
        headers = {"Range": f"bytes={first}-{last}"}
        exchange = await self._ask("blob, a part", name, lambda: self.client.get(target, headers), target)
        self.model.blob(exchange, digest, (first, last))

    async def _two_parts(self, name: str, target: str, digest: str, size: int) -> None:
        if size < 10:
            return
        spans = [(0, self.rng.randrange(size // 4 + 1)), (size // 2, size // 2 + self.rng.randrange(size // 4 + 1))]
        headers = {"Range": "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)}
        exchange = await self._ask("blob, two parts", name, lambda: self.client.get(target, headers), target)
        self.model.two_parts(exchange, digest, spans)

    async def _head(self, name: str, target: str, digest: str, size: int) -> None:
        self.model.head(await self._ask("blob, HEAD", name, lambda: self.client.head(target), target), digest)

    async def _slowly(self, name: str, target: str, digest: str, size: int) -> None:
        """Read a few bytes at a time, with pauses."""

        async def get() -> Reply:
            async with self.client.open(target) as answer:
                body = bytearray()
                try:
                    while piece := await answer.content.read(size // _SLOW_PIECES):
                        body += piece
                        await asyncio.sleep(_SLOW_PAUSE)
                except (aiohttp.ClientPayloadError, ConnectionError):
                    return Reply(answer.status, answer.headers, bytes(body), whole=False)
                return Reply(answer.status, answer.headers, bytes(body), whole=True)

        self.model.blob(await self._ask("blob, slowly", name, get, target), digest)

    async def _leaving(self, name: str, target: str, digest: str, size: int) -> None:
        """Read the beginning, then disconnect."""
        received = b""

        async def get() -> Reply:
            nonlocal received
            async with self.client.open(target) as answer:
                if answer.status != 200:
                    body, whole = await read_rest(answer)
                    return Reply(answer.status, answer.headers, body, whole)
                try:
                    received = await answer.content.read(self.rng.randrange(1, size))
                except (aiohttp.ClientPayloadError, ConnectionError):
                    return Reply(answer.status, answer.headers, received, whole=False)
                return Reply(answer.status, answer.headers, received, whole=True)

        exchange = await self._ask("blob, and leave", name, get, target)
        if exchange.reply is not None and exchange.reply.status == 200:
            self.model.left(exchange, digest, received)
        else:
            self.model.blob(exchange, digest)

    async def _ask(self, kind: str, name: str, get: Callable[[], Awaitable[Reply]], target: str) -> Exchange:
        began = time.monotonic()
        try:
            reply = await get()
        except _LOST as error:
            return Exchange(kind, name, target, began, time.monotonic(), None, repr(error))
        took = time.monotonic() - began
        if reply.status >= 400 and took > HEAD_WITHIN:
            self.model.break_promise("a late refusal", f"{target}: {reply.status} after {took:.1f} s")
        return Exchange(kind, name, target, began, time.monotonic(), reply)

    def _span(self, size: int) -> tuple[int, int]:
        first = self.rng.randrange(size)
        return first, self.rng.randint(first, size - 1)
