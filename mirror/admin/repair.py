"""Admin endpoint /repair: removes a damaged blob that `mirror verify` found, and fetches it again."""

from __future__ import annotations

import os

from aiohttp import web

from mirror.admin.http import read_request, respond
from mirror.admin.protocol import RepairedBlob, RepairRequest
from mirror.catalog.images import Images
from mirror.errors import MirrorError
from mirror.oci.names import Repository
from mirror.pull.warming import Warming
from mirror.storage.protocols import BlobStore


class RepairHandler:
    """Answers the requests of `mirror verify`."""

    def __init__(self, images: Images, warming: Warming, store: BlobStore) -> None:
        self._images = images
        self._warming = warming
        self._store = store

    async def answer(self, request: web.Request) -> web.Response:
        """Condemn the blob, unless another file is in its place, and fetch it through the pull service if wanted.

        Raises:
            StorageFailed: if the file can't be removed, or that not be made durable.
        """
        wanted = await read_request(request, RepairRequest)
        users = await self._images.users_of(wanted.digest)  # before condemning: this also deletes its facts
        file = os.stat_result((0, wanted.inode, wanted.device, 0, 0, 0, 0, 0, 0, 0))
        await self._store.condemn(wanted.digest, wanted.reason, seen=file)
        failures: list[str] = []
        fetched_from: Repository | None = None
        repositories = {image.repository: is_manifest for image, is_manifest in users.items()} if wanted.fetch else {}
        for repository, is_manifest in repositories.items():
            try:
                await self._warming.fetch(repository, wanted.digest, is_manifest=is_manifest)
            except MirrorError as error:
                failures.append(f"{repository}: {error}")
            else:
                fetched_from = repository
                break
        await self._images.sync()
        return respond(
            RepairedBlob(
                images=tuple(map(str, users)),
                fetched_from=None if fetched_from is None else str(fetched_from),
                failures=tuple(failures),
            )
        )
