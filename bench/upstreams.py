"""Upstream registries of the contestants.

The fast one is nginx with static files and sendfile, so that it is never the bottleneck of a cold pull. The narrow one
is `bench.throttled`, whose bandwidth is the bottleneck on purpose.
"""

import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import nginx
from bench.content import MANIFEST_TYPE, REPOSITORY, TAG, Content
from bench.servers import BenchError, Server, answers, free_port, running

_MANIFEST = """
        location = /v2/{repository}/manifests/{reference} {{
            alias {file};
            default_type {media_type};
            etag off;
            add_header Docker-Content-Digest {digest};
            add_header ETag '"{digest}"';
        }}"""

_SITE = """
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        access_log off;
        add_header Docker-Distribution-Api-Version registry/2.0;
        location = /v2/ {{
            default_type application/json;
            return 200 '{{}}';
        }}
        location ~ "^/v2/.+/blobs/(?<digest>sha256:[0-9a-f]{{64}})$" {{
            alias {blobs}/$digest;
            default_type application/octet-stream;
            etag off;
            add_header Docker-Content-Digest $digest;
            add_header ETag '"$digest"';
        }}{manifests}
    }}
"""


@contextmanager
def fast(content: Content, folder: Path) -> Iterator[Server]:
    """Serve the content as fast as this machine can."""
    port = free_port()
    manifests = "".join(
        _MANIFEST.format(
            repository=REPOSITORY,
            reference=reference,
            file=content.manifests / content.manifest.digest,
            media_type=MANIFEST_TYPE,
            digest=content.manifest.digest,
        )
        for reference in (TAG, content.manifest.digest)
    )
    site = _SITE.format(port=port, blobs=content.blobs, manifests=manifests)
    with nginx.running(folder, site, port) as server:
        yield server


@contextmanager
def narrow(content: Content, folder: Path, *, rate: float) -> Iterator[Server]:
    """Serve the content's blobs at *rate* bytes a second in total over all connections."""
    port = free_port()
    command = [sys.executable, "-m", "bench.throttled", str(port), str(content.root), str(rate)]
    with running(command, folder / "throttled.log", answers(port)) as server:
        yield server


def sent(upstream: Server) -> int:
    """Return the bytes of blobs that the narrow upstream has sent so far."""
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=10)
    try:
        connection.request("GET", "/counters")
        counters = json.load(connection.getresponse())
    finally:
        connection.close()
    match counters:
        case {"sent": int(count)}:
            return count
    raise BenchError(f"the throttled upstream returned invalid counters: {counters!r}")
