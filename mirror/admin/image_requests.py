"""Admin endpoints about images in the cache: list, stats, graph, pin, unpin, remove, collect."""

from __future__ import annotations

from aiohttp import web

from mirror.admin.http import read_request, respond
from mirror.admin.protocol import (
    AdminRequestInvalid,
    CacheStats,
    CollectedGarbage,
    CollectRequest,
    GraphBlob,
    GraphImage,
    GraphResponse,
    ImageList,
    ImageSelection,
    ImageSummary,
    IncompleteImage,
    RemovedImages,
    SelectedImages,
)
from mirror.catalog.images import Images, StoredImage
from mirror.errors import DigestInvalid, ImageUnknown, NameInvalid, NameUnknown, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.image_names import GLOB, Image, Named, parse_image
from mirror.oci.manifest import Manifest
from mirror.oci.names import DOCKER_HUB, Upstreams
from mirror.storage.protocols import BlobStore


class ImageHandler:
    """Answers requests about images that are in the cache."""

    def __init__(self, upstreams: Upstreams, images: Images, store: BlobStore) -> None:
        self._upstreams = upstreams
        self._images = images
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/images", self._list),
            web.get("/stats", self._stats),
            web.post("/graph", self._graph),
            web.post("/pin", self._pin),
            web.post("/unpin", self._unpin),
            web.post("/remove", self._remove),
            web.post("/collect", self._collect),
        ]

    async def _list(self, _: web.Request) -> web.Response:
        return respond(ImageList(images=tuple(map(_summary, await self._images.all()))))

    async def _stats(self, _: web.Request) -> web.Response:
        images = await self._images.all()
        stats = CacheStats(
            images=len(images),
            pinned=sum(image.is_pinned for image in images),
            incomplete=sum(not image.is_complete for image in images),
            blobs=len(self._store),
            bytes=self._store.occupied,
            max_size=self._store.limit,
        )
        return respond(stats)

    async def _graph(self, request: web.Request) -> web.Response:
        """Return everything that images need: root manifests, and blobs in the order in which a bundle carries them."""
        images, manifests = dict[str, GraphImage](), set[Digest]()
        blobs, incomplete = dict[Digest, int](), list[IncompleteImage]()
        for image in sorted(await self._selected(request), key=str):
            graph = await self._images.graph(image)
            if graph is None or graph.missing:
                missing = () if graph is None else tuple(sorted(graph.missing, key=str))
                incomplete.append(IncompleteImage(name=str(image), missing=missing))
                continue
            images[str(image)] = _graph_image(str(image), graph.root)
            for reference, manifest in graph.attached.items():
                name = str(Image(image.repository, reference))
                images.setdefault(name, _graph_image(name, manifest, attached=True))
            manifests |= graph.manifests.keys()
            blobs.update((digest, self._store.size(digest) or 0) for digest in graph.digests)
        graph_response = GraphResponse(
            images=tuple(images.values()),
            blobs=tuple(GraphBlob(digest=digest, size=size) for digest, size in blobs.items()),
            manifests=tuple(sorted(manifests, key=str)),
            incomplete=tuple(incomplete),
        )
        return respond(graph_response)

    async def _pin(self, request: web.Request) -> web.Response:
        images = await self._selected(request)
        await self._images.pin(images)
        return respond(SelectedImages(images=tuple(map(str, images))))

    async def _unpin(self, request: web.Request) -> web.Response:
        images = await self._selected(request)
        await self._images.unpin(images)
        return respond(SelectedImages(images=tuple(map(str, images))))

    async def _remove(self, request: web.Request) -> web.Response:
        images = await self._selected(request)
        freed = await self._images.remove(images)
        return respond(RemovedImages(images=tuple(map(str, images)), freed=freed))

    async def _collect(self, request: web.Request) -> web.Response:
        await read_request(request, CollectRequest)
        return respond(CollectedGarbage(freed=await self._images.collect()))

    async def _selected(self, request: web.Request) -> list[Image]:
        """Return the images that an ImageSelection selects, each once.

        Raises:
            AdminRequestInvalid: if the request or a name in it is malformed.
            NameUnknown: if the registry of a name is not configured.
            ImageUnknown: if a name or pattern selects no image.
        """
        selection = await read_request(request, ImageSelection)
        names: list[tuple[str, Named | None]] = []
        for index, text in enumerate(selection.images):
            try:
                names.append((text, self._named(text)))
            except (NameInvalid, TagInvalid, DigestInvalid) as error:
                fault = f"images.{index}: {error}"
                raise AdminRequestInvalid(f"the request to {request.path} is malformed: {fault}") from error
        selected: dict[Image, None] = {}
        if selection.which is not None:
            stored = await self._images.all()
            selected.update((one.image, None) for one in stored if selection.which == "all" or one.is_pinned)
        for text, named in names:
            matching = await self._matching(text, named)
            if not matching:
                raise ImageUnknown(f"no image in the cache matches {text[:255]!r}: mirror ls lists all of them")
            selected.update((image, None) for image in matching)
        return list(selected)

    def _named(self, text: str) -> Named | None:
        """Return what a name or a pattern of tags names; None for a pattern of whole names.

        Raises:
            NameInvalid, TagInvalid, DigestInvalid: if it is none of them.
            NameUnknown: if its registry is not configured.
        """
        try:
            return parse_image(text, self._upstreams)
        except (NameInvalid, NameUnknown):
            if GLOB.search(text):
                return None
            raise

    async def _matching(self, text: str, named: Named | None) -> list[Image]:
        """Return the images in the cache that *text* selects, which names *named*."""
        if named is None:
            return await self._images.matching(text) or await self._images.matching(f"{DOCKER_HUB}/{text}")
        if isinstance(named, Image):
            return [named] if await self._images.graph(named) is not None else []
        candidates = [image for image in await self._images.named() if image.repository == named.repository]
        chosen = set(map(str, named.chosen(str(image.reference) for image in candidates)))
        return [image for image in candidates if str(image) in chosen]


def _graph_image(name: str, manifest: Manifest, *, attached: bool = False) -> GraphImage:
    return GraphImage(
        name=name,
        digest=manifest.digest,
        media_type=manifest.head.media_type or "",
        size=len(manifest.body),
        attached=attached,
    )


def _summary(image: StoredImage) -> ImageSummary:
    return ImageSummary(
        name=str(image.image),
        upstream=image.image.repository.upstream,
        digest=image.digest,
        media_type=image.media_type,
        platforms=tuple(map(str, image.platforms)),
        size=image.size,
        shared=image.shared,
        complete=image.is_complete,
        pinned=image.is_pinned,
        checked=image.checked,
        used=image.used,
    )
