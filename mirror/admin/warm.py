"""Admin endpoint /warm: downloads several images at the same time and streams the progress of each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web

from mirror.admin.http import LineStream, line_stream, read_request
from mirror.admin.protocol import ImageFailed, ImageProgress, ImageWarmed, WarmRequest, WarmStarted
from mirror.catalog.images import Images
from mirror.errors import MirrorError
from mirror.oci.image_names import Image, parse_image
from mirror.oci.names import Upstreams
from mirror.pull.warming import Warmed, Warming
from mirror.storage.protocols import BlobStore


@dataclass(slots=True)
class _Operation:
    """One warm request while it runs.

    Attributes:
        jobs: limits how many images are downloaded at the same time.
        started: images whose download has started; two names may select the same image.
        done: images that are complete.
    """

    wanted: WarmRequest
    jobs: asyncio.Semaphore
    group: asyncio.TaskGroup
    stream: LineStream
    started: set[Image] = field(default_factory=set)
    done: list[Warmed] = field(default_factory=list)


class WarmHandler:
    """Answers the requests of `mirror warm`."""

    def __init__(self, upstreams: Upstreams, images: Images, warming: Warming, store: BlobStore) -> None:
        self._upstreams = upstreams
        self._images = images
        self._warming = warming
        self._store = store

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Download the images of a WarmRequest. A failure of one image becomes an ImageFailed line."""
        wanted = await read_request(request, WarmRequest)
        async with line_stream(request) as stream:
            await stream.send(WarmStarted())
            async with asyncio.TaskGroup() as group:
                operation = _Operation(wanted, asyncio.Semaphore(wanted.jobs), group, stream)
                for name in wanted.images:
                    group.create_task(self._select(operation, name))
            for warmed in operation.done:
                await self._check(warmed, stream)
        return stream.response

    async def _select(self, operation: _Operation, name: str) -> None:
        """Start the download of every image that *name* selects."""
        try:
            async with operation.jobs:
                images = await self._warming.selected(parse_image(name, self._upstreams))
        except MirrorError as error:
            await operation.stream.send(ImageFailed(image=name, error=str(error)))
            return
        for image in images:
            if image not in operation.started:
                operation.started.add(image)
                operation.group.create_task(self._warm(operation, image))

    async def _warm(self, operation: _Operation, image: Image) -> None:
        warmed, stream, name = Warmed(image), operation.stream, str(image)
        try:
            async with operation.jobs:
                async with stream.repeating(
                    lambda: ImageProgress(image=name, total=warmed.total, present=warmed.here),
                ):
                    await self._warming.download(warmed, operation.wanted.platforms)
                if operation.wanted.pin:
                    await self._images.pin([image])
                else:
                    await self._images.sync()
        except MirrorError as error:
            await stream.send(ImageFailed(image=name, error=str(error)))
            return
        operation.done.append(warmed)
        stale = None if warmed.stale is None else str(warmed.stale)
        await stream.send(ImageWarmed(image=name, total=warmed.total, stale=stale))

    async def _check(self, warmed: Warmed, stream: LineStream) -> None:
        """Report an image as failed if a later image of the same request evicted some of its blobs."""
        evicted = [digest for digest in warmed.content if digest not in self._store]
        if evicted:
            await stream.send(
                ImageFailed(
                    image=str(warmed.image),
                    error=f"{len(evicted)} of its blobs were evicted again: these images together need more space than "
                    f"max_size ({self._store.limit} bytes) or min_free leaves",
                )
            )
