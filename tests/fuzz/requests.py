"""Second target: a mirror's socket that receives arbitrary bytes. Its upstream works."""

import random
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.mutation import mutated
from tests.fuzz.replies import Malformed, WrongBytes, check_content, replies
from tests.fuzz.statistics import Statistics
from tests.fuzz.upstream import Content, Response, Upstream
from tests.fuzz.watched_mirror import WatchedMirror, watched_mirror
from tests.fuzz.workers import run_concurrently

QUIET = 0.15  # seconds without a byte, after which an incomplete request is assumed to get no response
WITHIN = 10.0
_LAST = b"GET /healthz HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"


def _targets(content: Content) -> list[bytes]:
    digests = [*content.manifests, *content.blobs]
    paths = [f"manifests/{name}" for name in (*content.tags, *content.manifests, "none", "0" * 128)]
    paths += [f"blobs/{digest}" for digest in (*digests, "sha256:" + "0" * 64)]
    paths += ["tags/list", "tags/list?n=1", "tags/list?last=%2F%0d%0a", f"referrers/{digests[0]}"]
    found = [f"/v2/{name}/{path}" for path in paths for name in ("team/app", "quay.io/team/app", "alpine")]
    found += [f"{target}{'&' if '?' in target else '?'}ns=quay.io" for target in found[::5]]
    found += ["/", "/v2", "/v2/", "/healthz", "/readyz", "/metrics", "/v2/_catalog", "*", "http://a.test/v2/"]
    found += ["/v2/../../etc/passwd", "/v2/a/blobs/../../../x", "/v2/a//b/manifests/x", "/v2/a%2Fb/manifests/x"]
    found += [
        "/v2/team/app/blobs/uploads/",
        "/v2/a/manifests/x%0d%0aX:y",
        "//169.254.169.254/v2/",
        "/quay.io/v2/a/tags/list",
    ]
    return [target.encode() for target in found]


def _request(rng: random.Random, targets: list[bytes]) -> bytes:
    target = rng.choice(targets)
    if rng.random() < 0.2:
        target = mutated(rng, target)
    lines = [b"%s %s %s" % (rng.choice(corpus.METHODS), target, rng.choice(corpus.VERSIONS)), b"Host: mirror"]
    lines += rng.sample(corpus.HARMLESS, rng.choice((0, 0, 1, 1, 2, 3)))
    lines += rng.sample(corpus.AMBIGUOUS, rng.choice((0, 0, 0, 0, 1, 2)))
    framing, body = rng.choice(corpus.BODIES)
    lines += [framing] if framing else []
    request = b"\r\n".join((*lines, b"", b"")) + body
    return mutated(rng, request) if rng.random() < 0.25 else request


def input_of(seed: int, number: int, targets: list[bytes]) -> list[bytes]:
    """Return the input of this number, in the pieces in which it is sent."""
    rng = random.Random(f"{seed}/{number}")
    text = b"".join(_request(rng, targets) for _ in range(rng.choice((1, 1, 1, 1, 2, 4))))
    if rng.random() < 0.8:
        text += _LAST  # it closes the connection, unless it is taken for a part of an earlier request
    boundaries = sorted(rng.randrange(len(text) + 1) for _ in range(rng.choice((0, 0, 1, 2))))
    return [text[start:end] for start, end in zip([0, *boundaries], [*boundaries, len(text)], strict=True)]


async def run(statistics: Statistics, count: int, at: int | None, directory: Path, host: str) -> None:
    """Run *count* inputs, or only input number *at*."""
    content = Content(0, layers=(300, 70_000))
    targets = _targets(content)
    async with Upstream.running(host, lambda request: Response(content.answer(request))) as upstream:
        upstreams = dict.fromkeys(("docker.io", "quay.io"), f"http://{host}:{upstream.port}")
        async with watched_mirror(directory, host, upstream, upstreams, statistics) as mirror:
            with statistics.timed():
                await run_concurrently(
                    mirror,
                    range(count) if at is None else [at],
                    lambda number: _send(
                        mirror, statistics, number, input_of(statistics.seed, number, targets), content
                    ),
                )


async def _send(
    mirror: WatchedMirror, statistics: Statistics, number: int, pieces: list[bytes], content: Content
) -> None:
    received, whole = await mirror.exchange(*pieces, quiet=QUIET, within=WITHIN)
    statistics.inputs += 1
    text = b"".join(pieces)
    if not whole:
        statistics.fail("hang", f"no more than {received[:300]!r} in {WITHIN:g} s", number, text)
        return
    try:
        found = replies(received)
        for reply in found:
            statistics.answers[reply.kind] += 1
            if not reply.whole:
                statistics.fail("wrong bytes", f"cut: {reply}", number, text)
            check_content(reply, content.known)
            if reply.status >= 500 and reply.status not in {501, 505}:
                statistics.fail("unexpected 5xx", f"{reply.status} {reply.body[:300]!r}", number, text)
    except Malformed as error:
        statistics.fail("malformed", str(error), number, text)
    except WrongBytes as error:
        statistics.fail("wrong bytes", str(error), number, text)
    if not received:
        statistics.answers["none"] += 1  # for an incomplete request
