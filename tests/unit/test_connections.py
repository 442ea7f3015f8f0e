"""What connections stand on: aiohttp's own account of them, the system's descriptors, events that are told seldom."""

import resource
import subprocess
import sys

import pytest
from aiohttp import web

from mirror.observability.log import RateLimitedLog
from mirror.server.connections import _common_name
from mirror.server.fds import affordable_connections

READ = {"_request_count", "_messages", "_waiter", "_task_handler", "_next_keepalive_close_time", "_keepalive_timeout"}


def test_aiohttp_still_keeps_what_is_read_off_it() -> None:
    """Private to it, and so free to change: then the limits need another way, and this says so before they fail."""
    assert set(web.RequestHandler.__slots__) >= READ


@pytest.mark.parametrize(
    ("wanted", "descriptors", "possible"),
    [(8192, 20_000, 8192), (8192, 1024, 384), (100, 1024, 100), (8192, 64, 16), (8192, 4, 8)],
)
def test_connections_that_descriptors_are_enough_for(wanted: int, descriptors: int, possible: int) -> None:
    """Two for each connection, and some for the mirror itself; never none."""
    assert affordable_connections(wanted, descriptors) == possible


def test_the_limit_of_descriptors_is_raised() -> None:
    """As far as the system allows, and no further."""
    program = (
        "import resource as r; h = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (64, min(h, 512)))\n"
        "from mirror.server.fds import raise_limit; print(raise_limit(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    most = str(min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert said == [most] * 3


def test_what_is_told_seldom() -> None:
    """At once, and then with a minute between two; the later one says how many there were."""
    told: list[tuple[str, dict[str, object]]] = []
    now = [0.0]

    class Log:
        def info(self, event: str, **facts: object) -> None:
            told.append((event, facts))

    limited = RateLimitedLog(Log(), clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 59.9, 60.0, 61.0):
        limited.info("happened", at=int(now[0]))
    assert told == [("happened", {"at": 0}), ("happened", {"at": 60, "suppressed": 2})]


def _subject(*names: str) -> dict[str, object]:
    return {"subject": ((("countryName", "XX"),), *((("commonName", name),) for name in names))}


@pytest.mark.parametrize(
    ("certificate", "name"),
    [(None, None), ({}, None), (_subject(), None), (_subject("ci"), "ci"), (_subject("ci", "root"), None)],
)
def test_whose_certificate_it_is(certificate: object, name: str | None) -> None:
    """None of two: whose it is must not depend on who reads it."""
    assert _common_name(certificate) == name
