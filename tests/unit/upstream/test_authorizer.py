"""The authorizer: the mirror's credentials, a client's login or token, and how long a header is reused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
import pytest
import pytest_asyncio

from mirror.config import TimeoutSettings, UpstreamSettings
from mirror.errors import UpstreamRefused
from mirror.observability.metrics import Metrics
from mirror.oci.authorization import Login, Token
from mirror.origin import NO_LOGIN, ClientLogin
from mirror.upstream.credentials.authorizer import Authorizer
from mirror.upstream.credentials.source import Credentials, FixedCredentials
from mirror.upstream.session import Session
from tests.fake.answers import Valve
from tests.fake.content import image
from tests.fake.faults import Hold, Redirect, Status
from tests.fake.registry import Gate, Registry
from tests.fake.tokens import Basic, Bearer, TokenServer, basic

OURS, THEIRS = Login("we", "our word"), Login("they", "their word")


class Changing:
    """A source whose credentials a test changes."""

    fix = "ask the test"

    def __init__(self, credentials: Credentials | None) -> None:
        self.now = credentials
        self.following: Credentials | None = None  # the credentials after a renewal

    @property
    def is_anonymous(self) -> bool:
        return self.now is None

    async def credentials(self) -> Credentials | None:
        return self.now

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self.now

    async def renewed(self, refused: Credentials | None) -> bool:
        if self.following is not None:
            self.now, self.following = self.following, None
        return refused != self.now


@dataclass(slots=True)
class Setup:
    """A registry, its token service, and a session with both."""

    registry: Registry
    tokens: TokenServer
    session: Session
    source: Changing = field(default_factory=lambda: Changing(OURS))
    now: float = 0.0

    def authorizer(self) -> Authorizer:
        return Authorizer("registry.test", self.registry.url, self.source, self.session, clock=lambda: self.now)

    async def ask(
        self,
        authorizer: Authorizer,
        repository: str = "team/app",
        path: str = "manifests/v1",
        *,
        login: ClientLogin | None = None,
    ) -> int:
        """Return the status of a pull."""
        async with AsyncExitStack() as exits:

            async def send(header: str | None) -> aiohttp.ClientResponse:
                headers = {} if header is None else {"Authorization": header}
                url = f"{self.registry.url}/v2/{repository}/{path}" if repository else f"{self.registry.url}/v2/"
                return await exits.enter_async_context(self.session.send("GET", url, headers))

            return (await authorizer.authorized(send, repository, login)).status

    def sent_headers(self) -> list[str | None]:
        """Return every Authorization header that the registry received."""
        return [seen.headers.get("Authorization") for seen in self.registry.journal.entries]


@pytest_asyncio.fixture
async def setup() -> AsyncIterator[Setup]:
    async with (
        Registry.running() as registry,
        TokenServer.running() as tokens,
        Session.opened("registry.test", UpstreamSettings(url=registry.url), TimeoutSettings(), Metrics()) as session,
    ):
        registry.publish("team/app", image(1), "v1")
        tokens.logins = {OURS.username: OURS.password, THEIRS.username: THEIRS.password}
        yield Setup(registry, tokens, session)


def gates(setup: Setup) -> dict[str, Gate]:
    return {"basic": Basic(THEIRS.username, THEIRS.password), "bearer": Bearer(tokens=setup.tokens)}


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_client_login_and_own_credentials_are_separate(setup: Setup, kind: str) -> None:
    """A request with one sends neither the login nor a token of the other."""
    setup.registry.gate = gates(setup)[kind]
    async with setup.authorizer() as ours:
        assert await setup.ask(ours, login=THEIRS) == 200
        everything = [*setup.sent_headers(), *(seen.headers.get("Authorization") for seen in setup.tokens.asked)]
        assert basic(OURS.username, OURS.password) not in everything
        assert basic(THEIRS.username, THEIRS.password) in everything
        headers_before = [header for header in setup.sent_headers() if header]
        before = len(setup.registry.journal)
        await setup.ask(ours)
        assert not set(headers_before) & set(setup.sent_headers()[before:])


async def test_concurrent_logins_get_separate_tokens(setup: Setup) -> None:
    """Token requests are collapsed for one login only."""
    setup.registry.gate = Bearer(tokens=setup.tokens)
    valve = Valve()
    setup.tokens.inject(Hold(valve))
    async with setup.authorizer() as ours:
        names = [None, THEIRS, Login("they", "wrong"), None]
        asking = [asyncio.create_task(setup.ask(ours, login=name)) for name in names]
        await setup.tokens.journal.until(lambda journal: len(journal) == 3)
        valve.open()
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert [found[0], found[1], type(found[2]), found[3]] == [200, 200, UpstreamRefused, 200]
    assert len(setup.tokens.asked) == 3


async def test_client_without_a_login_is_anonymous(setup: Setup) -> None:
    """Its request does not use the mirror's credentials."""
    setup.registry.gate = Basic(OURS.username, OURS.password)
    async with setup.authorizer() as ours:
        assert await setup.ask(ours) == 200
        with pytest.raises(UpstreamRefused, match="log in to the mirror"):
            await setup.ask(ours, login=NO_LOGIN)


