"""Third target: a mirror whose upstream sends arbitrary bytes at one step of a pull."""

import random
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.mutation import mutated
from tests.fuzz.replies import Malformed, Reply, WrongBytes, check_content, replies
from tests.fuzz.statistics import Statistics
from tests.fuzz.upstream import Content, Request, Response, Upstream, plain
from tests.fuzz.watched_mirror import WatchedMirror, watched_mirror
from tests.fuzz.workers import run_concurrently

WITHIN = 12.0  # seconds; clients get a response within 10 s, whatever the upstream does
SLOTS = 192  # names of the one upstream, so that the circuit breaker of one does not affect the others
_STEPS = (
    "manifest",
    "blob",
    "manifest",
    "blob",
    "range",
    "head",
    "tags",
    "referrers",
    "challenge",
    "token",
    "redirect",
)


class Plan:
    """One input: the client's request, the step at which upstream is hostile, and its response."""

    def __init__(self, seed: int, number: int, origin: str) -> None:
        self._rng = random.Random(f"{seed}/{number}")
        self.content = Content(seed + number, layers=(self._rng.choice((1, 10, 300, 3000, 3000, 70_000)),))
        self._origin = origin
        self._name = f"f{number}"
        self.step = self._rng.choice(_STEPS)
        self._times = self._rng.choice((1, 1, 1, 2, 9))  # usually the second attempt gets a correct response
        self.sent = b""

    def request(self) -> tuple[str, bytes]:
        """Return the method and the bytes of the client's request."""
        rng, digests = self._rng, self.content
        method = "HEAD" if self.step == "head" or rng.random() < 0.1 else "GET"
        references = ["latest", "multi", *digests.manifests]
        layer = rng.choice(digests.layers)
        match self.step:
            case "manifest" | "head" | "challenge" | "token":
                path = f"manifests/{rng.choice(references)}"
            case "blob" | "range" | "redirect":
                path = f"blobs/{layer}"
            case "tags":
                path = "tags/list?n=2"
            case _:
                path = f"referrers/{references[-1]}"
        slot = rng.randrange(SLOTS)
        more = f"Range: bytes={rng.choice(('0-9', '100-', '-7', '250-260,5-6'))}\r\n" if self.step == "range" else ""
        head = (
            f"{method} /v2/r{slot}.test/{self._name}/{path} HTTP/1.1\r\nHost: mirror\r\n{more}Connection: close\r\n\r\n"
        )
        return method, head.encode()

    def answer(self, request: Request) -> Response:
        """Return the upstream's response: hostile at this plan's step as often as planned, otherwise correct."""
        correct = self._correct(request)
        is_hostile_step = request.target.startswith("/token/") == (self.step == "token")
        if not self._times or not is_hostile_step:
            return Response(correct)
        self._times -= 1
        self.sent = self._hostile(request, correct)
        return Response(self.sent, ends=self._rng.random() < 0.8)

    def _correct(self, request: Request) -> bytes:
        if request.target.startswith("/token/"):
            return plain(request, 200, b'{"token":"good","expires_in":60}')
        if self.step == "token" and "authorization" not in request.headers:
            realm = f'Bearer realm="{self._origin}/token/{self._name}",service="s"'
            return plain(request, 401, b"{}", "application/json", f"WWW-Authenticate: {realm}")
        return self.content.answer(request)

    def _hostile(self, request: Request, correct: bytes) -> bytes:
        rng = self._rng
        match self.step:
            case "challenge":
                value = rng.choice(corpus.CHALLENGES).format(self._address("token")).encode()
                value = mutated(rng, value) if rng.random() < 0.5 else value
                return _with(plain(request, 401, b"{}"), b"WWW-Authenticate: " + value)
            case "token" if rng.random() < 0.6:
                return plain(request, 200, rng.choice(corpus.TOKENS))
            case "redirect":
                value = self._address("cdn").encode()
                value = mutated(rng, value) if rng.random() < 0.5 else value
                return _with(plain(request, rng.choice((301, 302, 303, 307, 308)), b""), b"Location: " + value)
        match rng.randrange(5):
            case 0:
                return _with(correct, *rng.sample(corpus.HEADERS, rng.choice((1, 1, 2, 3))))
            case 1:
                return rng.choice(corpus.STATUSES) + correct[correct.index(b"\r\n") :]
            case 2:
                head, _, body = correct.partition(b"\r\n\r\n")
                return head + b"\r\n\r\n" + mutated(rng, body)
            case 3:
                return plain(request, 200, rng.choice(corpus.MANIFESTS))
            case _:
                return mutated(rng, correct)

    def _address(self, place: str) -> str:
        own = self._origin
        if self._rng.random() < 0.4:
            return f"{own}/{place}/{self._name}/blobs/{self.content.layers[0]}"
        port = self._rng.choice(("", ":80", own[own.rindex(":") :]))
        scheme = self._rng.choice(("http://", "http://", "http://", "https://", "//", "ftp://", "http:/", "HTTP://"))
        return f"{scheme}{self._rng.choice(corpus.FORBIDDEN)}{port}/{place}/{self._name}?sig=a%2Fb"


