"""Contestants: the compared caches, each with a well-tuned configuration.

The mirror runs one process and nginx one worker (`worker_processes 1`). docker-registry and drayage have no setting for
the number of threads. Each logs to a file in its default format, nginx to its access log.
"""

import importlib.util
import json
import os
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench import nginx, servers
from bench.servers import BenchError, Server


class Contestant(ABC):
    """A pull-through cache."""

    name: str

    @abstractmethod
    def running(self, folder: Path, upstream: str) -> AbstractContextManager[Server]:
        """Run the cache with its storage and log in *folder* and the registry *upstream* as its upstream.

        Raises:
            BenchError: if the program is not installed or does not start.
        """


class Mirror(Contestant):
    """This project, with one process."""

    name = "mirror"

    def running(self, folder: Path, upstream: str) -> AbstractContextManager[Server]:
        """See Contestant. The cache directory <folder>/cache may exist already."""
        if importlib.util.find_spec("mirror.__main__") is None:
            raise BenchError("the package mirror is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "mirror", "serve"),
            *("--listen", "127.0.0.1:0"),
            *("--cache", str(folder / "cache")),
            *("--max-size", "50GiB"),
            *("--upstream", f"docker.io={upstream}"),
            *("--log-format", "json"),
        ]
        return servers.running(command, folder / "mirror.log", listening_port)


class Nginx(Contestant):
    """nginx as a caching proxy: one download per blob, without digest verification."""

    name = "nginx"

    # The lock's age and time-out are as long as the download of a large layer may take, so a fill is one download.
    # Cached files are sent with sendfile; bodies from upstream pass through large buffers directly to the cache's disk.
    _SITE = """
    proxy_cache_path {cache} levels=1:2 keys_zone=images:64m max_size=50g inactive=365d use_temp_path=off;
    upstream registry {{
        server {upstream};
        keepalive 64;
    }}
    log_format pulls '$remote_addr [$time_iso8601] "$request" $status $body_bytes_sent $upstream_cache_status';
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        access_log {folder}/access.log pulls buffer=64k flush=1s;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_buffer_size 64k;
        proxy_buffers 32 256k;
        proxy_busy_buffers_size 1m;
        proxy_read_timeout 60s;
        proxy_ignore_client_abort on;
        proxy_force_ranges on;
        proxy_cache images;
        proxy_cache_key $uri;
        proxy_cache_lock on;
        proxy_cache_lock_age 1h;
        proxy_cache_lock_timeout 1h;
        proxy_cache_use_stale error timeout updating http_429 http_500 http_502 http_503 http_504;
        proxy_cache_background_update on;
        proxy_cache_revalidate on;
        location = /v2/ {{
            default_type application/json;
            return 200 '{{}}';
        }}
        location ~ "^/v2/.+/(blobs|manifests)/sha(256|512):[0-9a-f]+$" {{
            proxy_cache_valid 200 365d;
            proxy_pass http://registry;
        }}
        location ~ ^/v2/.+/manifests/ {{
            proxy_cache_valid 200 60s;
            proxy_pass http://registry;
        }}
    }}
"""

    def running(self, folder: Path, upstream: str) -> AbstractContextManager[Server]:
        """See Contestant. The cache keys are paths, which suffices for a single upstream."""
        port = servers.free_port()
        site = self._SITE.format(
            port=port, folder=folder, cache=folder / "cache", upstream=upstream.removeprefix("http://")
        )
        return nginx.running(folder, site, port)


class DockerRegistry(Contestant):
    """Distribution 2.8 in proxy mode, with the in-memory descriptor cache."""

    name = "docker-registry"

    _CONFIGURATION = """
version: 0.1
log: {{fields: {{service: registry}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {cache}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
proxy: {{remoteurl: "{upstream}"}}
"""

    @contextmanager
    def running(self, folder: Path, upstream: str) -> Iterator[Server]:
        """See Contestant. It answers `/v2/` itself, so a response means that it is ready."""
        folder.mkdir(parents=True, exist_ok=True)
        port = servers.free_port()
        configuration = folder / "config.yml"
        configuration.write_text(self._CONFIGURATION.format(cache=folder / "cache", port=port, upstream=upstream))
        command = [servers.program("docker-registry"), "serve", str(configuration)]
        with servers.running(command, folder / "docker-registry.log", servers.answers(port)) as server:
            yield server


class Drayage(Contestant):
    """A pull-through cache in Rust, which verifies blobs before sending them."""

    name = "drayage"

    _CONFIGURATION = """
listen = "127.0.0.1:{port}"
cache_dir = "{cache}"
read_timeout_secs = 600
[upstreams.docker_io]
registry = "{upstream}"
"""

    @contextmanager
    def running(self, folder: Path, upstream: str) -> Iterator[Server]:
        """See Contestant. Its read time-out includes the whole blob, so the default of 30 s is too short."""
        program = Path(sysconfig.get_path("scripts")) / "drayage"
        if not os.access(program, os.X_OK):
            raise BenchError("drayage is not installed: pip install drayage")
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        port = servers.free_port()
        configuration = folder / "config.toml"
        configuration.write_text(self._CONFIGURATION.format(cache=folder / "cache", port=port, upstream=upstream))
        command = [str(program), "serve", "--config", str(configuration)]
        with servers.running(command, folder / "drayage.log", servers.answers(port)) as server:
            yield server


PEERS: tuple[Contestant, ...] = (Nginx(), DockerRegistry(), Drayage())
MIRROR = Mirror()


def listening_port(log: Path) -> int | None:
    """Return the port in the mirror's `listening` log event, or None if there is no such event yet."""
    for line in log.read_text(errors="replace").splitlines():
        if '"listening"' not in line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a partially written line
        if isinstance(event, dict) and event.get("event") == "listening":
            return int(str(event["url"]).rpartition(":")[2])
    return None
