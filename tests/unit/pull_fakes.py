"""Fakes of the pull service's protocols, and the states they can be in."""

from __future__ import annotations

import asyncio
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
    ManifestUnknown,
    MirrorError,
    StorageFailed,
)
from mirror.oci.authorization import Login
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestHead
from mirror.oci.names import Reference, Repository, Tag
from mirror.origin import NO_LOGIN, PullContext
from mirror.pull.downloads import Download
from mirror.pull.origins import Origins
from mirror.pull.protocols import RunningDownloads, StoredFacts, Upstream
from mirror.pull.results import BlobResult
from mirror.pull.service import PullService
from mirror.storage.facts import Proof, TagFact
from mirror.storage.protocols import BlobStore

REPOSITORY = Repository("docker.io", "library/app")
OURS = PullContext(Caller(None), REPOSITORY)
CLIENTS = PullContext(Caller("ann"), REPOSITORY, Login("ann", "secret"))
OTHERS = PullContext(Caller("bob"), REPOSITORY, Login("bob", "secret"))
ANONYMOUS = PullContext(Caller(None), REPOSITORY, NO_LOGIN)
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
    """An upstream that names NEW (or OLD) by the tag, or fails. It has both by digest, except what it lacks.

    Attributes:
        is_silent: whether it receives requests and never answers.
        hides: what the answer to HEAD does not state: "digest", "media_type" or "size"; of the layer, nor one to GET.
        announces: the size of the layer.
    """

    serves: Manifest = NEW
    fails: Failing = None
    is_down: bool = False
    is_silent: bool = False
    lacks: Iterable[Manifest] = ()
    has_layer: bool = True
    hides: Iterable[str] = ()
    announces: int = 5
    asked: list[str] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    quota: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(fresh_for=60.0))
    name: str = "docker.io"

    async def _ask(self, text: str) -> None:
        self.asked.append(text)
        self.was_asked.set()
        if self.is_silent:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails("the upstream's failure")

    def _find(self, reference: Reference) -> Manifest:
        found = self.serves if isinstance(reference, Tag) else {OLD.digest: OLD, NEW.digest: NEW}[reference]
        if found in self.lacks and not isinstance(reference, Tag):
            raise ManifestUnknown("the upstream's 404")
        return found

    async def resolve(self, context: PullContext, reference: Reference) -> ManifestHead | None:
        await self._ask("HEAD manifest")
        head = self._find(reference).head
        if "digest" in self.hides:
            return None
        return ManifestHead(
            head.digest,
            None if "media_type" in self.hides else head.media_type,
            None if "size" in self.hides else head.size,
        )

    async def manifest(self, context: PullContext, reference: Reference) -> Manifest:
        await self._ask("GET manifest")
        return self._find(reference)

    async def blob_size(self, context: PullContext, digest: Digest) -> int | None:
        await self._ask("size of the blob")
        if not self.has_layer:
            raise BlobUnknown("the upstream's 404")
        return None if "size" in self.hides else self.announces


