"""The third target: the mirror's other side. A registry answers it with whatever bytes it likes."""

import random
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.crowd import crowd
from tests.fuzz.mutation import spoiled
from tests.fuzz.replies import Malformed, Reply, WrongBytes, check_content, replies
from tests.fuzz.stage import Stage, stage
from tests.fuzz.tally import Tally
from tests.fuzz.upstream import Content, RequestedRepository, Said, Upstream, plain

WITHIN = 12.0  # seconds: whatever upstream does, a client hears within 10
SLOTS = 192  # names for the one upstream, so that the breaker of one leaves the others open
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
    """One input: what is asked of the mirror, and at which step upstream answers with what."""

    def __init__(self, seed: int, number: int, origin: str) -> None:
        self._chance = random.Random(f"{seed}/{number}")
        self.content = Content(seed + number, layers=(self._chance.choice((1, 10, 300, 3000, 3000, 70_000)),))
        self._origin = origin
        self._name = f"f{number}"
        self.step = self._chance.choice(_STEPS)
        self._times = self._chance.choice((1, 1, 1, 2, 9))  # mostly, the second try is answered well
        self.said = b""

    def request(self) -> tuple[str, bytes]:
        """The client's: its method and its bytes."""
        chance, digests = self._chance, self.content
        method = "HEAD" if self.step == "head" or chance.random() < 0.1 else "GET"
        references = ["latest", "multi", *digests.manifests]
        layer = chance.choice(digests.layers)
        match self.step:
            case "manifest" | "head" | "challenge" | "token":
                path = f"manifests/{chance.choice(references)}"
            case "blob" | "range" | "redirect":
                path = f"blobs/{layer}"
            case "tags":
                path = "tags/list?n=2"
            case _:
                path = f"referrers/{references[-1]}"
        slot = chance.randrange(SLOTS)
        more = f"Range: bytes={chance.choice(('0-9', '100-', '-7', '250-260,5-6'))}\r\n" if self.step == "range" else ""
        head = (
            f"{method} /v2/r{slot}.test/{self._name}/{path} HTTP/1.1\r\nHost: mirror\r\n{more}Connection: close\r\n\r\n"
        )
        return method, head.encode()

    def answer(self, request: RequestedRepository) -> Said:
        """Upstream's: hostile at this plan's step, as often as is planned; right otherwise."""
        right = self._right(request)
        is_its_turn = request.target.startswith("/token/") == (self.step == "token")
        if not self._times or not is_its_turn:
            return Said(right)
        self._times -= 1
        self.said = self._hostile(request, right)
        return Said(self.said, ends=self._chance.random() < 0.8)

    def _right(self, request: RequestedRepository) -> bytes:
        if request.target.startswith("/token/"):
            return plain(request, 200, b'{"token":"good","expires_in":60}')
        if self.step == "token" and "authorization" not in request.headers:
            realm = f'Bearer realm="{self._origin}/token/{self._name}",service="s"'
            return plain(request, 401, b"{}", "application/json", f"WWW-Authenticate: {realm}")
        return self.content.answer(request)

    def _hostile(self, request: RequestedRepository, right: bytes) -> bytes:
        chance = self._chance
        match self.step:
            case "challenge":
                words = chance.choice(corpus.CHALLENGES).format(self._address("token")).encode()
                words = spoiled(chance, words) if chance.random() < 0.5 else words
                return _with(plain(request, 401, b"{}"), b"WWW-Authenticate: " + words)
            case "token" if chance.random() < 0.6:
                return plain(request, 200, chance.choice(corpus.TOKENS))
            case "redirect":
                words = self._address("cdn").encode()
                words = spoiled(chance, words) if chance.random() < 0.5 else words
                return _with(plain(request, chance.choice((301, 302, 303, 307, 308)), b""), b"Location: " + words)
        match chance.randrange(5):
            case 0:
                return _with(right, *chance.sample(corpus.HEADERS, chance.choice((1, 1, 2, 3))))
            case 1:
                return chance.choice(corpus.STATUSES) + right[right.index(b"\r\n") :]
            case 2:
                head, _, body = right.partition(b"\r\n\r\n")
                return head + b"\r\n\r\n" + spoiled(chance, body)
            case 3:
                return plain(request, 200, chance.choice(corpus.MANIFESTS))
            case _:
                return spoiled(chance, right)

    def _address(self, place: str) -> str:
        own = self._origin
        if self._chance.random() < 0.4:
            return f"{own}/{place}/{self._name}/blobs/{self.content.layers[0]}"
        port = self._chance.choice(("", ":80", own[own.rindex(":") :]))
        scheme = self._chance.choice(("http://", "http://", "http://", "https://", "//", "ftp://", "http:/", "HTTP://"))
        return f"{scheme}{self._chance.choice(corpus.FORBIDDEN)}{port}/{place}/{self._name}?sig=a%2Fb"


