"""Admin endpoints of `mirror import`: hold blobs, store a blob, make an imported image visible."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from mirror.admin.http import INTERVAL, line_stream, read_request, respond
from mirror.admin.protocol import (
    AdminRequestInvalid,
    BlobsHeld,
    BlobStored,
    HoldRequest,
    ImageImported,
    ImportedManifest,
    ImportRequest,
)
from mirror.catalog.catalog import Catalog
from mirror.catalog.images import Images
from mirror.errors import BundleInvalid, DigestInvalid, ImageIncomplete, IntegrityError, NameInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image, parse_image
from mirror.oci.manifest import Manifest, is_manifest
from mirror.oci.names import Tag, Upstreams
from mirror.storage.facts import TagFact
from mirror.storage.protocols import BlobStore

_CHUNK = 2**20  # bytes


class ImportHandler:
    """Answers requests of `mirror import`, and the holds of `mirror export`."""

    def __init__(self, upstreams: Upstreams, images: Images, store: BlobStore, catalog: Catalog) -> None:
        self._upstreams = upstreams
        self._images = images
        self._store = store
        self._catalog = catalog

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/hold", self._hold),
            web.put("/blobs/{digest}", self._put_blob),
            web.post("/image", self._import_image),
        ]

    async def _hold(self, request: web.Request) -> web.StreamResponse:
        """Keep blobs from eviction until the client closes the connection."""
        wanted = await read_request(request, HoldRequest)
        async with AsyncExitStack() as holds, line_stream(request) as stream:
            for digest in wanted.digests:
                await holds.enter_async_context(self._store.hold(digest))
            await stream.send(BlobsHeld())
            with suppress(ConnectionError):
                while True:  # a write fails once the client is gone
                    await asyncio.sleep(INTERVAL)
                    await stream.send(BlobsHeld())
        return stream.response

    async def _put_blob(self, request: web.Request) -> web.Response:
        """Store a blob through an ingest, as a download does: it becomes visible only after verification.

        Raises:
            AdminRequestInvalid: if the digest or the length is malformed.
            IntegrityError: if the body has another size or digest.
        """
        digest, size = _digest_of(request), request.content_length
        if size is None:
            raise AdminRequestInvalid("the request to store a blob is malformed: Content-Length: it is missing")
        if digest in self._store:
            return respond(BlobStored(stored=False))
        async with self._store.ingest(digest) as ingest:
            if digest in self._store:  # another ingest stored it while this one waited
                return respond(BlobStored(stored=False))
            ingest.restart()
            await ingest.reserve(size)
            async for chunk in request.content.iter_chunked(_CHUNK):
                await ingest.append(memoryview(chunk))
            try:
                ingest.verify(size)
            except IntegrityError:
                ingest.restart()  # a download would resume the wrong bytes
                raise
            await ingest.commit()
        return respond(BlobStored(stored=True))

    async def _import_image(self, request: web.Request) -> web.Response:
        """Make an image visible if all of its blobs are stored: first its manifests, children first, then its name.

        A referrer (a signature, an SBOM) is held with its subject, and not pinned itself.

        Raises:
            AdminRequestInvalid: if the request is malformed.
            ImageIncomplete: if a blob that the image needs is missing.
            BundleInvalid: if the name is the digest of another manifest.
        """
        wanted = await read_request(request, ImportRequest)
        image = self._image(wanted.name)
        manifests = [await self._manifest(one) for one in wanted.manifests]
        root = manifests[-1]
        promised = [wanted.digest, *([] if isinstance(image.reference, Tag) else [image.reference])]
        if any(digest != root.digest for digest in promised):
            raise BundleInvalid(f"the bundle names {image}, but contains {root.digest} for it: export it again")
        for manifest in manifests:
            await self._catalog.keep_manifest(image.repository, manifest, proof="imported")
        previous = None
        if isinstance(image.reference, Tag):
            previous = await self._catalog.tag(image.repository, image.reference)
            await self._catalog.keep_tag(image.repository, image.reference, TagFact(root.digest, time.time()))
        await self._images.keep_imported(image, root)
        return respond(ImageImported(image=str(image), previous=None if previous is None else previous.digest))

    def _image(self, name: str) -> Image:
        """Return the one image that *name* names.

        Raises:
            AdminRequestInvalid: if it breaks the grammar of names, or is a pattern.
            NameUnknown: if its registry is not configured.
        """
        try:
            image = parse_image(name, self._upstreams)
        except (NameInvalid, TagInvalid, DigestInvalid) as error:
            raise AdminRequestInvalid(f"the request to import an image is malformed: name: {error}") from error
        if not isinstance(image, Image):
            raise AdminRequestInvalid(
                f"the request to import an image is malformed: name: {name[:255]!r} is a pattern, not the name of one "
                f"image"
            )
        return image

    async def _manifest(self, imported: ImportedManifest) -> Manifest:
        """Return an imported manifest after checking that its blobs are stored. An index may lack some platforms.

        Raises:
            ImageIncomplete: if the manifest or one of its blobs is not stored.
            BundleInvalid: if the content is not a manifest.
        """
        digest = imported.digest
        body = await self._store.read(digest)
        if body is None:
            raise ImageIncomplete(f"the manifest {digest} is not in the cache")
        if not is_manifest(body):
            raise BundleInvalid(
                f"the bundle lists {digest} as a manifest, but its content is no manifest: export it again"
            )
        manifest = Manifest.read(digest, body, imported.media_type)
        if not manifest.is_index:
            missing = [one.digest for one in manifest.references if one.digest not in self._store]
            if missing:
                raise ImageIncomplete(f"the manifest {digest} needs {missing[0]}, which is not in the cache")
        return manifest


def _digest_of(request: web.Request) -> Digest:
    try:
        return Digest.parse(request.match_info["digest"])
    except DigestInvalid as error:
        raise AdminRequestInvalid(f"the request to store a blob is malformed: digest: {error}") from error
