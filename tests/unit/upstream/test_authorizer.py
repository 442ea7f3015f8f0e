"""Being let in: in one's own name, in a client's, with a token as it was shown; and what is held for how long."""

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
        self.following: Credentials | None = None  # what comes when upstream refuses

    async def credentials(self) -> Credentials | None:
        return self.now

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self.now

    async def renewed(self, refused: Credentials | None) -> bool:
        if self.following is not None:
            self.now, self.following = self.following, None
        return refused != self.now


@dataclass(slots=True)
class Way:
    """A registry, its token service, and the way to it."""

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
        """The status that a pull ends with."""
        async with AsyncExitStack() as exits:

            async def send(header: str | None) -> aiohttp.ClientResponse:
                headers = {} if header is None else {"Authorization": header}
                url = f"{self.registry.url}/v2/{repository}/{path}" if repository else f"{self.registry.url}/v2/"
                return await exits.enter_async_context(self.session.send("GET", url, headers))

            return (await authorizer.authorized(send, repository, login)).status

    def shown(self) -> list[str | None]:
        """Every Authorization that the registry saw."""
        return [seen.headers.get("Authorization") for seen in self.registry.journal.entries]


@pytest_asyncio.fixture
async def way() -> AsyncIterator[Way]:
    async with (
        Registry.running() as registry,
        TokenServer.running() as tokens,
        Session.opened("registry.test", UpstreamSettings(url=registry.url), TimeoutSettings(), Metrics()) as session,
    ):
        registry.publish("team/app", image(1), "v1")
        tokens.logins = {OURS.username: OURS.password, THEIRS.username: THEIRS.password}
        yield Way(registry, tokens, session)


def gates(way: Way) -> dict[str, Gate]:
    return {"basic": Basic(THEIRS.username, THEIRS.password), "bearer": Bearer(tokens=way.tokens)}


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_in_a_clients_name_it_is_the_client_only(way: Way, kind: str) -> None:
    """Our login is not shown for it, nor its login for us; neither uses what the other holds."""
    way.registry.gate = gates(way)[kind]
    async with way.authorizer() as ours:
        assert await way.ask(ours, login=THEIRS) == 200
        everything = [*way.shown(), *(seen.headers.get("Authorization") for seen in way.tokens.asked)]
        assert basic(OURS.username, OURS.password) not in everything
        assert basic(THEIRS.username, THEIRS.password) in everything
        held = [header for header in way.shown() if header]
        before = len(way.registry.journal)
        await way.ask(ours)
        assert not set(held) & set(way.shown()[before:])


async def test_those_who_ask_at_once_get_each_their_own(way: Way) -> None:
    """Requests for tokens are collapsed for one login, never for two."""
    way.registry.gate = Bearer(tokens=way.tokens)
    valve = Valve()
    way.tokens.inject(Hold(valve))
    async with way.authorizer() as ours:
        names = [None, THEIRS, Login("they", "wrong"), None]
        asking = [asyncio.create_task(way.ask(ours, login=name)) for name in names]
        await way.tokens.journal.until(lambda journal: len(journal) == 3)
        valve.open()
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert [found[0], found[1], type(found[2]), found[3]] == [200, 200, UpstreamRefused, 200]
    assert len(way.tokens.asked) == 3


async def test_in_nobodys_name_it_is_nobody(way: Way) -> None:
    """A client without a login borrows none."""
    way.registry.gate = Basic(OURS.username, OURS.password)
    async with way.authorizer() as ours:
        assert await way.ask(ours) == 200
        with pytest.raises(UpstreamRefused, match="log in to the mirror"):
            await way.ask(ours, login=NO_LOGIN)


async def test_a_token_is_shown_as_it_is(way: Way) -> None:
    """To the registry and never to a token service; refused, it is refused: no challenge draws another login."""
    way.registry.gate = Bearer(tokens=way.tokens)
    async with way.authorizer() as ours:
        way.source.now = Token("made-up")
        assert await way.ask(ours) == 401
        assert way.tokens.asked == []
        way.source.now = OURS
        assert await way.ask(ours) == 200
        good = next(header for header in way.shown() if header and "secret-token" in header)
        asked = len(way.tokens.asked)
        way.source.now = Token(good.removeprefix("Bearer "))
        assert [await way.ask(ours) for _ in range(3)] == [200, 200, 200]
        assert len(way.tokens.asked) == asked


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_a_login_can_be_tried(way: Way, kind: str) -> None:
    """Without a repository: the token is for nothing in particular, and opens nothing else."""
    way.registry.gate = gates(way)[kind]
    async with way.authorizer() as ours:
        assert await way.ask(ours, "", login=THEIRS) == 200
        wrong = Login("they", "wrong")
        if kind == "basic":
            assert await way.ask(ours, "", login=wrong) == 401
        else:
            with pytest.raises(UpstreamRefused):
                await way.ask(ours, "", login=wrong)
    assert all("scope" not in form for form in way.tokens.forms)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_what_is_held_goes_with_its_login(way: Way, kind: str) -> None:
    """Once the source has another one, what the former had is not sent any more."""
    way.registry.gate = gates(way)[kind]
    way.source.now = THEIRS
    async with way.authorizer() as ours:
        assert await way.ask(ours) == 200
        held = way.shown()[-1]
        assert await way.ask(ours) == 200
        assert way.shown()[-1] == held
        way.source.now = OURS
        before = len(way.registry.journal)
        await way.ask(ours)
        assert held not in way.shown()[before:]


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_what_is_refused_is_renewed_once(way: Way, kind: str) -> None:
    """By the registry, or by its token service: with the next login it works in the same request."""
    way.registry.gate = gates(way)[kind]
    way.source.now, way.source.following = Login("they", "old word"), THEIRS
    async with way.authorizer() as ours:
        assert await way.ask(ours) == 200


async def test_a_token_is_held_for_most_of_its_life(way: Way) -> None:
    """It must not die on its way."""
    way.registry.gate = Bearer(tokens=way.tokens)
    async with way.authorizer() as ours:
        for way.now, asked in ((0, 1), (239, 1), (241, 2)):
            assert await way.ask(ours) == 200
            assert len(way.tokens.asked) == asked


async def test_no_login_for_whoever_upstream_redirects_to(way: Way) -> None:
    """A storage that says 401 or 403 has not seen our login, and does not get it for the asking."""
    async with Registry.running() as elsewhere, way.authorizer() as ours:
        way.registry.inject(Redirect(f"{elsewhere.url}/data"))
        for code, headers in ((401, {"WWW-Authenticate": f'Bearer realm="{way.tokens.realm}"'}), (403, {})):
            elsewhere.heal()
            elsewhere.inject(Status(code, headers))
            assert await way.ask(ours) == code
        assert [seen.headers.get("Authorization") for seen in elsewhere.journal.entries] == [None, None]
    assert way.tokens.asked == []


async def test_a_stray_challenge_leaves_no_trace(way: Way) -> None:
    """One answer that wants something else, of a proxy perhaps: the next request is as if it had not been."""
    way.registry.gate = Bearer(tokens=way.tokens)
    async with Authorizer("registry.test", way.registry.url, FixedCredentials(None, fix="-"), way.session) as nobody:
        way.tokens.logins = {}
        assert await way.ask(nobody) == 200
        way.registry.inject(Status(401, {"WWW-Authenticate": 'Basic realm="stray"'}), times=2)
        assert [await way.ask(nobody) for _ in range(2)] == [401, 200]
