"""Administration: what the mirror's own commands ask a running mirror for, over a socket in its cache directory.

The socket is a file: who may open it is who may write to the cache. Nothing of this is on any network. Answers are
JSON; those that take their time are lines of JSON, as things happen (newline-delimited).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog
from aiohttp import web

from mirror.admin.protocol import EVERY, lines, question, texts_of
from mirror.admin.warm import WarmHandler
from mirror.catalog.catalog import Catalog
from mirror.catalog.images import Images, StoredImage
from mirror.errors import BundleInvalid, ImageIncomplete, ImageUnknown, MirrorError, NameInvalid, NameUnknown
from mirror.oci.digest import Digest
from mirror.oci.image_names import GLOB, Image, parse_image
from mirror.oci.manifest import Manifest, is_manifest
from mirror.oci.names import DOCKER_HUB, Tag, Upstreams
from mirror.pull.warming import Warming
from mirror.storage.facts import TagFact
from mirror.storage.layout import storage_errors
from mirror.storage.protocols import BlobStore

_PIECE = 2**20
_LONGEST = 16 * 2**20  # bytes of a question
log = structlog.get_logger()


class AdminServer:
    """Answers the mirror's own commands."""

    def __init__(
        self,
        upstreams: Upstreams,
        images: Images,
        warming: Warming,
        store: BlobStore,
        catalog: Catalog,
        *,
        serving: bool,
    ) -> None:
        """*serving*: whether this mirror stays, or is there for one command."""
        self._upstreams = upstreams
        self._images = images
        self._warmings = WarmHandler(upstreams, images, warming, store)
        self._store = store
        self._catalog = catalog
        self._serving = serving

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_LONGEST, middlewares=[_translate])
        application.add_routes(
            [
                web.get("/", self._alive),
                web.get("/images", self._list),
                web.post("/closure", self._closure),
                web.post("/hold", self._hold),
                web.post("/warm", self._warmings.answer),
                web.post("/pin", self._pin),
                web.post("/unpin", self._unpin),
                web.post("/remove", self._remove),
                web.post("/collect", self._collect),
                web.put("/blobs/{digest}", self._put_blob),
                web.post("/image", self._keep_image),
                web.get("/stats", self._stats),
            ]
        )
        return application

    async def _alive(self, _: web.Request) -> web.Response:
        return web.json_response({"serving": self._serving})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response([_described(image) for image in await self._images.all()])

    async def _stats(self, _: web.Request) -> web.Response:
        images = await self._images.all()
        found = {
            "images": len(images),
            "pinned": sum(image.is_pinned for image in images),
            "incomplete": sum(not image.is_complete for image in images),
            "blobs": len(self._store),
            "bytes": self._store.occupied,
            "limit": self._store.limit,
        }
        return web.json_response(found)

    async def _closure(self, request: web.Request) -> web.Response:
        """What images need: their roots, and blobs in the order in which a bundle carries them."""
        images, manifests = dict[str, dict[str, object]](), set[str]()
        blobs, missing = dict[str, int](), dict[str, list[str]]()
        for image in sorted(await self._asked(request), key=str):
            closure = await self._images.closure(image)
            if closure is None or closure.missing:
                missing[str(image)] = [] if closure is None else sorted(map(str, closure.missing))
                continue
            images[str(image)] = _carried(closure.root)
            for reference, manifest in closure.attached.items():
                images.setdefault(str(Image(image.repository, reference)), _carried(manifest) | {"attached": True})
            manifests |= {str(digest) for digest in closure.manifests}
            blobs.update((str(digest), self._store.size(digest) or 0) for digest in closure.digests)
        found = [{"name": name, **image} for name, image in images.items()]
        return web.json_response({"images": found, "blobs": blobs, "manifests": sorted(manifests), "missing": missing})

    async def _hold(self, request: web.Request) -> web.StreamResponse:
        """Keeps blobs from eviction until the asker closes the connection."""
        document = await question(request)
        async with AsyncExitStack() as held, lines(request) as say:
            for text in texts_of(document, "digests"):
                await held.enter_async_context(self._store.hold(Digest.parse(text)))
            response = await say({"held": True})
            with suppress(ConnectionError):
                while True:  # a line now and then shows whether the asker is still there
                    await asyncio.sleep(EVERY)
                    await say({})
            return response

    async def _pin(self, request: web.Request) -> web.Response:
        images = await self._asked(request)
        await self._images.pin(images)
        return web.json_response({"images": list(map(str, images))})

    async def _unpin(self, request: web.Request) -> web.Response:
        images = await self._asked(request)
        await self._images.unpin(images)
        return web.json_response({"images": list(map(str, images))})

    async def _remove(self, request: web.Request) -> web.Response:
        images = await self._asked(request)
        freed = await self._images.remove(images)
        return web.json_response({"images": list(map(str, images)), "freed": freed})

    async def _collect(self, _: web.Request) -> web.Response:
        return web.json_response({"freed": await self._images.collect()})

    async def _asked(self, request: web.Request) -> list[Image]:
        """The images here that are meant: by name as people write it, by pattern, the pinned ones, or all.

        Raises:
            ImageUnknown: a name or pattern means none.
        """
        document = await question(request)
        found: dict[Image, None] = {}
        if document.get("which") in {"all", "pinned"}:
            stored = await self._images.all()
            found.update((one.image, None) for one in stored if document["which"] == "all" or one.is_pinned)
        for text in texts_of(document, "images"):
            chosen = await self._meant(text)
            if not chosen:
                raise ImageUnknown(f"no image here is meant by {text[:255]!r}: mirror ls lists those that are")
            found.update((image, None) for image in chosen)
        return list(found)

    async def _meant(self, text: str) -> list[Image]:
        try:
            named = parse_image(text, self._upstreams)
        except (NameInvalid, NameUnknown):
            if not GLOB.search(text):
                raise
            return await self._images.matching(text) or await self._images.matching(f"{DOCKER_HUB}/{text}")
        if isinstance(named, Image):
            return [named] if await self._images.closure(named) is not None else []
        ours = [image for image in await self._images.named() if image.repository == named.repository]
        chosen = set(map(str, named.chosen(str(image.reference) for image in ours)))
        return [image for image in ours if str(image) in chosen]

    # Bringing in

    async def _put_blob(self, request: web.Request) -> web.Response:
        """Takes a blob in, by the same door as a download: verified, or not there."""
        digest = Digest.parse(request.match_info["digest"])
        if digest in self._store:
            return web.json_response({"stored": False})
        async with self._store.ingest(digest) as ingest:
            if digest in self._store:  # it came while this waited for its turn
                return web.json_response({"stored": False})
            ingest.restart()
            await ingest.reserve(request.content_length or 0)
            async for piece in request.content.iter_chunked(_PIECE):
                await ingest.append(memoryview(piece))
            ingest.verify(request.content_length)
            await ingest.commit()
        return web.json_response({"stored": True})

    async def _keep_image(self, request: web.Request) -> web.Response:
        """Makes an image visible whose blobs are all here: its manifests, children first, then its name.

        What refers to another one is part of that, and not pinned by itself.

        Raises:
            ImageIncomplete: something that it needs is not here.
            BundleInvalid: its name is that of something else.
        """
        document = await question(request)
        image = parse_image(str(document.get("name")), self._upstreams)
        if not isinstance(image, Image):
            raise ImageUnknown(f"{document.get('name')!r:.255} names no single image")
        manifests = [await self._arrived(text) for text in texts_of(document, "manifests")]
        if not manifests:
            raise ImageIncomplete(f"{image} came without a manifest")
        root = manifests[-1]
        told = [document.get("digest"), *([] if isinstance(image.reference, Tag) else [str(image.reference)])]
        if any(one != str(root.digest) for one in told):
            raise BundleInvalid(f"what the bundle calls {image} is {root.digest}")
        for manifest in manifests:
            await self._catalog.keep_manifest(image.repository, manifest, proof="imported")
        before = None
        if isinstance(image.reference, Tag):
            before = await self._catalog.tag(image.repository, image.reference)
            await self._catalog.keep_tag(image.repository, image.reference, TagFact(root.digest, time.time()))
        await self._images.keep_imported(image, root)
        return web.json_response({"image": str(image), "was": None if before is None else str(before.digest)})

    async def _arrived(self, text: str) -> Manifest:
        """A manifest that was brought in, whose blobs were too. Of an index, some platforms are enough."""
        media_type, _, digest_text = text.rpartition(" ")
        digest = Digest.parse(digest_text)
        body = await self._store.read(digest)
        if body is None:
            raise ImageIncomplete(f"the manifest {digest} is not here")
        if not is_manifest(body):
            raise BundleInvalid(f"{digest} is no manifest, though the bundle says so")
        manifest = Manifest.read(digest, body, media_type or None)
        if not manifest.is_index:
            missing = [one.digest for one in manifest.references if one.digest not in self._store]
            if missing:
                raise ImageIncomplete(f"the manifest {digest} needs {missing[0]}, which is not here")
        return manifest


