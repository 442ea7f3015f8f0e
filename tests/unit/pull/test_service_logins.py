"""The specification of pulls with several logins: an upstream's answer to one login is no answer to another.

Every row of CALLERS is tested with every request that is collapsed, and with every 404.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from mirror.errors import BlobUnknown, ManifestUnknown
from mirror.origin import PullContext
from tests.unit.pull_fakes import (
    ANONYMOUS,
    CLIENTS,
    EXPIRED,
    LAYER,
    NEW,
    OLD,
    OTHERS,
    OURS,
    TAG,
    Scene,
    State,
    pulled_blob,
    scene,
)

CALLERS: dict[str, tuple[PullContext, PullContext, int, int]] = {
    # name: two callers, requests to the upstream if both wait for it, requests if the first received a 404
    "the mirror's login twice": (OURS, OURS, 1, 1),
    "one client's login twice": (CLIENTS, CLIENTS, 1, 2),
    "no client login twice": (ANONYMOUS, ANONYMOUS, 1, 2),
    "two clients' logins": (CLIENTS, OTHERS, 2, 2),
    "a client's login and none": (CLIENTS, ANONYMOUS, 2, 2),
    "the mirror's login and a client's": (OURS, CLIENTS, 2, 2),
    "a client's login and the mirror's": (CLIENTS, OURS, 2, 2),
}


async def by_tag(one: Scene, context: PullContext) -> object:
    return await one.service.manifest(context, TAG)


async def head_by_tag(one: Scene, context: PullContext) -> object:
    return await one.service.manifest(context, TAG, head_only=True)


async def by_digest(one: Scene, context: PullContext) -> object:
    return await one.service.manifest(context, NEW.digest)


async def blob_size(one: Scene, context: PullContext) -> object:
    return await one.service.blob_size(context, LAYER)


Request = tuple[State, Callable[[Scene, PullContext], Awaitable[object]]]
COLLAPSIBLE: dict[str, Request] = {
    "an unknown tag": (State(), by_tag),
    "an expired tag": (State(tag_age=EXPIRED, stored=(OLD,), serves=OLD), by_tag),
    "an unknown digest": (State(), by_digest),
    "a blob of another repository": (State(held=False), pulled_blob),
}
MISSING: dict[str, Request] = {
    "a tag": (State(fails=ManifestUnknown), by_tag),
    "the head of a tag": (State(fails=ManifestUnknown), head_by_tag),
    "a digest": (State(lacks=(NEW,)), by_digest),
    "a blob": (State(layer=False, held=False, download_fails=BlobUnknown), pulled_blob),
    "a blob of another repository": (State(held=False, has_layer=False), pulled_blob),
    "the size of a blob": (State(layer=False, held=False, has_layer=False), blob_size),
}


@pytest.mark.parametrize("name", CALLERS)
@pytest.mark.parametrize("request_name", COLLAPSIBLE)
async def test_requests_are_collapsed_only_with_those_of_the_same_login(name: str, request_name: str) -> None:
    """One row of CALLERS: an answer to one login is no answer to another."""
    first, second, requests, _ = CALLERS[name]
    state, ask = COLLAPSIBLE[request_name]
    one = scene(state)
    await asyncio.gather(ask(one, first), ask(one, second))
    assert len(one.upstream.asked) == requests


@pytest.mark.parametrize("name", CALLERS)
@pytest.mark.parametrize("request_name", MISSING)
async def test_404_is_cached_for_the_mirrors_own_requests_only(name: str, request_name: str) -> None:
    """One row of CALLERS: a shared 404 would hide content that another client may pull."""
    first, second, _, requests = CALLERS[name]
    state, ask = MISSING[request_name]
    one = scene(state)
    for context in (first, second):
        with pytest.raises((ManifestUnknown, BlobUnknown)):
            await ask(one, context)
    assert len(one.upstream.asked) + one.downloads.followed == requests


@pytest.mark.parametrize("request_name", COLLAPSIBLE)
async def test_requests_end_with_the_service(request_name: str) -> None:
    """A request to the upstream belongs to the service, not to the caller that waits for it."""
    state, ask = COLLAPSIBLE[request_name]
    one = scene(replace(state, is_silent=True))
    async with one.service:
        waiting = asyncio.ensure_future(ask(one, OURS))
        await one.upstream.was_asked.wait()
    with pytest.raises(asyncio.CancelledError):
        await waiting
