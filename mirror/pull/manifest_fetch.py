"""Manifest fetches: manifests requested from the upstream, collapsed, and stored with the tags that name them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from types import TracebackType

import structlog

from mirror.errors import ManifestUnknown, StorageFailed, UpstreamUnavailable
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference, Repository, Tag
from mirror.origin import ClientLogin, PullContext
from mirror.primitives.singleflight import SingleFlight
from mirror.pull.protocols import StoredFacts, Upstream
from mirror.pull.results import CacheOutcome, ManifestResult
from mirror.pull.upstream_guard import UpstreamGuard
from mirror.storage.facts import TagFact
from mirror.storage.protocols import BlobStore

_Key = tuple[ClientLogin | None, Repository, Reference]
log = structlog.get_logger()


class ManifestFetch:
    """Requests manifests from the upstreams: one request for all clients with the same login that ask meanwhile."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], store: BlobStore, catalog: StoredFacts, guard: UpstreamGuard
    ) -> None:
        self._upstreams = upstreams
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._fetching = SingleFlight[_Key, Manifest]()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._fetching.__aexit__(kind, error, trace)

    async def head(self, context: PullContext, reference: Reference) -> ManifestResult | None:
        """Return the head alone, by HEAD; None if the upstream does not state all of it."""
        await self._guard.require_askable(context, reference, ManifestUnknown)
        upstream = self._upstreams[context.repository.upstream]
        head = await self._guard.ask(context, reference, upstream.resolve(context, reference))
        if head is None or head.media_type is None or head.size is None:
            return None
        if isinstance(reference, Tag):
            await self._catalog.keep_tag(context.repository, reference, TagFact(head.digest, time.time()))
        return ManifestResult(head, None, CacheOutcome.PASSED)

    async def fetched(self, context: PullContext, reference: Reference) -> ManifestResult:
        """Return the manifest that the upstream sends, from a request in progress if there is one.

        Raises:
            ManifestUnknown, Denied, UpstreamError: if the upstream does not send it.
        """
        await self._guard.require_askable(context, reference, ManifestUnknown)
        manifest, joined = await self._fetching.do(
            (context.login, context.repository, reference), partial(self._fetch, context, reference)
        )
        stored = CacheOutcome.STORED if manifest.digest in self._store else CacheOutcome.PASSED
        return ManifestResult(manifest.head, manifest, CacheOutcome.COLLAPSED if joined else stored)

    async def _fetch(self, context: PullContext, reference: Reference) -> Manifest:
        repository = context.repository
        upstream = self._upstreams[repository.upstream]
        manifest = await self._guard.ask(context, reference, upstream.manifest(context, reference))
        try:
            await self._catalog.keep_manifest(repository, manifest)
        except StorageFailed as error:
            log.info("manifest_not_stored", repository=str(repository), reason=str(error))  # the store warns of it
            self._catalog.expect(repository, manifest)
        if isinstance(reference, Tag):
            await self._catalog.keep_tag(repository, reference, TagFact(manifest.digest, time.time()))
        return manifest

    async def revalidated(self, context: PullContext, tag: Tag, fact: TagFact) -> Manifest:
        """Return the manifest that the tag names now, according to the upstream.

        Raises:
            ManifestUnknown, Denied, UpstreamError: if the upstream does not answer, or has no such tag.
        """
        revalidate = partial(self._revalidate, context, tag, fact)
        manifest, _ = await self._fetching.do((context.login, context.repository, tag), revalidate)
        return manifest

    async def _revalidate(self, context: PullContext, tag: Tag, fact: TagFact) -> Manifest:
        """Ask the upstream by HEAD which manifest the tag names now, and fetch it if it is not stored."""
        repository = context.repository
        head = await self._upstreams[repository.upstream].resolve(context, tag)
        if head is None:
            return await self._fetch(context, tag)
        is_ours = head.digest == fact.digest or await self._catalog.holds(repository, head.digest)
        manifest = await self._catalog.manifest(head.digest) if is_ours else None
        if manifest is None:
            try:
                manifest = await self._fetch(context, head.digest)
            except ManifestUnknown as unknown:
                raise UpstreamUnavailable(
                    f"{repository.upstream} answers that {repository}:{tag} is {head.digest}, but "
                    f"does not have that manifest: pull again later",
                    upstream=repository.upstream,
                ) from unknown
        await self._catalog.keep_tag(repository, tag, TagFact(head.digest, time.time()))
        return manifest
