"""The specification of a blob's pull: for each state of cache, upstream and caller, the answer.

Every row of a table is one state, as in `test_service`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from mirror.errors import BlobUnknown, Denied, MirrorError, NoSpace, UpstreamTimeout, UpstreamUnavailable
from mirror.oci.names import Repository
from mirror.pull.results import CacheOutcome
from mirror.storage.facts import Proof
from tests.unit.pull_fakes import CLIENTS, LAYER, State, pulled_blob, scene

SIZE = "size of the blob"
HIT, STORED, COLLAPSED, PASSED, _ = CacheOutcome
COLD = State(layer=False, held=False)
RUNNING = replace(COLD, running=True)
UNSIZED = replace(COLD, announced=None, download_fails=NoSpace)
FOREIGN = Repository("docker.io", "library/other")
BLOBS: dict[str, tuple[State, CacheOutcome | type[MirrorError], list[str], int]] = {
    # name: state, answer, requests to the upstream, downloads followed
    "a stored blob is a hit": (State(), HIT, [], 0),
    "a blob of another repository is confirmed by HEAD": (State(held=False), HIT, [SIZE], 0),
    "a blob that the repository does not have is a 404": (
        *(State(held=False, has_layer=False), BlobUnknown, [SIZE], 0),
    ),
    "an upstream that does not confirm it in time is a time-out": (
        *(State(held=False, is_silent=True, deadline=0.01), UpstreamTimeout, [SIZE], 0),
    ),
    "a missing blob is downloaded": (COLD, STORED, [], 1),
    "an evicted blob is downloaded": (replace(COLD, held=True), STORED, [], 1),
    "a running download is joined": (RUNNING, COLLAPSED, [], 1),
    "a download of another repository is joined after a HEAD": (
        *(replace(RUNNING, started_by=FOREIGN), COLLAPSED, [SIZE], 1),
    ),
    "a verified download is a hit": (replace(RUNNING, whole=True), HIT, [], 1),
    "a download that fails when it is joined is started again": (
        *(replace(RUNNING, running_fails=UpstreamUnavailable), COLLAPSED, [], 2),
    ),
    "a download that fails again is its failure": (
        *(replace(RUNNING, running_fails=Denied, download_fails=UpstreamUnavailable), UpstreamUnavailable, [], 2),
    ),
    "a blob without space is passed at once": (replace(COLD, expected=5, has_space=False), PASSED, [], 0),
    "a blob larger than the space is passed": (replace(COLD, download_fails=NoSpace), PASSED, [], 1),
    "the size of a passed blob is that of a manifest": (replace(UNSIZED, expected=5), PASSED, [], 1),
    "the size of a passed blob is that of a manifest, not that of a download": (
        *(replace(COLD, download_fails=NoSpace, expected=5, announced=4), PASSED, [], 1),
    ),
    "the size of a passed blob is that of HEAD if no manifest states it": (UNSIZED, PASSED, [SIZE], 1),
    "a blob without space and of unknown size is not passed": (
        *(replace(UNSIZED, hides=("size",)), NoSpace, [SIZE], 1),
    ),
    "a failed download is its failure": (
        *(replace(COLD, download_fails=UpstreamUnavailable), UpstreamUnavailable, [], 1),
    ),
    "a login's missing blob is downloaded": (replace(COLD, context=CLIENTS), STORED, [], 1),
    "a refused login gets no stored blob": (State(held=False, fails=Denied, context=CLIENTS), Denied, [SIZE], 0),
    "a refused login gets no missing blob": (replace(COLD, download_fails=Denied, context=CLIENTS), Denied, [], 1),
    "a download refused to another login is started again": (
        *(replace(RUNNING, running_fails=Denied, context=CLIENTS), COLLAPSED, [], 2),
    ),
    "offline a login's stored blob is a hit": (State(offline=True, context=CLIENTS), HIT, [], 0),
    "offline a blob of another repository is a 404": (State(held=False, offline=True), BlobUnknown, [], 0),
    "offline a missing blob is a 404": (replace(COLD, offline=True), BlobUnknown, [], 0),
    "offline a stored blob is a hit": (State(offline=True), HIT, [], 0),
}

BLOB_SIZES: dict[str, tuple[State, tuple[int | None, CacheOutcome] | type[MirrorError], list[str]]] = {
    # name: state, answer of blob_size, requests to the upstream
    "a stored blob is a hit": (State(), (5, HIT), []),
    "a blob of another repository is confirmed by HEAD": (State(held=False), (5, HIT), [SIZE]),
    "a blob that the repository does not have is a 404": (State(held=False, has_layer=False), BlobUnknown, [SIZE]),
    "a missing blob is passed": (COLD, (5, PASSED), [SIZE]),
    "a running download states the size": (replace(RUNNING, held=True), (5, COLLAPSED), []),
    "a running download of unknown size is passed": (
        *(replace(RUNNING, held=True, announced=None), (5, PASSED), [SIZE]),
    ),
    "a running download of another repository is confirmed by HEAD": (RUNNING, (5, PASSED), [SIZE]),
    "a manifest's size counts, not that of HEAD": (replace(COLD, expected=5, announces=0), (5, PASSED), [SIZE]),
    "the size may be unknown": (replace(COLD, hides=("size",)), (None, PASSED), [SIZE]),
    "an upstream that does not answer in time is a time-out": (
        *(replace(COLD, is_silent=True, deadline=0.01), UpstreamTimeout, [SIZE]),
    ),
    "a failure is the upstream's": (replace(COLD, fails=UpstreamUnavailable), UpstreamUnavailable, [SIZE]),
    "a refused login gets no size": (State(held=False, fails=Denied, context=CLIENTS), Denied, [SIZE]),
    "offline a login's stored blob is a hit": (State(offline=True, context=CLIENTS), (5, HIT), []),
    "offline a missing blob is a 404": (replace(COLD, offline=True), BlobUnknown, []),
}

PROOFS: dict[str, tuple[State, Proof | None]] = {
    # name: state, the proof of the right, other than a manifest, after the pull of a blob
    "a download": (COLD, "pulled"),
    "a joined download of the same repository": (RUNNING, "pulled"),
    "a joined download of another repository": (replace(RUNNING, started_by=FOREIGN), "confirmed"),
    "a joined download of another repository, with a right by a manifest": (
        *(replace(RUNNING, held=True, started_by=FOREIGN), None),
    ),
    "a HEAD": (State(held=False), "confirmed"),
}


@pytest.mark.parametrize("name", BLOBS)
async def test_blob(name: str) -> None:
    """One row of BLOBS."""
    state, expected, requests, followed = BLOBS[name]
    one = scene(state)
    with nullcontext() if isinstance(expected, CacheOutcome) else pytest.raises(expected):
        result = await pulled_blob(one, state.context)
        assert (result.size, result.outcome) == (5, expected)
    assert one.upstream.asked == requests
    assert one.downloads.followed == followed


@pytest.mark.parametrize("name", BLOB_SIZES)
async def test_blob_size(name: str) -> None:
    """One row of BLOB_SIZES."""
    state, expected, requests = BLOB_SIZES[name]
    one = scene(state)
    with nullcontext() if isinstance(expected, tuple) else pytest.raises(expected):
        assert await one.service.blob_size(state.context, LAYER) == expected
    assert one.upstream.asked == requests


@pytest.mark.parametrize("name", PROOFS)
async def test_proof_of_a_right(name: str) -> None:
    """One row of PROOFS."""
    state, proof = PROOFS[name]
    one = scene(state)
    await pulled_blob(one, state.context)
    assert one.catalog.held == {LAYER: proof}