def _with(answer: bytes, *headers: bytes) -> bytes:
    """Return the response with these headers; the first one replaces the existing one of its name."""
    first, *lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    names = {header.partition(b":")[0].lower() for header in headers[:1]}
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    return b"\r\n".join((first, *kept, *headers)) + b"\r\n\r\n" + answer.partition(b"\r\n\r\n")[2]


async def run(statistics: Statistics, count: int, at: int | None, directory: Path, host: str) -> None:
    """Run *count* inputs, or only input number *at*."""
    plans: dict[str, Plan] = {}

    def answer(request: Request) -> Response:
        names = [part for part in request.target.partition("?")[0].split("/") if part in plans]
        return plans[names[0]].answer(request) if names else Response(plain(request, 404, b"{}"))

    async with Upstream.running(host, answer) as upstream:
        origin = f"http://{host}:{upstream.port}"
        upstreams = {f"r{slot}.test": origin for slot in range(SLOTS)}
        async with watched_mirror(directory, host, upstream, upstreams, statistics) as mirror:

            async def run_one(number: int) -> None:
                plan = plans[f"f{number}"] = Plan(statistics.seed, number, origin)
                await _run_one(mirror, statistics, number, plan)
                del plans[f"f{number}"]

            with statistics.timed():
                await run_concurrently(mirror, range(count) if at is None else [at], run_one)


async def _run_one(mirror: WatchedMirror, statistics: Statistics, number: int, plan: Plan) -> None:
    method, request = plan.request()
    received, whole = await mirror.exchange(request, quiet=None, within=WITHIN)
    statistics.inputs += 1
    description = f"{plan.step}: {request[:120]!r}"
    if not whole:
        statistics.fail("hang", f"{description} got {received[:200]!r} in {WITHIN:g} s", number, plan.sent)
        return
    try:
        reply = _only(replies(received, methods=[method]))
        statistics.answers[f"{plan.step} {reply.kind}{'' if reply.whole else ' (cut)'}"] += 1
        if reply.status == 500:
            statistics.fail("unexpected 5xx", f"{description}: {reply.body[:300]!r}", number, plan.sent)
        # A range of an unfinished blob cannot be verified yet: the client verifies the whole blob.
        if "hit" in reply.headers.get("cache-status", "") or reply.status != 206:
            check_content(reply, plan.content.known)
    except Malformed as error:
        statistics.fail("malformed", f"{description}: {error}", number, plan.sent)
    except WrongBytes as error:
        statistics.fail("wrong bytes", f"{description}: {error}", number, plan.sent)


def _only(found: list[Reply]) -> Reply:
    """Return the only response; raise Malformed for a header that is not the mirror's own."""
    if len(found) != 1:
        raise Malformed(f"{len(found)} answers: {found!r:.300}")
    (reply,) = found
    if not set(reply.headers) <= _OWN:
        raise Malformed(f"headers of the upstream: {set(reply.headers) - _OWN}")
    return reply


_OWN = frozenset(
    (
        *("content-type", "content-length", "content-range", "accept-ranges", "docker-content-digest", "etag", "date"),
        *("docker-distribution-api-version", "cache-status", "oci-namespace", "age", "warning", "retry-after", "link"),
        *("connection", "allow", "oci-filters-applied", "www-authenticate"),
    )
)
