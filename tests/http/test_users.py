"""A mirror with users: whoever is none of them is told to log in, and nothing else."""

import asyncio
import contextlib
import socket
from collections import Counter
from statistics import median
from time import perf_counter

import pytest

from tests.fake.content import Blob, artifact, image
from tests.http.client import Client, Reply
from tests.http.upstreams import CALM, Upstream
from tests.http.users import basic, htpasswd, shown
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEAR = 10  # as htpasswd's users choose it at least: some 60 ms
PASSWORDS = {
    "alice": "open sesame",
    "bob": "correct:horse",
    "\u00fcnal": "p\u00e4ssw\u00f6rter",
    "longest": "x" * 72,
    "fleet": "of many ships",
    "late": "for the party",
}
FILES = {"users": f"# of the house\n\n{htpasswd(PASSWORDS, cost=DEAR)}"}
CONFIG = f'[clients]\nusers_file = "{{directory}}/users"\n{CALM}'
ALICE = basic("alice", PASSWORDS["alice"])
CHALLENGE = 'Basic realm="mirror", charset="UTF-8"'
NOBODY = {
    "nothing": {},
    "empty": shown(b":"),  # podman without a login
    "blank": {"Authorization": ""},
    "no name": shown(b":open sesame"),
    "no password": shown(b"alice:"),
    "no colon": shown(b"alice"),
    "wrong password": basic("alice", "open"),
    "longer password": basic("alice", PASSWORDS["alice"] + " "),
    "another's password": basic("alice", PASSWORDS["bob"]),
    "wrong name": basic("carol", PASSWORDS["alice"]),
    "another case": basic("Alice", PASSWORDS["alice"]),
    "anonymous": basic("anonymous", ""),
    "hash": basic("alice", FILES["users"].split("alice:")[1].split("\n")[0]),
    "comment": basic("# of the house", ""),
    "more than bcrypt reads": basic("longest", "x" * 73),
    "much more": basic("longest", "x" * 5000),
    "NUL": shown(b"alice:open sesame\0"),
    "NUL inside": shown(b"alice\0:open sesame"),
    "line": shown(b"alice:open sesame\r\nX: y"),
    "not UTF-8": shown(b"alice:\xff\xfe"),
    "letters of other scripts": {"Authorization": "Basic \u0430\u0431"},
    "not base64": {"Authorization": "Basic open sesame"},
    "bearer": {"Authorization": "Bearer open-sesame"},
    "another scheme": {"Authorization": ALICE["Authorization"].replace("Basic", "Negotiate")},
}
ASKED = 60_000  # requests: 27 MB of answers
DIGEST = Blob.of(b"nobody has this").digest
TARGETS = [
    *("/v2/", "/v2", "/v2/?ns=docker.io", "/metrics", "/readyz", "/", "/favicon.ico", "/healthz/", "/healthz%3F"),
    *("/v2/_catalog", "/v2/team/app/manifests/v1", f"/v2/team/app/blobs/{DIGEST}", "/v2/team/app/tags/list"),
    *(f"/v2/team/app/referrers/{DIGEST}", "/v2/UPPER/manifests/v1", "/v2/a/../b/manifests/v1", "/v2//healthz"),
    *("/v2/team/app/manifests/v1?ns=nowhere.test", "/docker.io/v2/team/app/manifests/v1", "/v2/a?" + "n=1&" * 40),
]


