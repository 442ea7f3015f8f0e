"""Strict parser of the HTTP responses on a connection to the mirror."""

import hashlib
import json
import re
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [A-Za-z' -]+")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\t\x20-\x7e\x80-\xff]*)")
_NO_BODY = {204, 304}


class Malformed(Exception):
    """The bytes are not a valid HTTP/1.1 response, or not one that a mirror sends."""


class WrongBytes(Exception):
    """The content does not match its digest."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def kind(self) -> str:
        """The status, with the OCI error code of an error."""
        code = json.loads(self.body)["errors"][0]["code"] if self.status >= 400 and self.body else ""
        return f"{self.status} {code}".rstrip()


def replies(stream: bytes, *, methods: list[str] | None = None) -> list[Reply]:
    """Parse all responses on a connection.

    Args:
        methods: of the requests; if None, a response to HEAD is recognized by the bytes that follow it.

    Raises:
        Malformed: if the bytes are anything else than responses of a mirror.
    """
    found: list[Reply] = []
    while stream:
        head, ended, rest = stream.partition(b"\r\n\r\n")
        if not ended:
            raise Malformed(f"incomplete head: {head[:200]!r}")
        status, headers = _head(head)
        method = methods[len(found)] if methods is not None and len(found) < len(methods) else None
        length = _length(status, headers)
        bodiless = method == "HEAD" or (method is None and length > 0 and (not rest or rest.startswith(b"HTTP/1.")))
        length = 0 if bodiless or status in _NO_BODY else length
        reply = Reply(status, headers, rest[:length], len(rest) >= length)
        stream = rest[length:]
        if status >= 400 and not bodiless:
            _check_error(reply)
        found.append(reply)
    return found


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise Malformed(f"invalid status line: {first[:200]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise Malformed(f"invalid header: {line[:200]!r}")
        name = header[1].decode().lower()
        if name in headers:
            raise Malformed(f"repeated header {name}")
        headers[name] = header[2].decode("latin-1")
    return int(status[1]), headers


def _length(status: int, headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Malformed("chunked, which a mirror never needs")
    length = headers.get("content-length", "0" if status in _NO_BODY else "")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise Malformed(f"Content-Length {length!r} with {status}")
    return int(length)


def _check_error(reply: Reply) -> None:
    try:
        (error,) = json.loads(reply.body)["errors"]
        good = set(error) == {"code", "message", "detail"} and error["message"] and error["detail"] is not None
    except (ValueError, KeyError, TypeError) as reason:
        raise Malformed(f"{reply.status} without an OCI error: {reply.body[:200]!r}") from reason
    if not good or not re.fullmatch("[A-Z_]+", error["code"]):
        raise Malformed(f"{reply.status} with {error!r}")


def check_content(reply: Reply, known: dict[str, bytes]) -> None:
    """Verify the content of a response.

    Raises:
        WrongBytes: if the content does not match its digest.
    """
    digest = reply.headers.get("docker-content-digest")
    if digest is None or not reply.body or reply.status not in {200, 206} or not reply.whole:
        return
    if reply.status == 200:
        algorithm, _, hexadecimal = digest.partition(":")
        if hashlib.new(algorithm, reply.body).hexdigest() != hexadecimal:
            raise WrongBytes(f"{len(reply.body)} bytes that are not {digest}")
        return
    content = known.get(digest)
    if content is None:
        raise WrongBytes(f"a part of {digest}, which is not known")
    for said, part in _parts(reply):
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", said)
        if found is None or content[int(found[1]) : int(found[2]) + 1] != part or int(found[3]) != len(content):
            raise WrongBytes(f"{len(part)} bytes that are not {said} of {digest}")


def _parts(reply: Reply) -> list[tuple[str, bytes]]:
    if "content-range" in reply.headers:
        return [(reply.headers["content-range"], reply.body)]
    boundary = b"\r\n--" + reply.headers["content-type"].partition("boundary=")[2].encode()
    first, *pieces = (b"\r\n" + reply.body).split(boundary)
    if first or pieces.pop() not in {b"--", b"--\r\n"}:
        raise WrongBytes("parts without their boundaries")
    cut = [piece.removeprefix(b"\r\n").partition(b"\r\n\r\n") for piece in pieces]
    ranges = [re.search(r"Content-Range: (.*)", head.decode()) for head, _, _ in cut]
    return [(found[1].strip() if found else "", part) for found, (_, _, part) in zip(ranges, cut, strict=True)]
