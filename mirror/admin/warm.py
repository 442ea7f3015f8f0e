"""Warmings that a command asks for: several images at once, each with a word on how it goes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from mirror.admin.protocol import Say, lines, question, saying, texts_of
from mirror.catalog.images import Images
from mirror.errors import MirrorError
from mirror.oci.image_names import Image, parse_image
from mirror.oci.names import Upstreams
from mirror.oci.platforms import Platform
from mirror.pull.warming import Warmed, Warming
from mirror.storage.protocols import BlobStore


@dataclass(slots=True)
class _Round:
    """One command's images.

    Attributes:
        begun: each is warmed once, however many names mean it.
    """

    platforms: list[Platform] | None
    pin: bool
    turns: asyncio.Semaphore
    group: asyncio.TaskGroup
    say: Say
    begun: set[Image] = field(default_factory=set)
    done: list[Warmed] = field(default_factory=list)


class WarmHandler:
    """Answers `mirror warm`."""

    def __init__(self, upstreams: Upstreams, images: Images, warming: Warming, store: BlobStore) -> None:
        self._upstreams = upstreams
        self._images = images
        self._warming = warming
        self._store = store

    async def answer(self, request: web.Request) -> web.StreamResponse:
        document = await question(request)
        told = None if document.get("platforms") is None else texts_of(document, "platforms")
        platforms = None if told is None else [Platform.parse(text) for text in told]
        turns = asyncio.Semaphore(max(1, int(str(document.get("jobs", 2)))))
        async with lines(request) as say:
            response = await say({})
            async with asyncio.TaskGroup() as group:
                current = _Round(platforms, document.get("pin") is True, turns, group, say)
                for text in texts_of(document, "images"):
                    group.create_task(self._choose(current, text))
            for warmed in current.done:
                await self._check(warmed, say)
            return response

    async def _choose(self, current: _Round, text: str) -> None:
        """Begins with all images that one name means. Never raises but for cancellation, as the others."""
        try:
            async with current.turns:
                images = await self._warming.selected(parse_image(text, self._upstreams))
        except MirrorError as error:
            await current.say({"image": text, "error": str(error)})
            return
        for image in images:
            if image not in current.begun:
                current.begun.add(image)
                current.group.create_task(self._warm(current, image))

    async def _warm(self, current: _Round, image: Image) -> None:
        warmed, say = Warmed(image), current.say
        try:
            async with current.turns:
                async with saying(lambda: say({"image": str(image), "total": warmed.total, "here": warmed.here})):
                    await self._warming.bring(warmed, current.platforms)
                if current.pin:
                    await self._images.pin([image])
        except MirrorError as error:
            await say({"image": str(image), "error": str(error)})
            return
        current.done.append(warmed)
        done: dict[str, object] = {"image": str(image), "done": True, "total": warmed.total, "here": warmed.total}
        await say(done | {"stale": None if warmed.stale is None else str(warmed.stale)})

    async def _check(self, warmed: Warmed, say: Say) -> None:
        """Takes back that an image is here, where others needed its room since."""
        gone = [digest for digest in warmed.content if digest not in self._store]
        if gone:
            await say(
                {
                    "image": str(warmed.image),
                    "error": f"{len(gone)} of its blobs are not here after all: these images together need more than "
                    f"max_size ({self._store.limit} bytes) or min_free leave",
                }
            )