async def test_client_token_is_sent_unchanged(setup: Setup) -> None:
    """The registry gets it, never a token service. A refusal is final: no challenge makes it send another login."""
    setup.registry.gate = Bearer(tokens=setup.tokens)
    async with setup.authorizer() as ours:
        setup.source.now = Token("made-up")
        assert await setup.ask(ours) == 401
        assert setup.tokens.asked == []
        setup.source.now = OURS
        assert await setup.ask(ours) == 200
        good = next(header for header in setup.sent_headers() if header and "secret-token" in header)
        asked = len(setup.tokens.asked)
        setup.source.now = Token(good.removeprefix("Bearer "))
        assert [await setup.ask(ours) for _ in range(3)] == [200, 200, 200]
        assert len(setup.tokens.asked) == asked


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_login_can_be_checked_without_a_repository(setup: Setup, kind: str) -> None:
    """The token request has no scope, so the token gives no access."""
    setup.registry.gate = gates(setup)[kind]
    async with setup.authorizer() as ours:
        assert await setup.ask(ours, "", login=THEIRS) == 200
        wrong = Login("they", "wrong")
        if kind == "basic":
            assert await setup.ask(ours, "", login=wrong) == 401
        else:
            with pytest.raises(UpstreamRefused):
                await setup.ask(ours, "", login=wrong)
    assert all("scope" not in form for form in setup.tokens.forms)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_header_is_dropped_with_its_login(setup: Setup, kind: str) -> None:
    """Once the source has other credentials, the former header is not sent any more."""
    setup.registry.gate = gates(setup)[kind]
    setup.source.now = THEIRS
    async with setup.authorizer() as ours:
        assert await setup.ask(ours) == 200
        headers_before = setup.sent_headers()[-1]
        assert await setup.ask(ours) == 200
        assert setup.sent_headers()[-1] == headers_before
        setup.source.now = OURS
        before = len(setup.registry.journal)
        await setup.ask(ours)
        assert headers_before not in setup.sent_headers()[before:]


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_refused_login_is_renewed_within_the_request(setup: Setup, kind: str) -> None:
    """After a refusal by the registry or its token service, the renewed login succeeds."""
    setup.registry.gate = gates(setup)[kind]
    setup.source.now, setup.source.following = Login("they", "old word"), THEIRS
    async with setup.authorizer() as ours:
        assert await setup.ask(ours) == 200


async def test_token_is_reused_for_most_of_its_lifetime(setup: Setup) -> None:
    """It must not expire in transit."""
    setup.registry.gate = Bearer(tokens=setup.tokens)
    async with setup.authorizer() as ours:
        for setup.now, asked in ((0, 1), (239, 1), (241, 2)):
            assert await setup.ask(ours) == 200
            assert len(setup.tokens.asked) == asked


async def test_redirect_target_gets_no_login(setup: Setup) -> None:
    """Its challenge is not answered, even if it sends 401 or 403."""
    async with Registry.running() as elsewhere, setup.authorizer() as ours:
        setup.registry.inject(Redirect(f"{elsewhere.url}/data"))
        for code, headers in ((401, {"WWW-Authenticate": f'Bearer realm="{setup.tokens.realm}"'}), (403, {})):
            elsewhere.heal()
            elsewhere.inject(Status(code, headers))
            assert await setup.ask(ours) == code
        assert [seen.headers.get("Authorization") for seen in elsewhere.journal.entries] == [None, None]
    assert setup.tokens.asked == []


async def test_single_challenge_is_not_remembered(setup: Setup) -> None:
    """A stray challenge, for example from a proxy, does not affect the next request."""
    setup.registry.gate = Bearer(tokens=setup.tokens)
    async with Authorizer(
        "registry.test", setup.registry.url, FixedCredentials(None, fix="-"), setup.session
    ) as anonymous:
        setup.tokens.logins = {}
        assert await setup.ask(anonymous) == 200
        setup.registry.inject(Status(401, {"WWW-Authenticate": 'Basic realm="stray"'}), times=2)
        assert [await setup.ask(anonymous) for _ in range(2)] == [401, 200]
