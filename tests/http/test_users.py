"""A mirror with users: unauthenticated requests get 401 and nothing else."""

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
from tests.http.users import authorization, basic, htpasswd
from tests.real.mirror import Mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

COST = 10  # lowest usual cost of htpasswd files: some 60 ms
PASSWORDS = {
    "alice": "open sesame",
    "bob": "correct:horse",
    "\u00fcnal": "p\u00e4ssw\u00f6rter",
    "longest": "x" * 72,
    "fleet": "of many ships",
    "late": "for the party",
}
FILES = {"users": f"# of the house\n\n{htpasswd(PASSWORDS, cost=COST)}"}
CONFIG = f'[clients]\nusers_file = "{{directory}}/users"\n{CALM}'
ALICE = basic("alice", PASSWORDS["alice"])
CHALLENGE = 'Basic realm="mirror", charset="UTF-8"'
BAD_LOGINS = {
    "nothing": {},
    "empty": authorization(b":"),  # podman without a login
    "blank": {"Authorization": ""},
    "no name": authorization(b":open sesame"),
    "no password": authorization(b"alice:"),
    "no colon": authorization(b"alice"),
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
    "NUL": authorization(b"alice:open sesame\0"),
    "NUL inside": authorization(b"alice\0:open sesame"),
    "line": authorization(b"alice:open sesame\r\nX: y"),
    "not UTF-8": authorization(b"alice:\xff\xfe"),
    "letters of other scripts": {"Authorization": "Basic \u0430\u0431"},
    "not base64": {"Authorization": "Basic open sesame"},
    "bearer": {"Authorization": "Bearer open-sesame"},
    "another scheme": {"Authorization": ALICE["Authorization"].replace("Basic", "Negotiate")},
}
ASKED = 60_000  # requests: 27 MB of responses
DIGEST = Blob.of(b"nobody has this").digest
TARGETS = [
    *("/v2/", "/v2", "/v2/?ns=docker.io", "/metrics", "/readyz", "/", "/favicon.ico", "/healthz/", "/healthz%3F"),
    *("/v2/_catalog", "/v2/team/app/manifests/v1", f"/v2/team/app/blobs/{DIGEST}", "/v2/team/app/tags/list"),
    *(f"/v2/team/app/referrers/{DIGEST}", "/v2/UPPER/manifests/v1", "/v2/a/../b/manifests/v1", "/v2//healthz"),
    *("/v2/team/app/manifests/v1?ns=nowhere.test", "/docker.io/v2/team/app/manifests/v1", "/v2/a?" + "n=1&" * 40),
]


