"""The second target: a mirror's socket, and whatever bytes come over it. Upstream is well."""

import random
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.crowd import crowd
from tests.fuzz.mutation import spoiled
from tests.fuzz.replies import Malformed, WrongBytes, check_content, replies
from tests.fuzz.stage import Stage, stage
from tests.fuzz.tally import Tally
from tests.fuzz.upstream import Content, Said, Upstream

QUIET = 0.15  # seconds: what was sent is no whole request, and nothing comes
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


def _request(chance: random.Random, targets: list[bytes]) -> bytes:
    target = chance.choice(targets)
    if chance.random() < 0.2:
        target = spoiled(chance, target)
    lines = [b"%s %s %s" % (chance.choice(corpus.METHODS), target, chance.choice(corpus.VERSIONS)), b"Host: mirror"]
    lines += chance.sample(corpus.HARMLESS, chance.choice((0, 0, 1, 1, 2, 3)))
    lines += chance.sample(corpus.AMBIGUOUS, chance.choice((0, 0, 0, 0, 1, 2)))
    framing, body = chance.choice(corpus.BODIES)
    lines += [framing] if framing else []
    request = b"\r\n".join((*lines, b"", b"")) + body
    return spoiled(chance, request) if chance.random() < 0.25 else request


def made(seed: int, number: int, targets: list[bytes]) -> list[bytes]:
    """The input of this number: bytes in the pieces in which they are sent."""
    chance = random.Random(f"{seed}/{number}")
    text = b"".join(_request(chance, targets) for _ in range(chance.choice((1, 1, 1, 1, 2, 4))))
    if chance.random() < 0.8:
        text += _LAST  # which makes the mirror close, unless it is taken for something else
    cuts = sorted(chance.randrange(len(text) + 1) for _ in range(chance.choice((0, 0, 1, 2))))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


async def run(tally: Tally, count: int, at: int | None, directory: Path, host: str) -> None:
    """Sends *count* inputs, or only the one of the number *at*."""
    content = Content(0, layers=(300, 70_000))
    targets = _targets(content)
    async with Upstream.running(host, lambda request: Said(content.answer(request))) as upstream:
        upstreams = dict.fromkeys(("docker.io", "quay.io"), f"http://{host}:{upstream.port}")
        async with stage(directory, host, upstream, upstreams, tally) as staged:
            with tally.timed():
                await crowd(
                    staged,
                    range(count) if at is None else [at],
                    lambda number: _send(staged, tally, number, made(tally.seed, number, targets), content),
                )


async def _send(staged: Stage, tally: Tally, number: int, pieces: list[bytes], content: Content) -> None:
    said, whole = await staged.exchange(*pieces, quiet=QUIET, within=WITHIN)
    tally.inputs += 1
    text = b"".join(pieces)
    if not whole:
        tally.fail("hang", f"no more than {said[:300]!r} in {WITHIN:g} s", number, text)
        return
    try:
        found = replies(said)
        for reply in found:
            tally.answers[reply.kind] += 1
            if not reply.whole:
                tally.fail("wrong bytes", f"cut: {reply}", number, text)
            check_content(reply, content.known)
            if reply.status >= 500 and reply.status not in {501, 505}:
                tally.fail("unexpected 5xx", f"{reply.status} {reply.body[:300]!r}", number, text)
    except Malformed as error:
        tally.fail("malformed", str(error), number, text)
    except WrongBytes as error:
        tally.fail("wrong bytes", str(error), number, text)
    if not said:
        tally.answers["none"] += 1  # to half a request
