"""Rights: whether a repository may serve a digest, asked of its upstream if the catalog does not know."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from mirror.errors import BlobUnknown
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.origin import ClientLogin, PullContext
from mirror.primitives.singleflight import SingleFlight
from mirror.pull.protocols import StoredFacts, Upstream
from mirror.pull.upstream_guard import UpstreamGuard


class Rights:
    """The rights of repositories to blobs: blobs are shared between repositories, rights are not."""

    def __init__(self, upstreams: Mapping[str, Upstream], catalog: StoredFacts, guard: UpstreamGuard) -> None:
        self._upstreams = upstreams
        self._catalog = catalog
        self._guard = guard
        self._confirming = SingleFlight[tuple[ClientLogin | None, Repository, Digest], int | None]()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._confirming.__aexit__(kind, error, trace)

    async def require(self, context: PullContext, digest: Digest) -> None:
        """Require that the repository has a right to the blob, by asking the upstream if none is recorded.

        Raises:
            BlobUnknown, Denied, UpstreamError: if the upstream does not confirm it.
        """

        async def confirm() -> int | None:
            await self._guard.require_askable(context, digest, BlobUnknown)
            return await self.confirm(context, digest)

        if not await self._catalog.holds(context.repository, digest):
            await self._confirming.do((context.login, context.repository, digest), confirm)

    async def confirm(self, context: PullContext, digest: Digest) -> int | None:
        """Ask the upstream for the blob, record the right that its answer proves, and return the size.

        Returns:
            The bytes of the blob; None if the upstream does not state them.

        Raises:
            BlobUnknown, Denied, UpstreamError: if the upstream does not confirm it.
        """
        asking = self._upstreams[context.repository.upstream].blob_size(context, digest)
        size = await self._guard.ask(context, digest, asking)
        await self._catalog.keep_holding(context.repository, digest, "confirmed")
        return size
