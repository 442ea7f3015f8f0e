"""The endpoints of one upstream, tried in order until one answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import structlog

from mirror.errors import ContentUnknown, Denied, MirrorError, UpstreamError, UpstreamRefused
from mirror.oci.authorization import Login
from mirror.origin import ClientLogin
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.selection import most_informative, time_share

_Answer = TypeVar("_Answer")
log = structlog.get_logger()


class Endpoints:
    """The endpoints of one upstream, in their configured order."""

    def __init__(self, endpoints: Sequence[Endpoint], *, first_byte: float) -> None:
        """*first_byte*: seconds for an answer, over all endpoints together."""
        self._endpoints = tuple(endpoints)
        self._upstream = endpoints[0].upstream
        self._seconds = first_byte

    @property
    def is_down(self) -> bool:
        """Whether every endpoint is down."""
        return all(endpoint.is_down for endpoint in self._endpoints)

    @property
    def may_be_asked(self) -> bool:
        """Whether any endpoint is up, or due for a probe."""
        return any(endpoint.may_be_asked for endpoint in self._endpoints)

    @property
    def states(self) -> dict[str, bool]:
        """Whether each endpoint is down, by its label."""
        return {endpoint.label: endpoint.is_down for endpoint in self._endpoints}

    async def first(
        self, ask: Callable[[Endpoint], Awaitable[_Answer]], login: ClientLogin | None, *, last: Sequence[str] = ()
    ) -> _Answer:
        """Return the answer of the first endpoint that has one.

        A 404 is no answer while another endpoint may have the content, as a registry's mirrors hold only part of it.
        Neither is None ("no statement") while another endpoint may state more.

        Args:
            login: the client's login; None for the mirror's own credentials.
            last: labels of the endpoints to try after all others, in this order.

        Raises:
            ContentUnknown: if every endpoint answered 404.
            Denied: if the upstream refused the client's login.
            UpstreamError: if any endpoint failed otherwise; the most informative failure.
        """
        try:
            return await self._first(ask, last)
        except UpstreamRefused as refusal:
            if login is None:
                raise
            user = login.username if isinstance(login, Login) else "clients without a login"
            raise Denied(
                f"{self._upstream} refuses this content to {user}, or does not have it", upstream=self._upstream
            ) from refusal

    async def _first(self, ask: Callable[[Endpoint], Awaitable[_Answer]], last: Sequence[str]) -> _Answer:
        until = time.monotonic() + self._seconds
        failures: list[MirrorError] = []
        vague: list[_Answer] = []
        waiting = sorted(self._endpoints, key=lambda one: last.index(one.label) if one.label in last else -1)
        while waiting:
            endpoint = waiting.pop(0)
            was_up = endpoint.may_be_asked
            try:
                async with endpoint.deadline(self._share(endpoint, waiting, until - time.monotonic())):
                    answer = await ask(endpoint)
                if answer is not None:
                    return answer
                vague.append(answer)
            except (ContentUnknown, UpstreamError) as failure:
                failures.append(failure)
                if waiting and was_up and not isinstance(failure, ContentUnknown):
                    log.info("endpoint_passed_over", endpoint=endpoint.name, reason=str(failure))
        if vague:
            return vague[0]
        raise failures[0] if len(failures) == 1 else most_informative(failures)

    def _share(self, endpoint: Endpoint, waiting: Collection[Endpoint], left: float) -> float:
        """Return the seconds for *endpoint*: one that stays silent must leave time for those *waiting*."""
        if not waiting:
            return left
        is_probe = endpoint.is_down and not all(one.is_down for one in waiting)
        askable = sum(one.may_be_asked for one in waiting)
        return time_share(left, total=self._seconds, waiting=askable, is_probe=is_probe)
