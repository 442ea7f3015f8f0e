"""nginx with one worker, tuned for serving files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import servers

_CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{
    use epoll;
    worker_connections 4096;
}}
http {{
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 10000000;
    open_file_cache max=10000 inactive=10m;
    open_file_cache_valid 1m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"""


@contextmanager
def running(folder: Path, site: str, port: int) -> Iterator[servers.Server]:
    """Run nginx with *site* in its http section. It listens on *port*.

    Raises:
        BenchError: if nginx is not installed or rejects the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "nginx.conf"
    # By default the workers run as `nobody`, which can't read a private folder.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(_CONFIGURATION.format(folder=folder, site=site, user=user))
    command = [servers.program("nginx"), "-p", str(folder), "-c", str(configuration), "-e", "stderr"]
    with servers.running(command, folder / "nginx.log", servers.answers(port)) as server:
        yield server
