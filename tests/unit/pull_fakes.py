"""Fakes of the pull service's protocols, and the states they can be in."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

from mirror.auth.rules import Caller
from mirror.config import TagSettings
from mirror.errors import (
    BlobUnknown,
    MirrorError,
    StorageFailed,
)
from mirror.oci.authorization import Login
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestHead
from mirror.oci.names import Reference, Repository, Tag
from mirror.origin import PullContext
from mirror.pull.downloads import Download
from mirror.pull.origins import Origins
from mirror.pull.protocols import RunningDownloads, StoredFacts, Upstream
from mirror.pull.service import PullService
from mirror.storage.facts import Proof, TagFact
from mirror.storage.protocols import BlobStore

REPOSITORY = Repository("docker.io", "library/app")
OURS = PullContext(Caller(None), REPOSITORY)
CLIENTS = PullContext(Caller("ann"), REPOSITORY, Login("ann", "secret"))
TAG = Tag("v1")
LAYER = Digest.of(b"layer")
SETTINGS = TagSettings(fresh_for=60, stale_for=3600, missing_for=60)
FRESH, EXPIRED, TOO_OLD = 1.0, 600.0, 7200.0  # seconds since the upstream confirmed the tag


def manifest_of(text: str) -> Manifest:
    layers = [{"mediaType": "application/octet-stream", "digest": str(LAYER), "size": 5}]
    body = json.dumps({"schemaVersion": 2, "annotations": {"text": text}, "layers": layers}).encode()
    return Manifest.read(Digest.of(body), body, "application/vnd.oci.image.manifest.v1+json")


OLD, NEW = manifest_of("old"), manifest_of("new")
Failing = type[MirrorError] | None


@dataclass
class FakeUpstream:
    """An upstream that names NEW (or OLD) by the tag, or fails."""

    serves: Manifest = NEW
    fails: Failing = None
    is_down: bool = False
    has_layer: bool = True
    asked: list[str] = field(default_factory=list)
    quota: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(fresh_for=60.0))

    def _ask(self, text: str) -> None:
        self.asked.append(text)
        if self.fails is not None:
            raise self.fails("the upstream's failure")

    async def resolve(self, context: PullContext, reference: Reference) -> ManifestHead | None:
        self._ask("HEAD manifest")
        return self.serves.head

    async def manifest(self, context: PullContext, reference: Reference) -> Manifest:
        self._ask("GET manifest")
        return self.serves

    async def blob_size(self, context: PullContext, digest: Digest) -> int | None:
        self._ask("HEAD blob")
        if not self.has_layer:
            raise BlobUnknown("the upstream's 404")
        return 5


@dataclass
class FakeStore:
    """Blobs by digest."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    can_evict: bool = True

    def __contains__(self, digest: object) -> bool:
        return digest in self.blobs

    def size(self, digest: Digest) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

    def use(self, digest: Digest) -> None: ...

    async def has_space(self, size: int) -> bool:
        return self.can_evict

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[object | None]:
        yield SimpleNamespace(size=len(self.blobs[digest])) if digest in self.blobs else None


@dataclass
class FakeCatalog:
    """Facts, and the manifests in the store."""

    store: FakeStore
    facts: dict[Tag, TagFact] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    held: set[Digest] = field(default_factory=set)
    sizes: dict[Digest, int] = field(default_factory=dict)
    can_store: bool = True

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None:
        return self.facts.get(tag)

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        self.facts[tag] = fact

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        del self.facts[tag]

    async def manifest(self, digest: Digest) -> Manifest | None:
        return self.manifests.get(digest)

    async def keep_manifest(self, repository: Repository, manifest: Manifest) -> None:
        if not self.can_store:
            raise StorageFailed("the disk")
        self.manifests[manifest.digest] = manifest
        self.store.blobs[manifest.digest] = manifest.body
        self.held.add(manifest.digest)

    def expect(self, repository: Repository, manifest: Manifest) -> None: ...

    def expect_size(self, repository: Repository, digest: Digest, size: int) -> None:
        self.sizes[digest] = size

    def expected_size(self, repository: Repository, digest: Digest) -> int | None:
        return self.sizes.get(digest)

    async def holds(self, repository: Repository, digest: Digest) -> bool:
        return digest in self.held

    async def keep_holding(self, repository: Repository, digest: Digest, proof: Proof) -> None:
        self.held.add(digest)

    async def is_complete(self, digest: Digest, *, arrived: Callable[[Digest], bool]) -> bool:
        return LAYER in self.store.blobs


@dataclass
class FakeDownloads:
    """At most one download, in progress or about to start."""

    running: bool = False
    started_by: Repository = REPOSITORY
    fails: Failing = None
    followed: int = 0

    def __contains__(self, digest: object) -> bool:
        return self.running

    def size(self, digest: Digest) -> int | None:
        return 5 if self.running else None

    def is_started_by(self, digest: Digest, starter: Repository) -> bool:
        return self.running and starter == self.started_by

    def has_whole(self, digest: Digest) -> bool:
        return False

    @asynccontextmanager
    async def follow(self, context: PullContext, digest: Digest, expected_size: int | None) -> AsyncIterator[Download]:
        self.followed += 1
        if self.fails is not None:
            raise self.fails("the download's failure", size=5)
        yield cast(Download, SimpleNamespace(size=5, started_by=self.started_by))


@dataclass(frozen=True)
class State:
    """Cache, upstream and caller.

    Attributes:
        tag_age: seconds since the tag was confirmed to name OLD; None if it is unknown.
        layer: whether the layer is stored; held: whether it is known to be the repository's own.
    """

    tag_age: float | None = None
    stored: Iterable[Manifest] = ()
    layer: bool = True
    held: bool = True
    serves: Manifest = NEW
    fails: Failing = None
    is_down: bool = False
    offline: bool = False
    can_store: bool = True
    has_space: bool = True
    running: bool = False
    started_by: Repository = REPOSITORY
    download_fails: Failing = None
    has_layer: bool = True
    context: PullContext = OURS


@dataclass
class Scene:
    """A service over fakes in one state."""

    service: PullService
    upstream: FakeUpstream
    catalog: FakeCatalog
    downloads: FakeDownloads


def scene(state: State) -> Scene:
    store = FakeStore({LAYER: b"layer"} if state.layer else {}, state.has_space)
    catalog = FakeCatalog(store, can_store=state.can_store)
    if state.tag_age is not None:
        catalog.facts[TAG] = TagFact(OLD.digest, time.time() - state.tag_age)
    for one in state.stored:
        catalog.manifests[one.digest], store.blobs[one.digest] = one, one.body
        catalog.held.add(one.digest)
    if state.held:
        catalog.held.add(LAYER)
    upstream = FakeUpstream(state.serves, state.fails, state.is_down, state.has_layer)
    downloads = FakeDownloads(state.running, state.started_by, state.download_fails)
    service = PullService(
        cast(Mapping[str, Upstream], {"docker.io": upstream}),
        cast(BlobStore, store),
        cast(StoredFacts, catalog),
        cast(RunningDownloads, downloads),
        Origins({REPOSITORY.upstream: ()}, {REPOSITORY.upstream: ()}),
        SETTINGS,
        deadline=10.0,
        offline=state.offline,
    )
    return Scene(service, upstream, catalog, downloads)
