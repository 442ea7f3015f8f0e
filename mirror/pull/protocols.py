"""Protocols of the upstream, the catalog and the downloads, as `PullService` uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestHead
from mirror.oci.names import Reference, Repository, Tag
from mirror.origin import PullContext
from mirror.pull.downloads import Download
from mirror.storage.facts import Proof, TagFact
from mirror.upstream.registry import Page, Pairs


class TagLifetime(Protocol):
    """How long tags stay fresh.

    Attributes:
        fresh_for: seconds.
    """

    fresh_for: float


class Upstream(Protocol):
    """One upstream; see `mirror.upstream.registry.Registry`.

    Attributes:
        is_down: whether it cannot be counted on.
    """

    is_down: bool

    @property
    def quota(self) -> TagLifetime: ...

    async def resolve(self, context: PullContext, reference: Reference) -> ManifestHead | None: ...

    async def manifest(self, context: PullContext, reference: Reference) -> Manifest: ...

    async def blob_size(self, context: PullContext, digest: Digest) -> int | None: ...

    async def tags(self, context: PullContext, query: Pairs) -> Page: ...

    async def referrers(self, context: PullContext, digest: Digest, query: Pairs) -> Page: ...


class StoredFacts(Protocol):
    """Facts about stored content; see `mirror.catalog.catalog.Catalog`."""

    def tag_nowait(self, repository: Repository, tag: Tag) -> TagFact | None: ...

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None: ...

    async def tags(self, repository: Repository) -> Mapping[Tag, TagFact]: ...

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None: ...

    async def drop_tag(self, repository: Repository, tag: Tag) -> None: ...

    def manifest_nowait(self, repository: Repository, digest: Digest) -> Manifest | None: ...

    def has(self, digest: Digest) -> bool: ...

    async def manifest(self, digest: Digest) -> Manifest | None: ...

    async def keep_manifest(self, repository: Repository, manifest: Manifest) -> None: ...

    def expect(self, repository: Repository, manifest: Manifest) -> None: ...

    def expected_size(self, repository: Repository, digest: Digest) -> int | None: ...

    async def holds(self, repository: Repository, digest: Digest) -> bool: ...

    async def keep_holding(self, repository: Repository, digest: Digest, proof: Proof) -> None: ...

    async def referrers(self, repository: Repository, subject: Digest) -> Iterable[Manifest]: ...

    async def is_complete(self, digest: Digest, *, arrived: Callable[[Digest], bool]) -> bool: ...


class RunningDownloads(Protocol):
    """Downloads in progress; see `mirror.pull.downloads.Downloads`."""

    def __contains__(self, digest: object) -> bool: ...

    def size(self, digest: Digest) -> int | None: ...

    def is_started_by(self, digest: Digest, starter: Repository) -> bool: ...

    def has_whole(self, digest: Digest) -> bool: ...

    async def settle(self, digest: Digest) -> None: ...

    def follow(
        self, context: PullContext, digest: Digest, expected_size: int | None
    ) -> AbstractAsyncContextManager[Download]: ...