async def figures(client: Client) -> dict[str, float]:
    """What /metrics says."""
    lines = (await client.get("/metrics", ALICE)).body.decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def told(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """All that somebody can see of an answer, but for the time of day."""
    return reply.status, {name: value for name, value in reply.headers.items() if name != "Date"}, reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"])
async def test_no_path_tells_strangers_whether_it_is_one(client: Client, upstream: Upstream, method: str) -> None:
    """What is cached, what isn't, what never is: one and the same 401, and nothing is asked upstream."""
    manifest = upstream.publish(image(100), "v1")
    cached = [upstream.manifest("v1"), upstream.manifest(manifest), *map(upstream.blob, manifest.blobs)]
    for target in cached:
        assert (await client.get(target, ALICE)).status == 200
    asked = len(upstream.registry.journal)
    answers = [told(await client.ask(method, target)) for target in (*TARGETS, *cached)]
    assert answers == [answers[0]] * len(answers)
    assert answers[0][0] == 401
    assert len(upstream.registry.journal) == asked


@pytest.mark.parametrize("who", NOBODY)
async def test_a_stranger_is_told_to_log_in(client: Client, who: str) -> None:
    """401 with a challenge, and words; for HEAD the same without the words. Whatever it is that was sent."""
    for target in ("/v2/", "/v2/library/alpine/manifests/latest"):
        got, had = await client.get(target, NOBODY[who]), await client.head(target, NOBODY[who])
        assert (got.status, had.status) == (401, 401), got
        assert got.headers["WWW-Authenticate"] == had.headers["WWW-Authenticate"] == CHALLENGE
        assert got.error["code"] == "UNAUTHORIZED"
        assert "log in" in str(got.error["message"])
        assert had.body == b""


async def test_a_wrong_name_is_told_what_a_wrong_password_is_told(client: Client) -> None:
    """Nobody finds out who the users are, not even by the clock: within a factor of five, with checks of 60 ms."""
    seconds: dict[str, list[float]] = {"alice": [], "nobody-of-that-name": []}
    answers = []
    for number in range(5):
        for name, times in seconds.items():
            started = perf_counter()
            answers.append(told(await client.get("/v2/", basic(name, f"guess {number}"))))
            times.append(perf_counter() - started)
    assert answers == [answers[0]] * len(answers)
    known, unknown = (median(times) for times in seconds.values())
    assert 0.2 < unknown / known < 5, seconds


@pytest.mark.parametrize("target", ["/healthz", "/healthz?from=kubelet"])
@pytest.mark.parametrize("who", ["nothing", "wrong password"])
async def test_whoever_restarts_the_mirror_needs_no_login(client: Client, target: str, who: str) -> None:
    """/healthz is for everybody."""
    assert (await client.get(target, NOBODY[who])).status == 200


@pytest.mark.parametrize("user", ["alice", "bob", "\u00fcnal", "longest"])
async def test_a_user_pulls_everything(client: Client, upstream: Upstream, user: str) -> None:
    """Base, manifests, blobs, lists, metrics; and unknown paths are 404 again."""
    login = basic(user, PASSWORDS[user])
    payload = Blob.noise(50)
    manifest = upstream.publish(image(100), "v1")
    upstream.publish(artifact("application/vnd.test", payload, manifest))
    base = f"/v2/{upstream.name}/{upstream.repository}"
    for target in ("/v2/", "/metrics", "/readyz", f"{base}/tags/list", f"{base}/referrers/{manifest.digest}"):
        assert (await client.get(target, login)).status == 200, target
    assert (await client.get(upstream.manifest("v1"), login)).body == manifest.content
    for blob in manifest.blobs:
        assert (await client.get(upstream.blob(blob), login)).body == blob.content
    assert (await client.get("/nowhere", login)).status == 404
    assert (await client.ask("PUT", upstream.manifest("v1"), login)).status == 405


async def test_bytes_that_are_no_text_are_no_login(client: Client) -> None:
    """Not even an error."""
    answer = await client.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: m\r\nAuthorization: Basic \xff\xfe\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_the_scheme_of_a_login_has_no_case(client: Client) -> None:
    """RFC 9110, 11.1."""
    for scheme in ("basic", "BASIC"):
        login = {"Authorization": ALICE["Authorization"].replace("Basic", scheme)}
        assert (await client.get("/v2/", login)).status == 200


async def test_a_login_is_the_mirrors_alone(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """It goes to no upstream; no answer, figure or line of the log holds it, nor a password, nor a hash."""
    manifest = upstream.publish(image(100), "v1")
    said = len(mirror.program.said())
    logins = [ALICE, basic("alice", "wrong-but-nearly"), basic("mallory", "wrong-but-nearly")]
    replies = [await client.get(target, login) for target in (upstream.manifest("v1"), "/v2/") for login in logins]
    replies += [await client.get(upstream.blob(blob), ALICE) for blob in manifest.blobs]
    replies += [await client.get("/metrics", ALICE), await client.get("/readyz", ALICE)]
    assert [reply.status for reply in replies] == [200, 401, 401] * 2 + [200] * 4
    assert upstream.registry.journal.entries
    assert not [seen for seen in upstream.registry.journal.entries if "Authorization" in seen.headers]
    await mirror.program.until(lambda: mirror.program.said().count(f'"upstream":"{upstream.name}"') == 3)
    emitted = mirror.program.said()[said:] + "".join(f"{reply.headers}{reply.body!r}" for reply in replies[1:])
    secrets = [PASSWORDS["alice"], "wrong-but-nearly", *(login["Authorization"].split()[1] for login in logins)]
    secrets += [line.split(":")[1] for line in FILES["users"].splitlines() if ":" in line]
    assert [secret for secret in secrets if secret in emitted] == []


async def test_events_name_the_user(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Where there is one: who was not let in is nobody, whatever name was claimed."""
    manifest = upstream.publish(image(100), "v1")
    assert (await client.get(upstream.manifest(manifest), ALICE)).status == 200
    assert (await client.get(upstream.manifest("missing"), basic("bob", PASSWORDS["bob"]))).status == 404
    assert (await client.get(upstream.manifest("unseen"), basic("bob", "wrong"))).status == 401
    of_ours = f"/{upstream.name}/"
    await mirror.program.until(lambda: "manifests/unseen" in mirror.program.said())
    served = [event for event in mirror.events("pull_served") if event["upstream"] == upstream.name]
    failed = [event for event in mirror.events("pull_failed") if of_ours in str(event["target"])]
    assert [event["user"] for event in served] == ["alice"]
    assert [event.get("user") for event in failed] == ["bob", None]
    assert [event["code"] for event in failed] == ["MANIFEST_UNKNOWN", "UNAUTHORIZED"]


async def test_a_fleet_with_one_login_waits_for_one_check(client: Client) -> None:
    """Hundreds of machines start at once and show the same: all come in, none is put off."""
    login = basic("fleet", PASSWORDS["fleet"])
    replies = await asyncio.gather(*(client.get("/v2/", login) for _ in range(200)))
    assert Counter(reply.status for reply in replies) == {200: 200}


async def test_a_flood_of_guesses_stops_nobody_who_was_let_in(client: Client, upstream: Upstream) -> None:
    """Guesses wait for each other, and no more than a few; pulls of those who are known go on beside them."""
    manifest = upstream.publish(image(100), "v1")
    assert (await client.get(upstream.manifest("v1"), ALICE)).status == 200
    flood = [asyncio.create_task(client.get("/v2/", basic("alice", f"guess {number}"))) for number in range(200)]
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(10):
        assert (await client.get(upstream.manifest(manifest), ALICE)).status == 200
    assert not all(guess.done() for guess in flood)
    replies = await asyncio.gather(*flood)
    assert {reply.status for reply in replies} == {401, 503}
    for reply in replies:
        if reply.status == 503:
            assert int(reply.headers["Retry-After"]) > 0
            assert reply.error["code"] == "TOOMANYREQUESTS"
    assert (await client.get("/v2/", basic("late", PASSWORDS["late"]))).status == 200  # the flood is over


async def test_what_was_wrong_is_not_checked_again(client: Client) -> None:
    """A client with an old password says it again and again: 60 ms of a core each time would be a flood of its own."""
    wrong = basic("alice", "last year's")
    assert (await client.get("/v2/", wrong)).status == 401
    started = perf_counter()
    for _ in range(40):
        assert (await client.get("/v2/", wrong)).status == 401
    assert perf_counter() - started < 40 * 0.06 / 5


async def test_refusals_are_counted(client: Client) -> None:
    """As errors, by their code."""
    assert (await client.get("/v2/")).status == 401
    assert (await figures(client))['mirror_requests_total{kind="error",outcome="unauthorized",upstream=""}'] >= 1


async def test_answers_that_are_not_read_are_not_made(client: Client, mirror: Mirror) -> None:
    """A stranger that asks on one connection without reading fills neither memory nor log: it has to wait."""

    async def refused() -> float:
        return (await figures(client))['mirror_requests_total{kind="error",outcome="unauthorized",upstream=""}']

    before = await refused() if (await client.get("/v2/")).status == 401 else 0
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stranger.connect(("127.0.0.1", mirror.port))
        asking = asyncio.create_task(
            asyncio.to_thread(stranger.sendall, b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n" * ASKED)
        )
        seen, now = before, await refused()
        while now > seen or now == before:
            await asyncio.sleep(0.5)
            seen, now = now, await refused()
        assert now - before < ASKED / 2
        stranger.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            await asking
    assert (await client.get("/healthz")).status == 200
