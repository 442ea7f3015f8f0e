"""The specification of a pull: for each state of cache, upstream and caller, the answer.

Every row of MANIFESTS and BLOBS is one state. The collaborators are fakes of the service's protocols.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from mirror.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    NoSpace,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference, Repository
from mirror.origin import PullContext
from mirror.pull.results import CacheOutcome
from tests.unit.pull_fakes import CLIENTS, EXPIRED, FRESH, LAYER, NEW, OLD, OURS, TAG, TOO_OLD, State, scene

KNOWN = State(tag_age=FRESH, stored=(OLD,))
STALE = replace(KNOWN, tag_age=EXPIRED)
HEAD, GET = "HEAD manifest", "GET manifest"
Answer = tuple[Manifest, CacheOutcome] | type[MirrorError]
MANIFESTS: dict[str, tuple[State, Reference, Answer, list[str]]] = {
    # name: state, reference, answer, requests to the upstream
    "a fresh tag is a hit": (KNOWN, TAG, (OLD, CacheOutcome.HIT), []),
    "an unknown tag is fetched and stored": (State(), TAG, (NEW, CacheOutcome.STORED), [GET]),
    "an unknown tag is passed if nothing can be stored": (
        *(State(can_store=False), TAG, (NEW, CacheOutcome.PASSED), [GET]),
    ),
    "an expired tag is confirmed by HEAD": (replace(STALE, serves=OLD), TAG, (OLD, CacheOutcome.HIT), [HEAD]),
    "a moved tag is fetched": (STALE, TAG, (NEW, CacheOutcome.STORED), [HEAD, GET]),
    "a deleted tag is a 404": (replace(STALE, fails=ManifestUnknown), TAG, ManifestUnknown, [HEAD]),
    **{
        f"an expired tag is stale during {failure.__name__}": (
            *(replace(STALE, fails=failure), TAG, (OLD, CacheOutcome.STALE), [HEAD]),
        )
        for failure in (UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled, UpstreamRefused)
    },
    "a stale image without its layers is not served": (
        *(replace(STALE, fails=UpstreamUnavailable, layer=False), TAG, UpstreamUnavailable, [HEAD]),
    ),
    "a tag past stale_for is not served": (
        *(replace(STALE, tag_age=TOO_OLD, fails=UpstreamUnavailable), TAG, UpstreamUnavailable, [HEAD]),
    ),
    "a refused login gets nothing stale": (replace(STALE, fails=Denied, context=CLIENTS), TAG, Denied, [HEAD]),
    "offline an expired tag is a hit": (replace(STALE, offline=True), TAG, (OLD, CacheOutcome.HIT), []),
    "offline an unknown tag is a 404": (State(offline=True), TAG, ManifestUnknown, []),
    "a stored digest is a hit": (KNOWN, OLD.digest, (OLD, CacheOutcome.HIT), []),
    "a digest of another repository is fetched": (State(), NEW.digest, (NEW, CacheOutcome.STORED), [GET]),
    "an incomplete image asks the upstream that is down": (
        *(
            replace(KNOWN, is_down=True, layer=False, fails=UpstreamUnavailable),
            OLD.digest,
            UpstreamUnavailable,
            [HEAD],
        ),
    ),
}

COLD = State(layer=False, held=False)
FOREIGN = Repository("docker.io", "library/other")
BLOBS: dict[str, tuple[State, CacheOutcome | type[MirrorError], list[str], int]] = {
    # name: state, answer, requests to the upstream, downloads followed
    "a stored blob is a hit": (State(), CacheOutcome.HIT, [], 0),
    "a blob of another repository is confirmed by HEAD": (State(held=False), CacheOutcome.HIT, ["HEAD blob"], 0),
    "a blob that the repository does not have is a 404": (
        *(State(held=False, has_layer=False), BlobUnknown, ["HEAD blob"], 0),
    ),
    "a missing blob is downloaded": (COLD, CacheOutcome.STORED, [], 1),
    "a running download is joined": (replace(COLD, running=True), CacheOutcome.COLLAPSED, [], 1),
    "a download of another repository is joined after a HEAD": (
        *(replace(COLD, running=True, started_by=FOREIGN), CacheOutcome.COLLAPSED, ["HEAD blob"], 1),
    ),
    "a blob larger than the space is passed": (replace(COLD, download_fails=NoSpace), CacheOutcome.PASSED, [], 1),
    "a failed download is its failure": (
        *(replace(COLD, download_fails=UpstreamUnavailable), UpstreamUnavailable, [], 1),
    ),
    "offline a missing blob is a 404": (replace(COLD, offline=True), BlobUnknown, [], 0),
    "offline a stored blob is a hit": (State(offline=True), CacheOutcome.HIT, [], 0),
}


@pytest.mark.parametrize("name", MANIFESTS)
async def test_manifest(name: str) -> None:
    """One row of MANIFESTS."""
    state, reference, expected, requests = MANIFESTS[name]
    one = scene(state)
    if isinstance(expected, tuple):
        result = await one.service.manifest(state.context, reference)
        assert (result.manifest, result.outcome) == expected
    else:
        with pytest.raises(expected):
            await one.service.manifest(state.context, reference)
    assert one.upstream.asked == requests


@pytest.mark.parametrize("name", BLOBS)
async def test_blob(name: str) -> None:
    """One row of BLOBS."""
    state, expected, requests, followed = BLOBS[name]
    one = scene(state)
    with nullcontext() if isinstance(expected, CacheOutcome) else pytest.raises(expected):
        async with one.service.blob(state.context, LAYER) as result:
            assert (result.size, result.outcome) == (5, expected)
    assert one.upstream.asked == requests
    assert one.downloads.followed == followed


@pytest.mark.parametrize(("context", "asked"), [(OURS, 1), (CLIENTS, 2)])
async def test_404_is_cached_for_the_mirrors_own_requests_only(context: PullContext, asked: int) -> None:
    """The 404 that one client sees may hide what another one may pull."""
    one = scene(State(fails=ManifestUnknown))
    for _ in range(2):
        with pytest.raises(ManifestUnknown):
            await one.service.manifest(context, TAG)
    assert len(one.upstream.asked) == asked


async def test_deleted_tag_is_forgotten() -> None:
    """A 404 from the upstream is final, also for a tag that was cached."""
    one = scene(replace(STALE, fails=ManifestUnknown))
    with pytest.raises(ManifestUnknown):
        await one.service.manifest(OURS, TAG)
    assert one.catalog.facts == {}
