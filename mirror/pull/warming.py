"""Warming: downloads whole images into the cache, through the same pull service that clients use."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog

from mirror.auth.rules import ANONYMOUS_CALLER
from mirror.errors import ContentUnknown, MirrorError, NameUnknown, NoSpace, PlatformUnknown, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image, Named, Selection
from mirror.oci.listings import subject_tag
from mirror.oci.manifest import Descriptor, Manifest
from mirror.oci.names import Repository, Tag
from mirror.oci.platforms import Platform
from mirror.origin import PullContext
from mirror.pull.protocols import RunningDownloads
from mirror.pull.results import CacheOutcome, ListResult
from mirror.pull.service import PullService
from mirror.storage.protocols import BlobStore

_ATTEMPTS = 4
_PAUSE = 1.0  # seconds before the second attempt; twice as long before each further one
_CONCURRENT_BLOBS = 4  # of one image
_COSIGN = ("sig", "att", "sbom")  # suffixes of the tags that cosign pushes to registries without a referrers API
_MAX_PAGES = 1000
_Answer = TypeVar("_Answer")
log = structlog.get_logger()


@dataclass(slots=True)
class Warmed:
    """The progress of one image.

    Attributes:
        total: bytes of the image, as far as its manifests were read.
        here: of those, bytes that are stored or received.
        content: digests of its manifests, of its referrers, and of all their blobs.
        stale: why the upstream could not confirm the tag; None if it did.
    """

    image: Image
    total: int = 0
    here: int = 0
    content: set[Digest] = field(default_factory=set)
    stale: MirrorError | None = None


class Warming:
    """Downloads images on behalf of the operator."""

    def __init__(self, pulls: PullService, downloads: RunningDownloads, store: BlobStore) -> None:
        self._pulls = pulls
        self._downloads = downloads
        self._store = store

    async def selected(self, named: Named) -> list[Image]:
        """Return the selected images: one image, or every tag of the upstream that matches the selection.

        Raises:
            MirrorError: if the upstream does not list its tags, or no tag matches.
        """
        if isinstance(named, Image):
            return [named]
        tags = [tag async for tag in self._tags(named.repository)]
        chosen = named.chosen(tags)
        if not chosen:
            raise NameUnknown(
                f"none of the {len(tags)} tags of {named.repository} matches {_choice(named)}: choose another pattern"
            )
        return chosen

    async def _tags(self, repository: Repository) -> AsyncIterator[str]:
        query: tuple[tuple[str, str], ...] | None = ()
        for _ in range(_MAX_PAGES):
            if query is None:
                return
            pull = await _with_retries(partial(self._tags_page, repository, query))
            for tag in _list(pull.page.body, "tags"):
                if isinstance(tag, str):
                    yield tag
            query = pull.page.following

    async def _tags_page(self, repository: Repository, query: tuple[tuple[str, str], ...]) -> ListResult:
        return _confirmed(await self._pulls.lists.tags(_context(repository), query))

    async def download(self, warmed: Warmed, platforms: Iterable[Platform] | None) -> None:
        """Download a whole image: its manifests, blobs and referrers (signatures, SBOMs, attestations).

        Args:
            warmed: is updated while the download runs.
            platforms: the platforms to download from an index; None for all.

        Raises:
            MirrorError: if some content can't be fetched or stored. Content that was stored is not fetched again.
        """
        repository = warmed.image.repository
        subjects = [await self._manifest(warmed, warmed.image)]
        waiting = _chosen(subjects[0], platforms, warmed.image)
        while waiting:  # an index may reference other indexes
            child = await self._manifest(warmed, Image(repository, waiting.pop().digest))
            if child.digest not in {one.digest for one in subjects}:
                subjects.append(child)
                waiting += child.references if child.is_index else ()
        every = [*subjects, *[one async for one in self._referring(warmed, repository, subjects)]]
        blobs = {one.digest: one for manifest in every if not manifest.is_index for one in manifest.references}
        warmed.content |= blobs.keys()
        warmed.total = sum(one.size or 0 for one in blobs.values()) + sum(len(one.body) for one in every)
        warmed.here = sum(len(one.body) for one in every)
        slots = asyncio.Semaphore(_CONCURRENT_BLOBS)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in blobs.values():
                    group.create_task(self._blob(warmed, repository, blob, slots))
        except* MirrorError as failures:
            raise _first(failures) from failures

    async def _manifest(self, warmed: Warmed, image: Image) -> Manifest:
        context = _context(image.repository)
        pull = await _with_retries(lambda: self._pulls.manifest(context, image.reference, confirmed=True))
        if pull.manifest is None:
            raise UpstreamUnavailable(f"{image} could not be fetched completely: warm it again")
        if pull.outcome is CacheOutcome.STALE and image == warmed.image:
            warmed.stale = pull.failure
        warmed.content.add(pull.manifest.digest)
        return pull.manifest

    async def _blob(self, warmed: Warmed, repository: Repository, blob: Descriptor, slots: asyncio.Semaphore) -> None:
        received = 0

        def progress(size: int) -> None:
            nonlocal received
            received += size
            warmed.here += size

        async def keep() -> None:
            nonlocal received
            warmed.here, received = warmed.here - received, 0  # another attempt counts from 0
            await self._keep(_context(repository), blob.digest, progress)

        async with slots:
            await _with_retries(keep)

    async def fetch(self, repository: Repository, digest: Digest, *, is_manifest: bool) -> None:
        """Fetch one manifest or blob into the store, for instance after it was found to be damaged.

        Raises:
            ContentUnknown, UpstreamError: if the upstream does not have it, or fails.
            StorageFailed: if it can't be stored.
        """
        context = _context(repository)
        if is_manifest:
            await self._pulls.manifest(context, digest)
            if digest not in self._store:
                raise NoSpace(f"the manifest {digest} could not be stored; see max_size and min_free")
        else:
            await self._keep(context, digest, lambda _: None)

    async def _keep(self, context: PullContext, digest: Digest, progress: Callable[[int], None]) -> None:
        """Bring a blob into the store, and return when it is committed.

        Args:
            progress: called with the number of bytes received, or found in the store.

        Raises:
            BlobUnknown, UpstreamError: if the upstream does not have it, or fails.
            StorageFailed: if it can't be stored (NoSpace: for lack of space).
        """
        async with self._pulls.blob(context, digest) as result:
            at, readable = 0, result.content.readable
            while readable is not None and at < result.size:
                reach = await readable.reach(at)
                progress(reach - at)
                at = reach
            await self._downloads.settle(digest)
        if digest not in self._store:
            raise NoSpace(f"{digest} could not be stored: it has {result.size} bytes; see max_size and min_free")

    async def _referring(
        self, warmed: Warmed, repository: Repository, subjects: Iterable[Manifest]
    ) -> AsyncIterator[Manifest]:
        """Yield the referrers of *subjects*, and their referrers: the signature of an SBOM, for instance."""
        seen = {subject.digest for subject in subjects}
        waiting = list(seen)
        while waiting:
            found = await self._referrers(repository, waiting.pop())
            while found:
                try:
                    manifest = await self._manifest(warmed, found.pop())
                except ContentUnknown:
                    continue  # there is no such tag, or the list is outdated
                if manifest.digest not in seen:
                    seen.add(manifest.digest)
                    waiting.append(manifest.digest)
                    if manifest.is_index:  # the referrers tag schema, or a referrer that is an index
                        found += [Image(repository, one.digest) for one in manifest.references]
                    yield manifest

    async def _referrers(self, repository: Repository, digest: Digest) -> list[Image]:
        """Return the candidates for referrers: the upstream's list, or else the tags of the referrers tag schema."""
        tag = subject_tag(digest)
        found = [Image(repository, Tag.parse(f"{tag}.{kind}")) for kind in _COSIGN]
        try:
            pull = await _with_retries(partial(self._referrers_page, repository, digest))
        except ContentUnknown:
            return [Image(repository, Tag.parse(tag)), *found]
        entries = Manifest.read(digest, pull.page.body, None).references
        return [*(Image(repository, one.digest) for one in entries), *found]

    async def _referrers_page(self, repository: Repository, digest: Digest) -> ListResult:
        return _confirmed(await self._pulls.lists.referrers(_context(repository), digest, ()))