@dataclass
class FakeStore:
    """Blobs by digest."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    can_evict: bool = True
    used: list[Digest] = field(default_factory=list)

    def __contains__(self, digest: object) -> bool:
        return digest in self.blobs

    def size(self, digest: Digest) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

    def use(self, digest: Digest) -> None:
        self.used.append(digest)

    async def has_space(self, size: int) -> bool:
        return self.can_evict

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[object | None]:
        yield SimpleNamespace(size=len(self.blobs[digest])) if digest in self.blobs else None


@dataclass
class FakeCatalog:
    """Facts, and the manifests in the store.

    Attributes:
        held: the repository's rights, each with its proof; None if only a manifest's reference gives it.
        in_memory: whether facts and manifests are in memory.
    """

    store: FakeStore
    facts: dict[Tag, TagFact] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    held: dict[Digest, Proof | None] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)
    can_store: bool = True
    in_memory: bool = True

    def tag_nowait(self, repository: Repository, tag: Tag) -> TagFact | None:
        return self.facts.get(tag) if self.in_memory else None

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None:
        return self.facts.get(tag)

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        self.facts[tag] = fact

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        del self.facts[tag]

    def manifest_nowait(self, repository: Repository, digest: Digest) -> Manifest | None:
        return self.manifests.get(digest) if self.in_memory and digest in self.held else None

    async def manifest(self, digest: Digest) -> Manifest | None:
        return self.manifests.get(digest)

    async def keep_manifest(self, repository: Repository, manifest: Manifest) -> None:
        if not self.can_store:
            raise StorageFailed("the disk")
        self.manifests[manifest.digest] = manifest
        self.store.blobs[manifest.digest] = manifest.body
        self.held[manifest.digest] = "pulled"

    def expect(self, repository: Repository, manifest: Manifest) -> None: ...

    def expected_size(self, repository: Repository, digest: Digest) -> int | None:
        return self.sizes.get(digest)

    async def holds(self, repository: Repository, digest: Digest) -> bool:
        return digest in self.held

    async def keep_holding(self, repository: Repository, digest: Digest, proof: Proof) -> None:
        self.held[digest] = self.held.get(digest) or proof

    async def is_complete(self, digest: Digest, *, arrived: Callable[[Digest], bool]) -> bool:
        return LAYER in self.store.blobs


@dataclass
class FakeDownloads:
    """At most one download, in progress or about to start.

    Attributes:
        running_fails: the failure of the download in progress; fails: of one that starts.
        announced: the size of the download, if it is known.
        whole: whether every byte of the download in progress is verified.
    """

    running: bool = False
    started_by: Repository = REPOSITORY
    running_fails: Failing = None
    fails: Failing = None
    announced: int | None = 5
    whole: bool = False
    followed: int = 0

    def __contains__(self, digest: object) -> bool:
        return self.running

    def size(self, digest: Digest) -> int | None:
        return self.announced if self.running else None

    def is_started_by(self, digest: Digest, starter: Repository) -> bool:
        return self.running and starter == self.started_by

    def has_whole(self, digest: Digest) -> bool:
        return self.whole

    @asynccontextmanager
    async def follow(self, context: PullContext, digest: Digest, expected_size: int | None) -> AsyncIterator[Download]:
        self.followed += 1
        failure = self.running_fails if self.running else self.fails
        if failure is not None:
            self.running = False
            raise failure("the download's failure", **({} if self.announced is None else {"size": self.announced}))
        yield cast(Download, SimpleNamespace(size=5, started_by=self.started_by))


@dataclass(frozen=True)
class State:
    """Cache, upstream and caller. Fields that are not described have the names of the fakes' fields.

    Attributes:
        tag_age: seconds since the tag was confirmed to name OLD; None if it is unknown.
        stored: the repository's manifests in the store; foreign: another repository's.
        layer: whether the layer is stored; held: whether the repository has a right to it by a manifest.
        expected: the size of the layer according to a manifest.
        has_space: whether the store has space for the layer.
        download_fails: the failure of a download that starts.
    """

    tag_age: float | None = None
    stored: Iterable[Manifest] = ()
    foreign: Iterable[Manifest] = ()
    layer: bool = True
    held: bool = True
    expected: int | None = None
    in_memory: bool = True
    serves: Manifest = NEW
    fails: Failing = None
    is_down: bool = False
    is_silent: bool = False
    deadline: float = 10.0
    lacks: Iterable[Manifest] = ()
    offline: bool = False
    can_store: bool = True
    has_space: bool = True
    running: bool = False
    started_by: Repository = REPOSITORY
    running_fails: Failing = None
    download_fails: Failing = None
    announced: int | None = 5
    whole: bool = False
    has_layer: bool = True
    hides: Iterable[str] = ()
    announces: int = 5
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
    catalog = FakeCatalog(store, can_store=state.can_store, in_memory=state.in_memory)
    if state.tag_age is not None:
        catalog.facts[TAG] = TagFact(OLD.digest, time.time() - state.tag_age)
    for one in (*state.stored, *state.foreign):
        catalog.manifests[one.digest], store.blobs[one.digest] = one, one.body
    catalog.held = dict.fromkeys((one.digest for one in state.stored), "pulled")
    if state.held:
        catalog.held[LAYER] = None
    if state.expected is not None:
        catalog.sizes[LAYER] = state.expected
    upstream = FakeUpstream(
        serves=state.serves,
        fails=state.fails,
        is_down=state.is_down,
        is_silent=state.is_silent,
        lacks=state.lacks,
        has_layer=state.has_layer,
        hides=state.hides,
        announces=state.announces,
    )
    downloads = FakeDownloads(
        running=state.running,
        started_by=state.started_by,
        running_fails=state.running_fails,
        fails=state.download_fails,
        announced=state.announced,
        whole=state.whole,
    )
    service = PullService(
        cast(Mapping[str, Upstream], {"docker.io": upstream}),
        cast(BlobStore, store),
        cast(StoredFacts, catalog),
        cast(RunningDownloads, downloads),
        Origins({REPOSITORY.upstream: ()}, {REPOSITORY.upstream: ()}),
        SETTINGS,
        deadline=state.deadline,
        offline=state.offline,
    )
    return Scene(service, upstream, catalog, downloads)


async def pulled_blob(one: Scene, context: PullContext) -> BlobResult:
    """The answer to a pull of the layer, of which no byte is read."""
    async with one.service.blob(context, LAYER) as result:
        return result
