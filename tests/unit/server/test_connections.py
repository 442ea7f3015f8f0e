"""Connections: descriptor limits, partial requests, and the names in client certificates."""

import resource
import socket
import subprocess
import sys

import pytest
from aiohttp import web

from mirror.config import LimitSettings
from mirror.server.connections import Connections, _common_name
from mirror.server.fds import affordable_connections
from mirror.server.framing import malformed


@pytest.mark.parametrize(
    ("wanted", "descriptors", "possible"),
    [(8192, 20_000, 8192), (8192, 1024, 384), (100, 1024, 100), (8192, 64, 16), (8192, 4, 8)],
)
def test_affordable_connections(wanted: int, descriptors: int, possible: int) -> None:
    """Two descriptors for each connection, some for the mirror itself; at least 8 connections."""
    assert affordable_connections(wanted, descriptors) == possible


def test_descriptor_limit_is_raised() -> None:
    """The soft limit is raised to the hard limit."""
    program = (
        "import resource as r; h = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (64, min(h, 512)))\n"
        "from mirror.server.fds import raise_limit; print(raise_limit(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    limit = str(min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert output == [limit] * 3


async def _no_response(request: web.BaseRequest) -> web.StreamResponse:
    raise NotImplementedError


async def test_resuming_the_parser_starts_no_request() -> None:
    """aiohttp calls data_received without bytes when it resumes a connection: it stays idle until a byte arrives."""
    connections = Connections(_no_response, malformed, LimitSettings(), limit=1)
    with socket.socket() as unused:
        connection = connections.add(unused, "192.0.2.1")
        assert connection is not None
        connection.data_received(b"GET / HTTP/1.1\r\nHost: mirror\r\n\r\n")
        connection.partial_request_received(0)
        assert not connection.is_reading
        connection.partial_request_received(1)
        assert connection.is_reading


def _subject(*names: str) -> dict[str, object]:
    return {"subject": ((("countryName", "XX"),), *((("commonName", name),) for name in names))}


@pytest.mark.parametrize(
    ("certificate", "name"),
    [(None, None), ({}, None), (_subject(), None), (_subject("ci"), "ci"), (_subject("ci", "root"), None)],
)
def test_common_name_of_certificate(certificate: object, name: str | None) -> None:
    """A certificate with two common names has none: clients disagree which one counts."""
    assert _common_name(certificate) == name