def _context(repository: Repository) -> PullContext:
    """Return the context of a pull that the mirror makes for itself."""
    return PullContext(ANONYMOUS_CALLER, repository)


def _confirmed(pull: ListResult) -> ListResult:
    """Return a list that the upstream confirmed: a stale one may be incomplete.

    Raises:
        MirrorError: if the upstream did not confirm it; the reason.
    """
    if pull.failure is not None:
        raise pull.failure
    return pull


def _chosen(root: Manifest, platforms: Iterable[Platform] | None, image: Image) -> list[Descriptor]:
    """Return the children of an index for these platforms, with their attestations; none if it is not an index.

    Raises:
        PlatformUnknown: if the index has no child for one of *platforms*.
    """
    if not root.is_index or platforms is None:
        return list(root.references) if root.is_index else []
    chosen: dict[Digest, Descriptor] = {}
    for platform in platforms:
        matching = [one for one in root.references if one.platform is not None and one.platform.matches(platform)]
        if not matching:
            own = (one for one in root.references if one.platform is not None and one.about is None)
            known = ", ".join(sorted({str(one.platform) for one in own}))
            raise PlatformUnknown(f"{image} has no manifest for {platform}; it has {known or 'no platforms'}")
        chosen.update((one.digest, one) for one in matching)
    attesting = [one for one in root.references if one.about in chosen]
    return list(chosen.values()) + [one for one in attesting if one.digest not in chosen]


async def _with_retries(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Return the answer of *ask*, with further attempts while the upstream is unavailable: no client waits for it."""
    pause = _PAUSE
    for left in reversed(range(_ATTEMPTS)):
        try:
            return await ask()
        except UpstreamUnavailable as error:
            if not left:
                raise
            log.info("warming_waits", reason=str(error))
            await asyncio.sleep(random.uniform(pause / 2, max(pause, error.retry_after or 0)))  # noqa: S311 - jitter
            pause *= 2
    raise AssertionError("the last attempt returns or raises")


def _list(body: bytes, key: str) -> list[object]:
    try:
        found: object = json.loads(body)[key]
    except (ValueError, TypeError, KeyError):
        return []
    return found if isinstance(found, list) else []


def _choice(selection: Selection) -> str:
    return str(selection).rpartition(":")[2]


def _first(failures: BaseExceptionGroup[MirrorError]) -> MirrorError:
    found = failures.exceptions[0]
    return found if isinstance(found, MirrorError) else _first(found)
