"""Client authorization: which repositories a client may pull, as the upstream decides (`client_auth = "passthrough"`).

Bytes are shared between clients, rights are not. A client's login is sent to the upstream that it was meant for, and to
no other. The upstream's decision holds for minutes; after that no stored content stands in for it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from mirror.errors import Denied
from mirror.oci.authorization import Login, Token
from mirror.oci.names import Repository
from mirror.oci.routes import BlobRoute, ManifestRoute
from mirror.origin import NO_LOGIN, ClientLogin, PullContext
from mirror.primitives.lru import LruCache
from mirror.primitives.singleflight import SingleFlight
from mirror.upstream.registry import Registry

TOKEN_LIFETIME = 300  # seconds, as Docker Hub's tokens have
_MAX_DECISIONS = 65_536
_MAX_TOKENS = 65_536
_TOKEN_BYTES = 32

ContentRoute = ManifestRoute | BlobRoute
"""A request for content that may be stored here on another client's behalf."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """An upstream's answer about one client and repository. *refusal* is None if it allows the pull."""

    refusal: str | None
    until: float


@dataclass(frozen=True, slots=True)
class TokenSubject:
    """The client that a token of the mirror's stands for: its login, and the upstream that the login is meant for."""

    upstream: str
    login: ClientLogin


class ClientAuthorization:
    """Asks passthrough upstreams what a client may pull, and remembers their decisions."""

    def __init__(
        self,
        registries: Mapping[str, Registry],
        *,
        allowed_for: float,
        refused_for: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create one for the passthrough upstreams in *registries*.

        Args:
            allowed_for: seconds for which a permission holds.
            refused_for: seconds for which a refusal holds.
        """
        self._registries = registries
        self._allowed_for = allowed_for
        self._refused_for = refused_for
        self._clock = clock
        self._decisions = LruCache[tuple[Repository, ClientLogin | None], _Decision](_MAX_DECISIONS, clock=clock)
        self._requests = SingleFlight[tuple[ContentRoute, ClientLogin | None], None]()
        self._logins = SingleFlight[TokenSubject, None]()
        self._tokens = LruCache[str, TokenSubject](_MAX_TOKENS, ttl=TOKEN_LIFETIME, clock=clock)
        self._anonymous: dict[str, Token] = {}  # one per upstream, so that requests for more push out no client's token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._requests.__aexit__(kind, error, trace)
        await self._logins.__aexit__(kind, error, trace)

    def concerns(self, upstream: str) -> bool:
        """Return whether that upstream decides which clients may pull."""
        return upstream in self._registries

    def is_allowed(self, context: PullContext) -> bool:
        """Return whether the upstream recently allowed this client to pull from the repository."""
        decision = self._decision(context)
        return decision is not None and decision.refusal is None

    def _decision(self, context: PullContext) -> _Decision | None:
        decision = self._decisions.get((context.repository, context.login))
        return decision if decision is not None and self._clock() < decision.until else None

    async def require_allowed(self, route: ContentRoute, context: PullContext) -> None:
        """Ask the upstream whether this client may pull, and cache its decision.

        Raises:
            Denied: if it may not pull.
            ContentUnknown: if the upstream has no such content, as far as this client can see.
            UpstreamError: if the upstream cannot be asked.
        """
        decision = self._decision(context)
        if decision is None:
            await self._requests.do((route, context.login), partial(self._ask, route, context))
        elif decision.refusal is not None:
            raise Denied(decision.refusal, upstream=context.repository.upstream)

    async def _ask(self, route: ContentRoute, context: PullContext) -> None:
        registry, key = self._registries[context.repository.upstream], (context.repository, context.login)
        try:
            match route:
                case ManifestRoute():
                    # If HEAD proves nothing, only the manifest itself does.
                    if await registry.resolve(context, route.reference) is None:
                        await registry.manifest(context, route.reference)
                case BlobRoute():
                    await registry.blob_size(context, route.digest)
        except Denied as refusal:
            self._decisions.set(key, _Decision(str(refusal), self._clock() + self._refused_for))
            raise
        self._decisions.set(key, _Decision(None, self._clock() + self._allowed_for))

    def revoke(self, context: PullContext) -> None:
        """Drop a cached permission, because the upstream refused a later request."""
        self._decisions.delete((context.repository, context.login))

    async def require_accepted_login(self, subject: TokenSubject) -> None:
        """Require that the upstream accepts a client's login. A client without one passes.

        Raises:
            Denied: if it does not accept the login.
            UpstreamError: if it cannot be asked.
        """
        if isinstance(subject.login, Login):
            registry = self._registries[subject.upstream]
            await self._logins.do(subject, partial(registry.require_accepted_login, subject.login))

    def issue(self, subject: TokenSubject) -> Token:
        """Return a token that stands for the client, for TOKEN_LIFETIME seconds and as long as this mirror runs."""
        if not isinstance(subject.login, Login):
            return self._anonymous.setdefault(subject.upstream, Token(secrets.token_urlsafe(_TOKEN_BYTES)))
        token = Token(secrets.token_urlsafe(_TOKEN_BYTES))
        self._tokens.set(token.text, subject)
        return token

    def subject_of(self, token: Token) -> TokenSubject | None:
        """Return the client that the token stands for; None if the token is unknown or has expired."""
        for upstream, anonymous in self._anonymous.items():
            if secrets.compare_digest(anonymous.text.encode(), token.text.encode()):
                return TokenSubject(upstream, NO_LOGIN)
        return self._tokens.get(token.text)
