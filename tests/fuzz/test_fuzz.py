"""A short run of `make fuzz`, and tests that the checks detect failures."""

import os
import re
import sys

import pytest

from tests.fuzz.replies import Malformed, WrongBytes, check_content, replies
from tests.fuzz.upstream import Improper, parsed_request
from tests.real.program import ran

COUNT = 5000
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.needs("ip", root=True)
async def test_short_fuzz_run_finds_no_failure() -> None:
    """The same seed each time; `make fuzz` runs more inputs with a new seed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    result = await ran(
        sys.executable, "-m", "tests.fuzz", "--count", str(COUNT), "--seed", "7", env=environment, within=240
    )
    assert result.code == 0, str(result)
    found = re.search(r"([0-9,]+) inputs, 0 failures", result.output)
    assert found is not None, str(result)
    assert int(found[1].replace(",", "")) >= COUNT
    assert "upstream at 203.0.113.10" in result.output, str(result)


@pytest.mark.parametrize(
    "received",
    [
        GOOD.replace(b"1.1", b"1.0"),
        GOOD.replace(b"200 OK", b"200"),
        GOOD.replace(b"\r\nContent", b"\nContent"),
        GOOD.replace(b"Length: 2", b"Length: x"),
        GOOD.replace(b"Content-Length", b"Content-Length "),
        GOOD.replace(b"Content-Length: 2", b"X: y"),
        GOOD.replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
        GOOD.replace(b"Content-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
        GOOD.replace(b"200 OK", b"404 Not Found"),  # no error in the body
        GOOD + b"junk",
        GOOD[:30],
    ],
)
def test_malformed_response_is_detected(received: bytes) -> None:
    """The parser of responses accepts nothing invalid."""
    assert [reply.status for reply in replies(GOOD * 2)] == [200, 200]
    with pytest.raises(Malformed):
        replies(received)


def test_wrong_bytes_are_detected() -> None:
    """A wrong byte of a whole blob, of one range or of several ranges is an error."""
    whole = b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: %s\r\nContent-Length: 1\r\n\r\nx" % EMPTY.encode()
    part = whole.replace(b"200 OK", b"206 Partial Content\r\nContent-Range: bytes 1-1/3")
    for received in (whole, part):
        with pytest.raises(WrongBytes):
            check_content(replies(received)[0], {EMPTY: b"abc"})
    check_content(replies(part)[0], {EMPTY: b"axc"})


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2/a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\nCookie: b\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /v2/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_improper_request_is_detected(head: bytes) -> None:
    """Requests that the mirror has no reason to send upstream are reported."""
    assert parsed_request(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").target == "/v2/"
    with pytest.raises(Improper):
        parsed_request(head)