async def metrics(client: Client) -> dict[str, float]:
    """Return the metrics."""
    lines = (await client.get("/metrics", ALICE)).body.decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def visible(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """Return all of a reply that a client can compare, that is without Date."""
    return reply.status, {name: value for name, value in reply.headers.items() if name != "Date"}, reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"])
async def test_unauthenticated_requests_reveal_nothing(client: Client, upstream: Upstream, method: str) -> None:
    """The 401 is the same for cached, missing and impossible paths, and no upstream request is made."""
    manifest = upstream.publish(image(100), "v1")
    cached = [upstream.manifest("v1"), upstream.manifest(manifest), *map(upstream.blob, manifest.blobs)]
    for target in cached:
        assert (await client.get(target, ALICE)).status == 200
    asked = len(upstream.registry.journal)
    answers = [visible(await client.ask(method, target)) for target in (*TARGETS, *cached)]
    assert answers == [answers[0]] * len(answers)
    assert answers[0][0] == 401
    assert len(upstream.registry.journal) == asked


@pytest.mark.parametrize("who", BAD_LOGINS)
async def test_unauthenticated_request_gets_a_challenge(client: Client, who: str) -> None:
    """401 with a challenge and a message, for HEAD without the message, whatever credentials were sent."""
    for target in ("/v2/", "/v2/library/alpine/manifests/latest"):
        got, headed = await client.get(target, BAD_LOGINS[who]), await client.head(target, BAD_LOGINS[who])
        assert (got.status, headed.status) == (401, 401), got
        assert got.headers["WWW-Authenticate"] == headed.headers["WWW-Authenticate"] == CHALLENGE
        assert got.error["code"] == "UNAUTHORIZED"
        assert "log in" in str(got.error["message"])
        assert headed.body == b""


async def test_unknown_user_is_indistinguishable_from_a_wrong_password(client: Client) -> None:
    """Neither content nor time reveals user names: within a factor of five, with checks of 60 ms."""
    seconds: dict[str, list[float]] = {"alice": [], "nobody-of-that-name": []}
    answers = []
    for number in range(5):
        for name, times in seconds.items():
            started = perf_counter()
            answers.append(visible(await client.get("/v2/", basic(name, f"guess {number}"))))
            times.append(perf_counter() - started)
    assert answers == [answers[0]] * len(answers)
    known, unknown = (median(times) for times in seconds.values())
    assert 0.2 < unknown / known < 5, seconds


@pytest.mark.parametrize("target", ["/healthz", "/healthz?from=kubelet"])
@pytest.mark.parametrize("who", ["nothing", "wrong password"])
async def test_healthz_needs_no_login(client: Client, target: str, who: str) -> None:
    """/healthz is open to all clients, for supervisors and probes."""
    assert (await client.get(target, BAD_LOGINS[who])).status == 200


@pytest.mark.parametrize("user", ["alice", "bob", "\u00fcnal", "longest"])
async def test_user_may_pull_everything(client: Client, upstream: Upstream, user: str) -> None:
    """/v2/, manifests, blobs, lists, metrics; and unknown paths are 404 again."""
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


async def test_undecodable_authorization_is_401(client: Client) -> None:
    """Bytes that are not text are treated as a wrong login."""
    answer = await client.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: m\r\nAuthorization: Basic \xff\xfe\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_authorization_scheme_is_case_insensitive(client: Client) -> None:
    """RFC 9110, 11.1."""
    for scheme in ("basic", "BASIC"):
        login = {"Authorization": ALICE["Authorization"].replace("Basic", scheme)}
        assert (await client.get("/v2/", login)).status == 200


async def test_login_at_the_mirror_is_not_disclosed(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """It is sent to no upstream; no response, metric or log line contains it, a password, or a hash."""
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


async def test_log_events_name_the_user(client: Client, upstream: Upstream, mirror: Mirror) -> None:
    """Only authenticated users are named, not the claimed names of refused requests."""
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


async def test_concurrent_requests_with_one_login_share_one_check(client: Client) -> None:
    """Hundreds of machines that start at once with the same login are all admitted."""
    login = basic("fleet", PASSWORDS["fleet"])
    replies = await asyncio.gather(*(client.get("/v2/", login) for _ in range(200)))
    assert Counter(reply.status for reply in replies) == {200: 200}


async def test_password_guesses_do_not_block_known_users(client: Client, upstream: Upstream) -> None:
    """A few guesses wait, further ones are refused; pulls of known users continue meanwhile."""
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
    assert (await client.get("/v2/", basic("late", PASSWORDS["late"]))).status == 200  # the guesses are over


async def test_wrong_login_is_checked_once(client: Client) -> None:
    """Clients repeat an outdated password: each check would take 60 ms of a core."""
    wrong = basic("alice", "last year's")
    assert (await client.get("/v2/", wrong)).status == 401
    started = perf_counter()
    for _ in range(40):
        assert (await client.get("/v2/", wrong)).status == 401
    assert perf_counter() - started < 40 * 0.06 / 5


async def test_refused_logins_are_counted(client: Client) -> None:
    """The metric counts them as errors, by their code."""
    assert (await client.get("/v2/")).status == 401
    assert (await metrics(client))['mirror_requests_total{kind="error",outcome="unauthorized",upstream=""}'] >= 1


async def test_unread_401s_are_not_generated(client: Client, mirror: Mirror) -> None:
    """A client that pipelines requests without reading uses neither memory nor log: the mirror stops reading."""

    async def refused() -> float:
        return (await metrics(client))['mirror_requests_total{kind="error",outcome="unauthorized",upstream=""}']

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