@web.middleware
async def _translate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except MirrorError as error:
        status = error.status if error.status >= 400 else 500
        return web.json_response({"error": str(error), "kind": type(error).__name__}, status=status)


def _carried(manifest: Manifest) -> dict[str, object]:
    """As bundles list it."""
    media_type = manifest.head.media_type or ""
    return {"digest": str(manifest.digest), "mediaType": media_type, "size": len(manifest.body)}


def _described(image: StoredImage) -> dict[str, object]:
    return {
        "name": str(image.image),
        "upstream": image.image.repository.upstream,
        "digest": str(image.digest),
        "mediaType": image.media_type,
        "platforms": list(map(str, image.platforms)),
        "size": image.size,
        "shared": image.shared,
        "complete": image.is_complete,
        "pinned": image.is_pinned,
        "checked": image.checked,
        "used": image.used,
    }


@asynccontextmanager
async def administered(admin: AdminServer, path: Path) -> AsyncIterator[None]:
    """Answers at the socket *path* until the context ends. Whoever holds the cache's lock owns that name.

    Raises:
        StorageFailed: there can be no socket.
    """
    runner = web.AppRunner(admin.application(), access_log=None, handle_signals=False, handler_cancellation=True)
    await runner.setup()
    directory = -1
    try:
        with storage_errors(f"the socket {path}, where the mirror answers its own commands, can't be made"):
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            await _bind(runner, path, directory)
        yield
    finally:
        await runner.cleanup()
        with suppress(OSError):
            os.unlink(path)
        if directory >= 0:
            os.close(directory)


async def _bind(runner: web.AppRunner, path: Path, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    before = os.umask(0o177)
    try:
        # A socket's address has 107 characters at most; this one is short wherever the cache is.
        await web.UnixSite(runner, f"/proc/self/fd/{directory}/{path.name}").start()
    finally:
        os.umask(before)
