"""Admin server: the HTTP application that answers the mirror's own commands on a Unix socket in the cache directory.

The permissions of the socket's file decide who can use it; nothing of it is on a network. `protocol` has the messages.
The endpoints are in `images` (images in the cache), `imports` (imported content) and `warm` (downloads).
"""

from __future__ import annotations

from aiohttp import web

from mirror.admin.http import errors_as_json, require_same_version, respond, send_version
from mirror.admin.image_requests import ImageHandler
from mirror.admin.imports import ImportHandler
from mirror.admin.protocol import MirrorStatus
from mirror.admin.repair import RepairHandler
from mirror.admin.warm import WarmHandler
from mirror.catalog.catalog import Catalog
from mirror.catalog.images import Images
from mirror.oci.names import Upstreams
from mirror.pull.warming import Warming
from mirror.storage.protocols import BlobStore

_MAX_REQUEST = 16 * 2**20  # bytes of a JSON body; blobs are streamed and have no such limit


class AdminServer:
    """All endpoints of the admin socket."""

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
        """
        Args:
            serving: whether this mirror serves clients; false if it exists only for one command.
        """
        self._images = ImageHandler(upstreams, images, store)
        self._imports = ImportHandler(upstreams, images, store, catalog)
        self._warm = WarmHandler(upstreams, images, warming, store)
        self._repair = RepairHandler(images, warming, store)
        self._serving = serving

    def application(self) -> web.Application:
        """Return a new aiohttp application with all endpoints."""
        application = web.Application(client_max_size=_MAX_REQUEST, middlewares=[errors_as_json, require_same_version])
        application.on_response_prepare.append(send_version)
        application.add_routes(
            [
                web.get("/", self._status),
                web.post("/warm", self._warm.answer),
                web.post("/repair", self._repair.answer),
                *self._images.routes(),
                *self._imports.routes(),
            ]
        )
        return application

    async def _status(self, _: web.Request) -> web.Response:
        return respond(MirrorStatus(serving=self._serving))
