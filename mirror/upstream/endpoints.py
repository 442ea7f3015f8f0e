"""Several endpoints of one upstream: the first that can answer a question does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import structlog

from mirror.errors import ContentUnknown, Denied, MirrorError, UpstreamError, UpstreamRefused
from mirror.oci.authorization import Login
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.selection import most_informative, time_share

_Answer = TypeVar("_Answer")
log = structlog.get_logger()


class Endpoints:
    """The ways to one upstream, in the order of trying."""

    def __init__(self, endpoints: Sequence[Endpoint], *, first_byte: float) -> None:
        self._endpoints = tuple(endpoints)
        self._first = self._endpoints[0]
        self._seconds = first_byte

    @property
    def is_down(self) -> bool:
        """Whether none of them can be counted on."""
        return all(endpoint.is_down for endpoint in self._endpoints)

    @property
    def may_be_asked(self) -> bool:
        """Whether any of them is up, or it is time to try whether it is."""
        return any(endpoint.may_be_asked for endpoint in self._endpoints)

    @property
    def are_down(self) -> dict[str, bool]:
        """Whether each of them can't be counted on, by its label."""
        return {endpoint.label: endpoint.is_down for endpoint in self._endpoints}

    async def first(self, ask: Callable[[Endpoint], Awaitable[_Answer]], *, last: Sequence[str] = ()) -> _Answer:
        """The answer of the first endpoint that has one, within the time for the first byte in all.

        A 404 is none, as long as another one may have it: mirrors of a registry hold a part of it. Nor is None, which
        says nothing, as long as another one may say more.

        Args:
            last: labels of those to try after all others, in this order.

        Raises:
            ContentUnknown: each of them says so.
            UpstreamError: the failure that tells most, if any but 404 is among them.
        """
        until = time.monotonic() + self._seconds
        failures: list[MirrorError] = []
        vague: list[_Answer] = []
        waiting = sorted(self._endpoints, key=lambda one: last.index(one.label) if one.label in last else -1)
        while waiting:
            endpoint = waiting.pop(0)
            is_news = endpoint.may_be_asked
            try:
                async with endpoint.limited(self._share(endpoint, waiting, until - time.monotonic())):
                    answer = await ask(endpoint)
                if answer is not None:
                    return answer
                vague.append(answer)
            except (ContentUnknown, UpstreamError) as failure:
                failures.append(failure)
                if waiting and is_news and not isinstance(failure, ContentUnknown):
                    log.info("endpoint_passed_over", endpoint=endpoint.name, reason=str(failure))
        if vague:
            return vague[0]
        raise most_informative(failures)

    def on_behalf_of(self, login: Login | None) -> Endpoints:
        """The same ways in a client's name; see Registry."""
        endpoints = [endpoint.on_behalf_of(login) for endpoint in self._endpoints]
        return _OnBehalf(endpoints, first_byte=self._seconds, who="nobody" if login is None else login.username)

    def _share(self, endpoint: Endpoint, waiting: Collection[Endpoint], left: float) -> float:
        """Seconds for *endpoint*, so that one that says nothing leaves their time to those *waiting*."""
        is_probe = endpoint.is_down and not all(one.is_down for one in waiting)
        askable = sum(one.may_be_asked for one in waiting)
        return time_share(left, total=self._seconds, waiting=askable, is_probe=is_probe)


class _OnBehalf(Endpoints):
    """Ways in the name of one client, or of nobody."""

    def __init__(self, endpoints: Sequence[Endpoint], *, first_byte: float, who: str) -> None:
        super().__init__(endpoints, first_byte=first_byte)
        self._who = who

    async def first(self, ask: Callable[[Endpoint], Awaitable[_Answer]], *, last: Sequence[str] = ()) -> _Answer:
        try:
            return await super().first(ask, last=last)
        except UpstreamRefused as refusal:
            upstream = self._first.upstream
            raise Denied(f"{upstream} refuses this to {self._who}, or does not have it", upstream=upstream) from refusal
