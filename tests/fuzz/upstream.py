"""An upstream registry that sends planned bytes: complete responses, head and body, valid or not."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.fake.content import Blob, image_of, index

_LINE = re.compile(rb"(GET|HEAD) (/[!-~]*) HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z-]+): ([\x20-\x7e]*)")
_MAY_BE_SENT = frozenset(
    ["host", "user-agent", "accept", "accept-encoding", "authorization", "range", "connection", "if-range"]
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the mirror."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """The bytes of a response, and whether the connection is closed after them."""

    text: bytes
    ends: bool = False


class Improper(Exception):
    """The mirror sent something that it has no reason to send."""


def parsed_request(head: bytes) -> Request:
    """Parse the head of a request.

    Raises:
        Improper: if the mirror has no reason to send it.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _LINE.fullmatch(first)
    if found is None:
        raise Improper(f"improper request line: {first[:300]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        name = "" if header is None else header[1].decode().lower()
        if header is None or name not in _MAY_BE_SENT or name in headers:
            raise Improper(f"improper header: {line[:300]!r}")
        headers[name] = header[2].decode()
    return Request(found[1].decode(), found[2].decode(), headers)


class Upstream:
    """Listens, answers as planned, and records improper requests."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self._answer = answer
        self.port = 0
        self.connections = 0
        self.requests = 0
        self.improper: list[str] = []
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    @asynccontextmanager
    async def running(cls, host: str, answer: Callable[[Request], Response]) -> AsyncIterator["Upstream"]:
        upstream = cls(answer)
        server = await asyncio.start_server(upstream._serve, host, 0, limit=2**20)
        upstream.port = server.sockets[0].getsockname()[1]
        try:
            yield upstream
        finally:
            server.close()
            for writer in upstream._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                try:
                    response = self._answer(parsed_request(head))
                except Improper as error:
                    self.improper.append(str(error))
                    break
                writer.write(response.text)
                await writer.drain()
                if response.ends:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


class Content:
    """A small image and its index, the same for each *serial*, and the correct responses for them."""

    def __init__(self, serial: int, layers: Sequence[int]) -> None:
        rng = random.Random(serial)
        image_ = image_of(*(Blob.of(rng.randbytes(size)) for size in layers), serial=serial)
        index_ = index(image_)
        self.tags = {"latest": image_.digest, "multi": index_.digest}
        self.manifests = {one.digest: one for one in (image_, index_)}
        self.blobs: dict[str, Blob] = {blob.digest: blob for blob in image_.blobs}
        self.layers = [blob.digest for blob in image_.blobs[1:]]
        self.known = {one.digest: one.content for one in self.manifests.values()}
        self.known |= {one.digest: one.content for one in self.blobs.values()}

    def answer(self, request: Request) -> bytes:
        """Return the correct response to a request below /v2/ of any repository."""
        path = request.target.partition("?")[0]
        kind, reference = path.split("/")[-2:]
        if kind == "manifests":
            manifest = self.manifests.get(self.tags.get(reference, reference))
            if manifest is not None:
                return content(request, manifest.content, manifest.media_type, manifest.digest)
        elif kind == "blobs" and reference in self.blobs:
            return content(request, self.blobs[reference].content, "application/octet-stream", reference)
        elif kind == "tags":
            return plain(request, 200, b'{"name":"a","tags":["latest","multi"]}', "application/json")
        elif kind == "referrers":
            body = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
            return plain(request, 200, body, "application/vnd.oci.image.index.v1+json")
        return plain(request, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no","detail":{}}]}')


def plain(request: Request, status: int, body: bytes, media_type: str = "application/json", *more: str) -> bytes:
    """Return a response; to HEAD without a body."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *more]
    head = "\r\n".join((*lines, "", "")).encode()
    return head if request.method == "HEAD" else head + body


def content(request: Request, body: bytes, media_type: str, digest: str) -> bytes:
    """Return a response with content, or with the requested range of it."""
    headers = [f"Docker-Content-Digest: {digest}", f'ETag: "{digest}"']
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if span is None or int(span[1]) >= len(body):
        return plain(request, 200, body, media_type, *headers)
    start, end = int(span[1]), min(len(body), int(span[2]) + 1 if span[2] else len(body))
    headers.append(f"Content-Range: bytes {start}-{end - 1}/{len(body)}")
    return plain(request, 206, body[start:end], media_type, *headers)
