"""Response headers and error bodies: valid HTTP, and OCI error JSON for every failure."""

import inspect
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror import errors
from mirror.errors import (
    MethodUnsupported,
    MirrorError,
    RangeUnsatisfiable,
    Unauthorized,
    UpstreamThrottled,
    UpstreamThrottledByPath,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_MANIFEST, ManifestHead
from mirror.oci.names import Repository
from mirror.oci.ranges import Span
from mirror.oci.routes import RequestedRepository
from mirror.pull.results import CacheOutcome, ManifestResult
from mirror.server.response import (
    blob_headers,
    error_answer,
    for_client,
    is_known,
    manifest_headers,
    multipart_headers,
    part_headers,
    part_opening,
    render,
)
from tests.unit.texts import digests

DIGEST = Digest.of(b"")
REQUESTED = RequestedRepository(Repository("quay.io", "org/app"), "/v2/org/app", "quay.io", by_path=False)
FAILURES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MirrorError) and kind not in {RangeUnsatisfiable, Unauthorized}
]
CODES = {  # distribution-spec 1.1, "Error Codes"; UNAVAILABLE and UNKNOWN are distribution's
    *("BLOB_UNKNOWN", "DIGEST_INVALID", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN"),
    *("SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS", "UNAVAILABLE", "UNKNOWN"),
}
texts = st.text() | st.text(st.characters(codec="ascii"))
names = st.text(string.ascii_lowercase, min_size=1).filter(lambda name: name not in {"message", "self", "retry_after"})
facts = st.dictionaries(names, texts | st.integers(), max_size=3)


def rendered(status: int, headers: dict[str, str]) -> dict[str, str]:
    """Return the headers, parsed from the rendered head."""
    head = render(status, headers.items()).decode()
    lines = head.split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    assert lines[-1] == ""
    return dict(line.split(": ", 1) for line in lines[1:-1])


@given(st.sampled_from(FAILURES), texts, facts, st.none() | st.integers(0, 10**6))
def test_every_failure_has_an_error_response(
    kind: type[MirrorError], message: str, detail: dict[str, str | int], retry_after: int | None
) -> None:
    """OCI error JSON with a detail that is never empty, and no challenge: clients would send their upstream login."""
    failure = kind(message, retry_after=retry_after, **detail)
    status, pairs, body = error_answer(failure)
    headers = rendered(status, dict(pairs))
    [error] = json.loads(body)["errors"]
    assert error["code"] in CODES
    assert error["message"].encode("utf-16", "surrogatepass") == message.encode("utf-16", "surrogatepass")
    assert error["detail"]["error"]
    assert 400 <= status < 600
    assert status != 401
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert "WWW-Authenticate" not in headers
    assert ("Retry-After" in headers) == (status in {429, 503, 504})
    if retry_after is not None and "Retry-After" in headers:
        assert headers["Retry-After"] == str(retry_after)


def test_416_has_the_size() -> None:
    """The client can then send a valid range (RFC 9110, 15.5.17)."""
    status, headers, _ = error_answer(RangeUnsatisfiable("bytes=9- holds no byte", size=7))
    assert (status, dict(headers)["Content-Range"]) == (416, "bytes */7")


def test_401_has_a_challenge() -> None:
    """Every 401 has one, and no other status (RFC 9110, 15.5.2)."""
    status, headers, _ = error_answer(Unauthorized("log in", challenge='Basic realm="mirror"'))
    assert (status, dict(headers)["WWW-Authenticate"]) == (401, 'Basic realm="mirror"')


def test_405_has_the_allowed_methods() -> None:
    """RFC 9110, 15.5.6."""
    status, headers, _ = error_answer(MethodUnsupported("PUT is not for a mirror"))
    assert (status, dict(headers)["Allow"]) == (405, "GET, HEAD")


@given(texts, st.integers(0, 10**8))
def test_stale_manifest_has_warning_and_age(reason: str, age: int) -> None:
    """Any failure message becomes a valid header."""
    head = ManifestHead(DIGEST, OCI_MANIFEST, 7)
    pull = ManifestResult(head, None, CacheOutcome.STALE, age=age, failure=UpstreamUnavailable(reason))
    headers = rendered(200, dict(manifest_headers(REQUESTED, pull)))
    assert headers["Cache-Status"].startswith("mirror; fwd=stale")
    assert headers["Age"] == str(age)
    assert headers["Warning"].startswith('299 - "')
    assert headers["Warning"].count('"') == 2
    assert headers["Warning"].isascii()
    assert "\\" not in headers["Warning"]


@given(digests, st.sampled_from(CacheOutcome), st.integers(0, 2**60), st.integers(0, 2**60))
def test_heads_of_a_blob_and_its_ranges_agree(digest: Digest, outcome: CacheOutcome, start: int, length: int) -> None:
    """Whole, one range, several ranges: they differ in length, Content-Range and type only."""
    span = Span(start, start + length + 1)
    whole = dict(blob_headers(REQUESTED, digest, span.end, outcome))
    part = dict(part_headers(REQUESTED, digest, span, span.end, outcome))
    parts = dict(multipart_headers(REQUESTED, digest, "xyz", 7, outcome))
    assert rendered(200, whole) == whole
    assert whole["ETag"] == f'"{digest}"'
    assert whole["Docker-Content-Digest"] == str(digest)
    assert whole["OCI-Namespace"] == "quay.io"
    assert whole["Content-Length"] == str(span.end)
    assert part == {**whole, "Content-Length": str(length + 1), "Content-Range": span.content_range(span.end)}
    assert parts == {**whole, "Content-Length": "7", "Content-Type": "multipart/byteranges; boundary=xyz"}


def test_unknown_size_has_no_content_length() -> None:
    """HEAD of a blob whose size the upstream does not state."""
    assert "Content-Length" not in dict(blob_headers(REQUESTED, DIGEST, None, CacheOutcome.PASSED))


def test_parts_have_multipart_framing() -> None:
    """A boundary on a line of its own, the part's own headers, an empty line (RFC 9110, 14.6; RFC 2046, 5.1)."""
    opening = part_opening("xyz", Span(2, 5), 9, first=True)
    assert opening == (b"--xyz\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 2-4/9\r\n\r\n")
    assert part_opening("xyz", Span(2, 5), 9, first=False) == b"\r\n" + opening


@given(digests, digests)
def test_if_none_match_recognizes_the_digest(digest: Digest, other: Digest) -> None:
    """Quoted, weak or not, alone, in a list or on another line; but not a similar text."""
    quoted = f'"{digest}"'
    for lines in ([quoted], [f"W/{quoted}"], ["*"], [f'"x", {quoted}'], ['"x"', f'"y" ,{quoted},'], [" * "]):
        assert is_known(lines, digest)
    for lines in ([], [""], [str(digest)], [f"'{digest}'"], [f'"{digest}x"'], [f'"{other}"'], [f"w/{quoted}"]):
        assert is_known(lines, digest) == (other == digest and lines == [f'"{other}"'])


@given(st.lists(st.text()))
def test_any_if_none_match_is_parsed(lines: list[str]) -> None:
    """Only `*` matches every digest."""
    assert is_known(lines, DIGEST) == any(
        tag.strip().removeprefix("W/") == "*" for line in lines for tag in line.split(",")
    )


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b", "\x7f", "\x85", "\u2028", "\ud800"])
def test_value_with_a_line_break_is_not_sent(value: str) -> None:
    """The last defence against header injection."""
    with pytest.raises(ValueError, match="can't be sent"):
        render(200, [("OCI-Namespace", value)])


@given(texts)
def test_rendered_header_is_one_line(value: str) -> None:
    """Any other value is an error."""
    try:
        head = render(200, [("Warning", value)])
    except ValueError:
        return
    assert head.count(b"\r\n") == 2
    assert head.decode().splitlines() == ["HTTP/1.1 200 OK", f"Warning: {value}"]


def test_rate_limit_is_429_if_the_path_names_the_upstream() -> None:
    """Its client has no registry to fall back to; a client of `registry-mirrors` falls back at a 503."""
    failure = UpstreamThrottled("too many", retry_after=7, upstream="quay.io")
    assert for_client(failure, by_path=False) is failure
    shown = for_client(failure, by_path=True)
    assert isinstance(shown, UpstreamThrottledByPath)
    assert (str(shown), shown.retry_after, shown.detail) == ("too many", 7, {"upstream": "quay.io"})
    assert (failure.status, shown.status) == (503, 429)
    other = UpstreamTimeout("…")
    assert for_client(other, by_path=True) is other
