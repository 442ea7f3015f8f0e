"""Upstream with limited bandwidth: RATE bytes a second in total over all connections.

`python -m bench.throttled PORT FOLDER RATE` serves FOLDER/blobs/<digest>. `GET /counters` returns the bytes of blobs
sent so far.
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import web

_CHUNK = 64 << 10
_SLACK = 0.05  # seconds of lateness that a sender may catch up, so that the actual rate reaches the configured one
_FOLDER = web.AppKey("folder", Path)


class Line:
    """A fixed bandwidth, shared by all senders."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0
        self.sent = 0

    async def carry(self, size: int) -> None:
        """Wait until the bandwidth allows *size* more bytes."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(now - _SLACK, self._free_at) + size / self._rate
        await asyncio.sleep(self._free_at - now)
        self.sent += size


_LINE = web.AppKey("line", Line)


async def blob(request: web.Request) -> web.StreamResponse:
    """Handle a GET or HEAD of a blob, or of a range of it."""
    digest = request.match_info["digest"]
    file = request.app[_FOLDER] / digest
    if not file.is_file():
        raise web.HTTPNotFound
    size = file.stat().st_size
    wanted = request.http_range
    start, stop, _ = wanted.indices(size)
    partial = wanted.start is not None
    response = web.StreamResponse(
        status=206 if partial else 200,
        headers={
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
            "ETag": f'"{digest}"',
        },
    )
    if partial:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    response.content_length = stop - start
    await response.prepare(request)
    if request.method == "GET":
        await _send(response, file, start, stop, request.app[_LINE])
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, path: Path, start: int, stop: int, line: Line) -> None:
    with path.open("rb") as file:
        file.seek(start)
        left = stop - start
        while left:
            chunk = file.read(min(_CHUNK, left))
            left -= len(chunk)
            await line.carry(len(chunk))
            await response.write(chunk)


async def ping(_request: web.Request) -> web.Response:
    """Handle GET /v2/."""
    return web.json_response({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})


async def counters(request: web.Request) -> web.Response:
    """Handle GET /counters."""
    return web.json_response({"sent": request.app[_LINE].sent})


def main() -> None:
    """Serve until terminated."""
    port, folder, rate = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    app = web.Application()
    app[_FOLDER] = folder / "blobs"
    app[_LINE] = Line(rate)
    app.router.add_get("/v2/", ping)
    app.router.add_get("/v2/{name:.+}/blobs/{digest:sha256:[0-9a-f]+}", blob)
    app.router.add_get("/counters", counters)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
