"""Reload of the users file on SIGHUP."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fake.registry import Registry
from tests.http.client import Client
from tests.http.upstreams import CALM, section
from tests.http.users import basic, htpasswd
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE, BOB = basic("alice", "open sesame"), basic("bob", "correct:horse")


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """The users file, with alice."""
    file = tmp_path / "users"
    file.write_text(htpasswd({"alice": "open sesame"}))
    return file


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(tmp_path: Path, users: Path, hub: Registry) -> AsyncIterator[Mirror]:
    """A mirror with these users."""
    config = tmp_path / "mirror.toml"
    config.write_text(f'[clients]\nusers_file = "{users}"\n{CALM}' + section("docker.io", hub.url))
    async with running_mirror(tmp_path, "--config", str(config)) as started:
        yield started


async def reload(mirror: Mirror, event: str) -> None:
    """Send SIGHUP, and wait for this event."""
    before = len(mirror.events(event))
    mirror.program.signal(signal.SIGHUP)
    await mirror.program.until(lambda: len(mirror.events(event)) > before)


async def statuses(mirror: Mirror) -> tuple[int, int]:
    """Return the statuses that alice and bob get."""
    async with Client.of(mirror.url) as client:
        return (await client.get("/v2/", ALICE)).status, (await client.get("/v2/", BOB)).status


async def test_sighup_reloads_the_users(guarded: Mirror, users: Path) -> None:
    """Before the signal nothing changes; afterwards new users are admitted, and removed ones refused at once."""
    assert await statuses(guarded) == (200, 401)
    users.write_text(htpasswd({"bob": "correct:horse"}))
    assert await statuses(guarded) == (200, 401)
    await reload(guarded, "reloaded")
    assert await statuses(guarded) == (401, 200)
    users.write_text(htpasswd({"alice": "changed", "bob": "correct:horse"}))
    await reload(guarded, "reloaded")
    assert await statuses(guarded) == (401, 200)


async def test_broken_users_file_is_ignored(guarded: Mirror, users: Path) -> None:
    """The log names file and line, but not the content; the previous users stay in force."""
    assert await statuses(guarded) == (200, 401)
    users.write_text(htpasswd({"bob": "correct:horse"}) + "alice:in-clear\n")
    await reload(guarded, "reload_failed")
    assert await statuses(guarded) == (200, 401)
    said = str(guarded.events("reload_failed")[-1]["reason"])
    assert f"users_file {users}, line 2: " in said
    assert "in-clear" not in guarded.program.said()
    users.unlink()
    await reload(guarded, "reload_failed")
    assert await statuses(guarded) == (200, 401)
    users.write_text(htpasswd({"bob": "correct:horse"}))
    await reload(guarded, "reloaded")
    assert await statuses(guarded) == (401, 200)