def _with(answer: bytes, *headers: bytes) -> bytes:
    """The answer with more headers: some instead of its own."""
    first, *lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    names = {header.partition(b":")[0].lower() for header in headers[:1]}
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    return b"\r\n".join((first, *kept, *headers)) + b"\r\n\r\n" + answer.partition(b"\r\n\r\n")[2]


async def run(tally: Tally, count: int, at: int | None, directory: Path, host: str) -> None:
    """Plays *count* inputs, or only the one of the number *at*."""
    plans: dict[str, Plan] = {}

    def answer(request: RequestedRepository) -> Said:
        names = [part for part in request.target.partition("?")[0].split("/") if part in plans]
        return plans[names[0]].answer(request) if names else Said(plain(request, 404, b"{}"))

    async with Upstream.running(host, answer) as upstream:
        origin = f"http://{host}:{upstream.port}"
        upstreams = {f"r{slot}.test": origin for slot in range(SLOTS)}
        async with stage(directory, host, upstream, upstreams, tally) as staged:

            async def play(number: int) -> None:
                plan = plans[f"f{number}"] = Plan(tally.seed, number, origin)
                await _play(staged, tally, number, plan)
                del plans[f"f{number}"]

            with tally.timed():
                await crowd(staged, range(count) if at is None else [at], play)


async def _play(staged: Stage, tally: Tally, number: int, plan: Plan) -> None:
    method, request = plan.request()
    said, whole = await staged.exchange(request, quiet=None, within=WITHIN)
    tally.inputs += 1
    what = f"{plan.step}: {request[:120]!r}"
    if not whole:
        tally.fail("hang", f"{what} got {said[:200]!r} in {WITHIN:g} s", number, plan.said)
        return
    try:
        reply = _only(replies(said, methods=[method]))
        tally.answers[f"{plan.step} {reply.kind}{'' if reply.whole else ' (cut)'}"] += 1
        if reply.status == 500:
            tally.fail("unexpected 5xx", f"{what}: {reply.body[:300]!r}", number, plan.said)
        # What a part of a blob is worth is not known before all of it is here: that is its asker's to verify.
        if "hit" in reply.headers.get("cache-status", "") or reply.status != 206:
            check_content(reply, plan.content.known)
    except Malformed as error:
        tally.fail("malformed", f"{what}: {error}", number, plan.said)
    except WrongBytes as error:
        tally.fail("wrong bytes", f"{what}: {error}", number, plan.said)


def _only(found: list[Reply]) -> Reply:
    """The one answer, with no header but the mirror's own."""
    if len(found) != 1:
        raise Malformed(f"{len(found)} answers: {found!r:.300}")
    (reply,) = found
    if not set(reply.headers) <= _OWN:
        raise Malformed(f"headers of upstream's: {set(reply.headers) - _OWN}")
    return reply


_OWN = frozenset(
    (
        *("content-type", "content-length", "content-range", "accept-ranges", "docker-content-digest", "etag", "date"),
        *("docker-distribution-api-version", "cache-status", "oci-namespace", "age", "warning", "retry-after", "link"),
        *("connection", "allow", "oci-filters-applied", "www-authenticate"),
    )
)
