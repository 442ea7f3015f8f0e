"""The specification of a manifest's pull: for each state of cache, upstream and caller, the answer.

Every row of a table is one state. The collaborators are fakes of the service's protocols. Blobs are in
`test_service_blobs`, requests of several logins in `test_service_logins`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirror.errors import (
    Denied,
    ManifestUnknown,
    MirrorError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference
from mirror.pull.results import CacheOutcome
from tests.unit.pull_fakes import CLIENTS, EXPIRED, FRESH, NEW, OLD, OURS, TAG, TOO_OLD, State, scene

KNOWN = State(tag_age=FRESH, stored=(OLD,))
STALE = replace(KNOWN, tag_age=EXPIRED)
EVICTED = replace(KNOWN, stored=())
DOWN = replace(KNOWN, is_down=True, layer=False)
HEAD, GET = "HEAD manifest", "GET manifest"
HIT, STORED, _, PASSED, SERVED_STALE = CacheOutcome
Answer = tuple[Manifest, CacheOutcome] | type[MirrorError]
Rows = dict[str, tuple[State, Reference, Answer, list[str]]]
MANIFESTS: Rows = {
    # name: state, reference, answer, requests to the upstream
    "a fresh tag is a hit": (KNOWN, TAG, (OLD, HIT), []),
    "an unknown tag is fetched and stored": (State(), TAG, (NEW, STORED), [GET]),
    "an unknown tag is passed if nothing can be stored": (State(can_store=False), TAG, (NEW, PASSED), [GET]),
    "a fresh tag's evicted manifest is fetched": (EVICTED, TAG, (OLD, STORED), [GET]),
    "a fresh tag whose evicted manifest is gone is fetched": (
        *(replace(EVICTED, lacks=(OLD,)), TAG, (NEW, STORED), [GET, GET]),
    ),
    "an expired tag is confirmed by HEAD": (replace(STALE, serves=OLD), TAG, (OLD, HIT), [HEAD]),
    "a moved tag is fetched": (STALE, TAG, (NEW, STORED), [HEAD, GET]),
    "a tag that moved to a stored manifest is not fetched": (
        *(replace(STALE, stored=(OLD, NEW)), TAG, (NEW, STORED), [HEAD]),
    ),
    "a tag that moved to another repository's manifest is fetched": (
        *(replace(STALE, foreign=(NEW,)), TAG, (NEW, STORED), [HEAD, GET]),
    ),
    "an expired tag is fetched if HEAD states no digest": (
        *(replace(STALE, hides=("digest",)), TAG, (NEW, STORED), [HEAD, GET]),
    ),
    "a moved tag is stale while the upstream lacks its manifest": (
        *(replace(STALE, lacks=(NEW,)), TAG, (OLD, SERVED_STALE), [HEAD, GET]),
    ),
    "a deleted tag is a 404": (replace(STALE, fails=ManifestUnknown), TAG, ManifestUnknown, [HEAD]),
    **{
        f"an expired tag is stale during {failure.__name__}": (
            *(replace(STALE, fails=failure), TAG, (OLD, SERVED_STALE), [HEAD]),
        )
        for failure in (UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled, UpstreamRefused)
    },
    "a stale image without its layers is not served": (
        *(replace(STALE, fails=UpstreamUnavailable, layer=False), TAG, UpstreamUnavailable, [HEAD]),
    ),
    "a stale tag whose manifest was evicted is not served": (
        *(replace(EVICTED, tag_age=EXPIRED, fails=UpstreamUnavailable), TAG, UpstreamUnavailable, [HEAD]),
    ),
    "a tag past stale_for is not served": (
        *(replace(STALE, tag_age=TOO_OLD, fails=UpstreamUnavailable), TAG, UpstreamUnavailable, [HEAD]),
    ),
    "an upstream that does not answer in time is a time-out": (
        *(State(is_silent=True, deadline=0.01), TAG, UpstreamTimeout, [GET]),
    ),
    "a refused login gets nothing stale": (replace(STALE, fails=Denied, context=CLIENTS), TAG, Denied, [HEAD]),
    "a refused login gets no unknown tag": (State(fails=Denied, context=CLIENTS), TAG, Denied, [GET]),
    "a login's fresh tag is a hit": (replace(KNOWN, context=CLIENTS), TAG, (OLD, HIT), []),
    "a login's expired tag is stale during an outage": (
        *(replace(STALE, fails=UpstreamUnavailable, context=CLIENTS), TAG, (OLD, SERVED_STALE), [HEAD]),
    ),
    "offline an expired tag is a hit": (replace(STALE, offline=True), TAG, (OLD, HIT), []),
    "offline an unknown tag is a 404": (State(offline=True), TAG, ManifestUnknown, []),
    "offline a tag whose manifest was evicted is a 404": (replace(EVICTED, offline=True), TAG, ManifestUnknown, []),
    "offline a login's expired tag is a hit": (replace(STALE, offline=True, context=CLIENTS), TAG, (OLD, HIT), []),
    "offline a login's unknown tag is a 404": (State(offline=True, context=CLIENTS), TAG, ManifestUnknown, []),
    "a stored digest is a hit": (KNOWN, OLD.digest, (OLD, HIT), []),
    "an unknown digest is fetched": (State(), NEW.digest, (NEW, STORED), [GET]),
    "a digest of another repository is fetched": (State(foreign=(NEW,)), NEW.digest, (NEW, STORED), [GET]),
    "a complete image does not ask the upstream that is down": (
        *(replace(KNOWN, is_down=True), OLD.digest, (OLD, HIT), []),
    ),
    "an incomplete image asks the upstream that is down": (
        *(replace(DOWN, fails=UpstreamUnavailable), OLD.digest, UpstreamUnavailable, [HEAD]),
    ),
    "an incomplete image is a hit if the upstream answers again": (DOWN, OLD.digest, (OLD, HIT), [HEAD]),
    "an incomplete image is a hit if the upstream answers 404": (
        *(replace(DOWN, lacks=(OLD,)), OLD.digest, (OLD, HIT), [HEAD]),
    ),
}

# The same for HEAD: manifest(head_only=True).
HEADS: Rows = {
    "a fresh tag is a hit": (KNOWN, TAG, (OLD, HIT), []),
    "a stored digest is a hit": (KNOWN, OLD.digest, (OLD, HIT), []),
    "an unknown tag is passed": (State(), TAG, (NEW, PASSED), [HEAD]),
    "an unknown digest is passed": (State(), NEW.digest, (NEW, PASSED), [HEAD]),
    "a digest of another repository is passed": (State(foreign=(NEW,)), NEW.digest, (NEW, PASSED), [HEAD]),
    **{
        f"an unknown tag is fetched if HEAD states no {hidden}": (
            *(State(hides=(hidden,)), TAG, (NEW, STORED), [HEAD, GET]),
        )
        for hidden in ("digest", "media_type", "size")
    },
    "an unknown digest is fetched if HEAD states no size": (
        *(State(hides=("size",)), NEW.digest, (NEW, STORED), [HEAD, GET]),
    ),
    "a fresh tag's evicted manifest is passed": (EVICTED, TAG, (OLD, PASSED), [HEAD]),
    "a fresh tag whose evicted manifest is gone is passed": (
        *(replace(EVICTED, lacks=(OLD,)), TAG, (NEW, PASSED), [HEAD, HEAD]),
    ),
    "an expired tag is confirmed": (replace(STALE, serves=OLD), TAG, (OLD, HIT), [HEAD]),
    "a moved tag is fetched": (STALE, TAG, (NEW, STORED), [HEAD, GET]),
    "an expired tag is stale during an outage": (
        *(replace(STALE, fails=UpstreamUnavailable), TAG, (OLD, SERVED_STALE), [HEAD]),
    ),
    "a missing tag is a 404": (State(fails=ManifestUnknown), TAG, ManifestUnknown, [HEAD]),
    "a refused login gets no head": (State(fails=Denied, context=CLIENTS), TAG, Denied, [HEAD]),
    "offline an unknown tag is a 404": (State(offline=True), TAG, ManifestUnknown, []),
    "offline an unknown digest is a 404": (State(offline=True), NEW.digest, ManifestUnknown, []),
}

# The same for warm: manifest(confirmed=True).
CONFIRMED: Rows = {
    "a fresh tag is confirmed by HEAD": (replace(KNOWN, serves=OLD), TAG, (OLD, HIT), [HEAD]),
    "a fresh tag that moved is fetched": (KNOWN, TAG, (NEW, STORED), [HEAD, GET]),
    "a fresh tag that was deleted is a 404": (replace(KNOWN, fails=ManifestUnknown), TAG, ManifestUnknown, [HEAD]),
    "a fresh tag is stale during an outage": (
        *(replace(KNOWN, fails=UpstreamUnavailable), TAG, (OLD, SERVED_STALE), [HEAD]),
    ),
    "an unknown tag is fetched": (State(), TAG, (NEW, STORED), [GET]),
    "a stored digest is a hit": (KNOWN, OLD.digest, (OLD, HIT), []),
    "offline an expired tag is a hit": (replace(STALE, offline=True), TAG, (OLD, HIT), []),
}

IN_MEMORY: dict[str, tuple[State, Reference, Manifest | None]] = {
    # name: state, reference, answer of manifest_nowait
    "a fresh tag is a hit": (KNOWN, TAG, OLD),
    "a stored digest is a hit": (KNOWN, OLD.digest, OLD),
    "a login's fresh tag is a hit": (replace(KNOWN, context=CLIENTS), TAG, OLD),
    "offline an expired tag is a hit": (replace(STALE, offline=True), TAG, OLD),
    "an expired tag must wait": (STALE, TAG, None),
    "an unknown tag must wait": (State(), TAG, None),
    "a tag on disk only must wait": (replace(KNOWN, in_memory=False), TAG, None),
    "a manifest on disk only must wait": (replace(KNOWN, in_memory=False), OLD.digest, None),
    "a fresh tag's evicted manifest must wait": (EVICTED, TAG, None),
    "a digest of another repository must wait": (State(foreign=(NEW,)), NEW.digest, None),
    "a fresh tag must wait if the upstream is down": (replace(KNOWN, is_down=True), TAG, None),
}


async def check_manifest(row: tuple[State, Reference, Answer, list[str]], **options: bool) -> None:
    """A manifest that is served from the cache counts as used, and the tag names what was answered."""
    state, reference, expected, requests = row
    one = scene(state)
    if isinstance(expected, tuple):
        result = await one.service.manifest(state.context, reference, **options)
        assert (result.head, result.outcome) == (expected[0].head, expected[1])
        assert result.manifest == (None if options.get("head_only") and expected[1] is PASSED else expected[0])
        assert result.outcome not in {HIT, SERVED_STALE} or one.catalog.store.used == [result.head.digest]
        assert reference != TAG or one.catalog.facts[TAG].digest == result.head.digest
    else:
        with pytest.raises(expected):
            await one.service.manifest(state.context, reference, **options)
    assert one.upstream.asked == requests


@pytest.mark.parametrize("name", MANIFESTS)
async def test_manifest(name: str) -> None:
    """One row of MANIFESTS."""
    await check_manifest(MANIFESTS[name])


@pytest.mark.parametrize("name", HEADS)
async def test_manifest_head(name: str) -> None:
    """One row of HEADS."""
    await check_manifest(HEADS[name], head_only=True)


@pytest.mark.parametrize("name", CONFIRMED)
async def test_confirmed_manifest(name: str) -> None:
    """One row of CONFIRMED."""
    await check_manifest(CONFIRMED[name], confirmed=True)


@pytest.mark.parametrize("name", IN_MEMORY)
def test_manifest_in_memory(name: str) -> None:
    """One row of IN_MEMORY."""
    state, reference, expected = IN_MEMORY[name]
    one = scene(state)
    assert one.service.manifest_nowait(state.context, reference) == expected
    assert one.catalog.store.used == ([] if expected is None else [expected.digest])


async def test_deleted_tag_is_forgotten() -> None:
    """A 404 from the upstream is final, also for a tag that was cached."""
    one = scene(replace(STALE, fails=ManifestUnknown))
    with pytest.raises(ManifestUnknown):
        await one.service.manifest(OURS, TAG)
    assert one.catalog.facts == {}
