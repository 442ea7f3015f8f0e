"""Warming: images brought into the cache without a client that pulls them."""

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

_TRIES = 4
_PAUSE = 1.0  # seconds before the second try; twice as long before each further one
_AT_ONCE = 4  # blobs of one image
_COSIGN = ("sig", "att", "sbom")  # tags that cosign makes of a digest where there is no list of referrers
_MOST_PAGES = 1000
_Answer = TypeVar("_Answer")
log = structlog.get_logger()


@dataclass(slots=True)
class Warmed:
    """An image on its way in: how far it has come.

    Attributes:
        total: bytes, as far as its manifests were read.
        here: of those, bytes that are stored, or on their way.
        content: what it needs: manifests of its own, of its platforms, of what refers to them, and their blobs.
        stale: why upstream could not confirm what the tag names; None where it did.
    """

    image: Image
    total: int = 0
    here: int = 0
    content: set[Digest] = field(default_factory=set)
    stale: MirrorError | None = None


class Warming:
    """Brings images in, through the same pulls that clients make."""

    def __init__(self, pulls: PullService, downloads: RunningDownloads, store: BlobStore) -> None:
        self._pulls = pulls
        self._downloads = downloads
        self._store = store

    async def selected(self, named: Named) -> list[Image]:
        """The images that are meant: one, or those of a repository's tags that are chosen.

        Raises:
            MirrorError: upstream does not tell its tags, or none of them is meant.
        """
        if isinstance(named, Image):
            return [named]
        tags = [tag async for tag in self._tags(named.repository)]
        chosen = named.chosen(tags)
        if not chosen:
            raise NameUnknown(f"none of the {len(tags)} tags of {named.repository} is meant by {_choice(named)}")
        return chosen

    async def _tags(self, repository: Repository) -> AsyncIterator[str]:
        query: tuple[tuple[str, str], ...] | None = ()
        for _ in range(_MOST_PAGES):
            if query is None:
                return
            pull = await _patiently(partial(self._tags_page, repository, query))
            for tag in _list(pull.page.body, "tags"):
                if isinstance(tag, str):
                    yield tag
            query = pull.page.following

    async def _tags_page(self, repository: Repository, query: tuple[tuple[str, str], ...]) -> ListResult:
        return _confirmed(await self._pulls.tags(_context(repository), query))

    async def bring(self, warmed: Warmed, platforms: Iterable[Platform] | None) -> None:
        """Brings an image in whole: manifests, blobs, and what refers to it (signatures, SBOMs, attestations).

        Args:
            warmed: is kept up to date meanwhile.
            platforms: of an index, which ones; None for all.

        Raises:
            MirrorError: something can't be had, or can't be stored. What came is kept, and is not fetched again.
        """
        repository = warmed.image.repository
        subjects = [await self._manifest(warmed, warmed.image)]
        waiting = _chosen(subjects[0], platforms, warmed.image)
        while waiting:  # an index may name others
            child = await self._manifest(warmed, Image(repository, waiting.pop().digest))
            if child.digest not in {one.digest for one in subjects}:
                subjects.append(child)
                waiting += child.references if child.is_index else ()
        every = [*subjects, *[one async for one in self._referring(warmed, repository, subjects)]]
        blobs = {one.digest: one for manifest in every if not manifest.is_index for one in manifest.references}
        warmed.content |= blobs.keys()
        warmed.total = sum(one.size or 0 for one in blobs.values()) + sum(len(one.body) for one in every)
        warmed.here = sum(len(one.body) for one in every)
        turns = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in blobs.values():
                    group.create_task(self._blob(warmed, repository, blob, turns))
        except* MirrorError as failures:
            raise _first(failures) from failures

    async def _manifest(self, warmed: Warmed, image: Image) -> Manifest:
        context = _context(image.repository)
        pull = await _patiently(lambda: self._pulls.manifest(context, image.reference, confirmed=True))
        if pull.manifest is None:
            raise UpstreamUnavailable(f"{image} could not be had whole")
        if pull.outcome is CacheOutcome.STALE and image == warmed.image:
            warmed.stale = pull.failure
        warmed.content.add(pull.manifest.digest)
        return pull.manifest

    async def _blob(self, warmed: Warmed, repository: Repository, blob: Descriptor, turns: asyncio.Semaphore) -> None:
        came = 0

        def advanced(size: int) -> None:
            nonlocal came
            came += size
            warmed.here += size

        async def keep() -> None:
            nonlocal came
            warmed.here, came = warmed.here - came, 0  # another try begins at its beginning
            await self._keep(_context(repository), blob.digest, advanced)

        async with turns:
            await _patiently(keep)

    async def fetch(self, repository: Repository, digest: Digest, *, is_manifest: bool) -> None:
        """Fetch one manifest or blob into the store, for instance after it was found to be damaged.

        Raises:
            ContentUnknown, UpstreamError
            StorageFailed: it can't be stored.
        """
        context = _context(repository)
        if is_manifest:
            await self._pulls.manifest(context, digest)
        else:
            await self._keep(context, digest, lambda _: None)

    async def _keep(self, context: PullContext, digest: Digest, progress: Callable[[int], None]) -> None:
        """Bring a blob into the store, and return when it is committed.

        Args:
            progress: is called with the number of bytes that arrive, or are found to be stored.

        Raises:
            BlobUnknown, UpstreamError
            StorageFailed: it can't be stored (NoSpace: for lack of space).
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
        """What refers to *subjects*, and what refers to that: a signature of an SBOM comes along too."""
        seen = {subject.digest for subject in subjects}
        waiting = list(seen)
        while waiting:
            found = await self._referrers(repository, waiting.pop())
            while found:
                try:
                    manifest = await self._manifest(warmed, found.pop())
                except ContentUnknown:
                    continue  # a tag that nobody made, or a list that is behind
                if manifest.digest not in seen:
                    seen.add(manifest.digest)
                    waiting.append(manifest.digest)
                    if manifest.is_index:  # it stands in for a list of referrers, or is one of them
                        found += [Image(repository, one.digest) for one in manifest.references]
                    yield manifest

    async def _referrers(self, repository: Repository, digest: Digest) -> list[Image]:
        """Where what refers to *digest* may be: as upstream lists it, or else by tags that stand in for the list."""
        tag = subject_tag(digest)
        found = [Image(repository, Tag.parse(f"{tag}.{kind}")) for kind in _COSIGN]
        try:
            pull = await _patiently(partial(self._referrers_page, repository, digest))
        except ContentUnknown:
            return [Image(repository, Tag.parse(tag)), *found]
        entries = Manifest.read(digest, pull.page.body, None).references
        return [*(Image(repository, one.digest) for one in entries), *found]

    async def _referrers_page(self, repository: Repository, digest: Digest) -> ListResult:
        return _confirmed(await self._pulls.referrers(_context(repository), digest, ()))


def _context(repository: Repository) -> PullContext:
    """Return the context of a pull that the mirror makes for itself."""
    return PullContext(ANONYMOUS_CALLER, repository)


def _confirmed(pull: ListResult) -> ListResult:
    """A list as upstream has it now: what stands in may lack what is to be brought in.

    Raises:
        MirrorError: why it is not.
    """
    if pull.failure is not None:
        raise pull.failure
    return pull


def _chosen(root: Manifest, platforms: Iterable[Platform] | None, image: Image) -> list[Descriptor]:
    """The children of an index that are wanted, and what attests something about them; none of what is no index.

    Raises:
        PlatformUnknown: it has none for one of *platforms*.
    """
    if not root.is_index or platforms is None:
        return list(root.references) if root.is_index else []
    chosen: dict[Digest, Descriptor] = {}
    for platform in platforms:
        matching = [one for one in root.references if one.platform is not None and one.platform.matches(platform)]
        if not matching:
            own = (one for one in root.references if one.platform is not None and one.about is None)
            known = ", ".join(sorted({str(one.platform) for one in own}))
            raise PlatformUnknown(f"{image} has nothing for {platform}; it has {known or 'no platforms'}")
        chosen.update((one.digest, one) for one in matching)
    attesting = [one for one in root.references if one.about in chosen]
    return list(chosen.values()) + [one for one in attesting if one.digest not in chosen]


async def _patiently(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """An answer that upstream may have to be asked for more than once: nobody waits here who could fall back."""
    pause = _PAUSE
    for left in reversed(range(_TRIES)):
        try:
            return await ask()
        except UpstreamUnavailable as error:
            if not left:
                raise
            log.info("warming_waits", reason=str(error))
            await asyncio.sleep(random.uniform(pause / 2, max(pause, error.retry_after or 0)))  # noqa: S311 - jitter
            pause *= 2
    raise AssertionError("the last try returns or raises")


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
