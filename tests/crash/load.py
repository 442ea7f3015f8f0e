"""Clients that pull until the mirror is killed; every byte that they receive has to be correct."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.crash.acknowledged import Acknowledged
from tests.fake.content import Manifest
from tests.fake.shelf import Shelf
from tests.http.client import Client, Reply
from tests.http.upstreams import Upstream

_CLIENTS = 6


@dataclass(slots=True)
class Load:
    """Clients of a mirror that pull the images of a shelf until the mirror is killed."""

    shelf: Shelf
    name: str  # of the upstream, in the mirror
    known: Acknowledged
    client: Client
    rng: random.Random
    killed: bool = False  # from then on responses may be incomplete
    answers: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run clients until the end of the block; a response may be incomplete only after the mirror was killed."""
        async with asyncio.TaskGroup() as clients:
            pulling = [clients.create_task(self._pull_until_killed()) for _ in range(_CLIENTS)]
            try:
                yield
            finally:
                for task in pulling:
                    task.cancel()

    async def _pull_until_killed(self) -> None:
        try:
            while not self.killed:
                repository = self.rng.choice(list(self.shelf.roots))
                await self._pull_image(repository, f"v{self.rng.randrange(len(self.shelf.roots[repository]))}")
        except (aiohttp.ClientError, ConnectionError):
            if not self.killed:
                raise

    async def _pull_image(self, repository: str, tag: str) -> None:
        reply = await self.manifest(repository, tag)
        if reply is None:
            return
        root = self.shelf.manifests[reply.digest]
        for manifest in (root, *root.children):
            await self.manifest(repository, manifest.digest)
            blobs = list(manifest.blobs)
            self.rng.shuffle(blobs)
            half = len(blobs) // 2
            for some in (blobs[:half], blobs[half:]):
                await asyncio.gather(*(self._get_or_head(repository, blob.digest) for blob in some))

    async def _get_or_head(self, repository: str, digest: str) -> None:
        size = len(self.shelf.content(digest))
        match self.rng.randrange(8):
            case 0:
                await self.head(repository, digest)
            case 1 if size > 1:
                first = self.rng.randrange(size)
                await self.blob(repository, digest, (first, self.rng.randint(first, size - 1)))
            case _:
                await self.blob(repository, digest)

    def upstream(self, repository: str) -> Upstream:
        """Return the request targets of a repository."""
        return Upstream(self.name, self.shelf.registry, repository)

    async def manifest(self, repository: str, reference: str) -> Reply | None:
        """GET a manifest by tag or digest and check it; return None if the kill came first."""
        reply = await self.client.get(self.upstream(repository).manifest(reference))
        if not self._whole(reply):
            return None
        assert reply.status == 200, reply
        allowed = {reference} if ":" in reference else self.shelf.ever(repository, reference)
        assert reply.digest in allowed, reply
        manifest: Manifest = self.shelf.manifests[reply.digest]
        assert reply.headers["Docker-Content-Digest"] == manifest.digest, reply
        assert reply.headers["Content-Type"] == manifest.media_type, reply
        if ":" in reference:
            self.known.learn(repository, reference, pulled=_is_download(reply))
        else:
            self.known.learn_tag(repository, reference, manifest.digest, pulled=_is_download(reply))
        return reply

    async def blob(self, repository: str, digest: str, span: tuple[int, int] | None = None) -> Reply | None:
        """GET a blob or a part of it (first and last byte) and check it; return None if the kill came first."""
        headers = None if span is None else {"Range": f"bytes={span[0]}-{span[1]}"}
        reply = await self.client.get(self.upstream(repository).blob(digest), headers)
        if not self._whole(reply):
            return None
        content = self.shelf.content(digest)
        first, last = (0, len(content) - 1) if span is None else span
        assert reply.status == (200 if span is None else 206), reply
        assert reply.body == content[first : last + 1], f"wrong bytes: {reply}"
        self.known.learn(repository, digest, pulled=_is_download(reply))
        return reply

    async def head(self, repository: str, digest: str) -> Reply:
        """HEAD a blob and check its length."""
        reply = await self.client.head(self.upstream(repository).blob(digest))
        assert reply.status == 200, reply
        assert reply.length == len(self.shelf.content(digest)), reply
        self.known.learn(repository, digest, pulled=False)
        return reply

    def _whole(self, reply: Reply) -> bool:
        self.answers += 1
        assert reply.whole or self.killed, f"incomplete: {reply}"
        return reply.whole


def _is_download(reply: Reply) -> bool:
    """Return whether the mirror stored the content for this reply, or for another one of the same time."""
    return "stored" in reply.cache_status or "collapsed" in reply.cache_status
