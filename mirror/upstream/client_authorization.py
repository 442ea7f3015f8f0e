"""Tenancy: upstreams that say themselves who may pull what (`client_auth = "passthrough"`).

Bytes are shared, rights are not. A client's login is shown to the upstream that it was meant for and to nobody else.
What that one lets it pull holds for minutes; after that nothing stands in for its word, not even for what is stored.
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
from mirror.primitives.lru import LruCache
from mirror.primitives.singleflight import SingleFlight
from mirror.upstream.registry import Registry

TOKEN_LIFE = 300  # seconds, as Docker Hub's have
_VERDICTS = 65_536
_TOKENS = 65_536
_TENANTS = 4_096
_TOKEN_BYTES = 32

Question = ManifestRoute | BlobRoute
"""What is asked of a repository, as far as rights go: content that is stored here, perhaps for another client."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks one upstream: somebody with a login there; None for nobody in particular."""

    upstream: str
    login: Login | None


@dataclass(frozen=True, slots=True)
class _Verdict:
    refusal: str | None
    until: float


@dataclass(frozen=True, slots=True)
class _Issued:
    tenant: Tenant
    until: float


class ClientAuthorization:
    """What each client may pull from the upstreams that decide that themselves."""

    def __init__(
        self,
        registries: Mapping[str, Registry],
        *,
        verdict_for: float,
        refusal_for: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*registries*: those upstreams. Seconds that a yes and that a no of theirs holds."""
        self._registries = registries
        self._verdict_for = verdict_for
        self._refusal_for = refusal_for
        self._clock = clock
        self._verdicts = LruCache[tuple[Repository, Tenant], _Verdict](_VERDICTS)
        self._asking = SingleFlight[tuple[Question, Tenant], None]()
        self._checking = SingleFlight[Tenant, None]()
        self._views = LruCache[Tenant, Registry](_TENANTS)
        self._issued = LruCache[str, _Issued](_TOKENS)
        self._nobodys: dict[str, Token] = {}  # one for each upstream: no number of them pushes out somebody's

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._asking.__aexit__(kind, error, trace)
        await self._checking.__aexit__(kind, error, trace)

    def concerns(self, upstream: str) -> bool:
        """Whether that upstream decides itself who may pull from it."""
        return upstream in self._registries

    @property
    def upstreams(self) -> tuple[str, ...]:
        return tuple(self._registries)

    def registry(self, tenant: Tenant) -> Registry:
        """The way to the tenant's upstream, in its name."""
        view = self._views.get(tenant)
        if view is None:
            view = self._registries[tenant.upstream].on_behalf_of(tenant.login)
            self._views.set(tenant, view)
        return view

    def is_admitted(self, repository: Repository, tenant: Tenant) -> bool:
        """Whether upstream let this client pull from that repository a short while ago."""
        verdict = self._verdict(repository, tenant)
        return verdict is not None and verdict.refusal is None

    def _verdict(self, repository: Repository, tenant: Tenant) -> _Verdict | None:
        verdict = self._verdicts.get((repository, tenant))
        return verdict if verdict is not None and self._clock() < verdict.until else None

    async def admit(self, question: Question, tenant: Tenant) -> None:
        """Lets pass whom upstream lets pull what is asked.

        Raises:
            Denied: it does not.
            ContentUnknown: upstream has no such thing, as far as this client can see.
            UpstreamError: it can't be asked.
        """
        verdict = self._verdict(question.asked.repository, tenant)
        if verdict is None:
            await self._asking.do((question, tenant), partial(self._ask, question, tenant))
        elif verdict.refusal is not None:
            raise Denied(verdict.refusal, upstream=tenant.upstream)

    async def _ask(self, question: Question, tenant: Tenant) -> None:
        repository, registry = question.asked.repository, self.registry(tenant)
        try:
            match question:
                case ManifestRoute():
                    # Where a HEAD proves nothing, only the manifest itself does.
                    if await registry.resolve(repository.name, question.reference) is None:
                        await registry.manifest(repository.name, question.reference)
                case BlobRoute():
                    await registry.blob_size(repository.name, question.digest)
        except Denied as refusal:
            self._verdicts.set((repository, tenant), _Verdict(str(refusal), self._clock() + self._refusal_for))
            raise
        self._verdicts.set((repository, tenant), _Verdict(None, self._clock() + self._verdict_for))

    def revoke(self, repository: Repository, tenant: Tenant) -> None:
        """Upstream refused what it had let pass: its earlier word holds no longer."""
        self._verdicts.delete((repository, tenant))

    async def check(self, tenant: Tenant) -> None:
        """Whether upstream knows this login at all.

        Raises:
            Denied: it does not.
            UpstreamError: it can't be asked.
        """
        if tenant.login is not None:
            await self._checking.do(tenant, self.registry(tenant).check_login)

    def issue(self, tenant: Tenant) -> Token:
        """A token that stands for the tenant, for TOKEN_LIFE seconds and as long as this mirror runs."""
        if tenant.login is None:
            return self._nobodys.setdefault(tenant.upstream, Token(secrets.token_urlsafe(_TOKEN_BYTES)))
        token = Token(secrets.token_urlsafe(_TOKEN_BYTES))
        self._issued.set(token.text, _Issued(tenant, self._clock() + TOKEN_LIFE))
        return token

    def tenant_of(self, token: Token) -> Tenant | None:
        """For whom the token stands; None where it never did, or no longer does."""
        for upstream, nobodys in self._nobodys.items():
            if secrets.compare_digest(nobodys.text.encode(), token.text.encode()):
                return Tenant(upstream, None)
        issued = self._issued.get(token.text)
        return issued.tenant if issued is not None and self._clock() < issued.until else None
