"""Search of all output of the mirror for all secrets that it must not disclose.

Each kind of credentials is used once where it is right and once where it is wrong, by clients that send their own.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.fake.cdn import Cdn
from tests.fake.content import Manifest, image
from tests.fake.faults import Redirect, Status
from tests.fake.registry import Registry
from tests.fake.tokens import Basic, Bearer, TokenServer, basic
from tests.http.client import Client, Reply
from tests.http.raw_connection import RawConnection
from tests.http.upstreams import Upstream, section
from tests.real.mirror import Mirror, launched

MARK = "S3CR3T"  # contained in all secrets
PASSWORD, WRONG_PASSWORD = f"{MARK}-password+/=", f"{MARK}-wrong-password"
IDENTITY, HELPED, AUTH = f"{MARK}-identity", f"{MARK}-helped", f"{MARK}-auth"
CLIENT, TOKEN = f"{MARK}-client", f"{MARK}-bearer"
SIGNED = f"http://127.0.0.1:1/?X-Amz-Signature={MARK}-signature"
CONFIG = """
[timeouts]
first_byte = "3s"
shutdown = "2s"
[tags]
fresh_for = "0s"
missing_for = "0s"
[log]
level = "debug"
[credentials]
docker_config = "{directory}/config.json"
helper_timeout = "1s"
"""
TELL = f"""echo '{{"Username": "me", "Secret": "{HELPED}"}}'"""
HELPERS = {
    "good": f"sleep 0.3; {TELL}",
    "token": f"""sleep 0.3; echo '{{"Username": "<token>", "Secret": "{IDENTITY}"}}'""",
    "crashing": f"echo {HELPED}; echo {HELPED} >&2; exit 1",
    "lying": f"""echo '{{"Username": "{HELPED}\\r\\n", "Secret": "{HELPED}"}}'""",
    "hanging": f"{TELL}; sleep 60",
}
LOGIN = 'username = "me"\npassword_file = "{directory}/password"\n'
SECTIONS = {
    "basic.test": LOGIN,
    "bearer.test": LOGIN,
    "wrong.test": 'username = "me"\npassword_file = "{directory}/wrong"\n',
    "refused.test": LOGIN,
    "auths.test": "",
    "identity.test": "",
    **{f"{name}.test": f'credential_helper = "{name}"\n' for name in HELPERS},
    "signed.test": "",
    "astray.test": "",
    "passing.test": 'client_auth = "passthrough"\n',
}
SHOWN: tuple[dict[str, str], ...] = ({}, {"Authorization": basic("me", CLIENT)}, {"Authorization": f"Bearer {TOKEN}"})


def spellings(secret: str) -> Iterator[bytes]:
    """Yield the secret as it is, and in any base64, where it may begin at each of three byte offsets."""
    yield secret.encode()
    for before in range(3):
        known = len(secret) + before
        encoded = b64encode(b"\0" * before + secret.encode())
        yield encoded[-(-before * 8 // 6) : known * 8 // 6]


NEEDLES = (*spellings(MARK), quote(PASSWORD).encode(), b"secret-token-")


def test_search_finds_a_secret_in_any_base64() -> None:
    """The search terms match a login as it looks on the wire."""
    for user in ("a", "ab", "abc", "robot$x"):
        wire = basic(user, PASSWORD).encode()
        assert any(needle in wire for needle in NEEDLES), wire
    assert not any(needle in b"Basic " + b64encode(b"nobody:nothing") for needle in NEEDLES)


@dataclass(slots=True)
class Emitted:
    """The collected output, by source."""

    texts: list[tuple[str, bytes]] = field(default_factory=list)

    def reply(self, target: str, reply: Reply) -> None:
        self.texts.append((target, repr(reply.headers).encode() + reply.body))

    def files(self, directory: Path) -> None:
        for path in directory.rglob("*"):
            if path.is_file():
                self.texts.append((str(path), path.read_bytes()))

    def leaks(self) -> list[tuple[str, bytes]]:
        """Return the places where a secret was found, with context."""
        return [
            (where, text[max(0, text.find(needle) - 60) :][:160])
            for where, text in self.texts
            for needle in NEEDLES
            if needle in text
        ]


def command_lines(pid: int) -> Iterator[tuple[str, bytes]]:
    """Yield the command lines of a process and of all its descendants."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield f"/proc/{pid}/cmdline", Path(f"/proc/{pid}/cmdline").read_bytes()
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        for child in children.split():
            yield from command_lines(int(child))


@contextlib.asynccontextmanager
async def watch_command_lines(pid: int, emitted: Emitted) -> AsyncIterator[None]:
    """Sample the command lines repeatedly; check at the end that helper programs were among them."""

    async def watch() -> None:
        while True:
            emitted.texts += command_lines(pid)
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert any(b"docker-credential-good" in title for _, title in emitted.texts)


@dataclass(slots=True)
class World:
    """All upstreams, with their gates."""

    upstreams: dict[str, Upstream]
    images: dict[str, Manifest]
    tokens: TokenServer

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator["World"]:
        async with contextlib.AsyncExitStack() as stack:
            tokens = await stack.enter_async_context(TokenServer.running())
            refusing = await stack.enter_async_context(TokenServer.running())
            cdn = await stack.enter_async_context(Cdn.running())
            upstreams = {name: Upstream(name, await stack.enter_async_context(Registry.running())) for name in SECTIONS}
            world = cls(upstreams, {name: one.publish(image(7, 8), "v1") for name, one in upstreams.items()}, tokens)
            tokens.logins = {"me": PASSWORD}
            tokens.refresh_tokens = {IDENTITY}
            refusing.inject(Status(401, {"X-You-Sent": basic("me", PASSWORD)}, f"not {PASSWORD}".encode()))
            for name in ("basic.test", "wrong.test"):
                upstreams[name].registry.gate = Basic("me", PASSWORD)
            for name in ("bearer.test", "identity.test", "token.test"):
                upstreams[name].registry.gate = Bearer(tokens=tokens)
            upstreams["refused.test"].registry.gate = Bearer(tokens=refusing)
            upstreams["auths.test"].registry.gate = Basic("me", AUTH)
            upstreams["passing.test"].registry.gate = Basic("me", CLIENT)
            for name in ("good", "crashing", "lying", "hanging"):
                upstreams[f"{name}.test"].registry.gate = Basic("me", HELPED)
            upstreams["signed.test"].registry.blobs_at = cdn
            upstreams["astray.test"].registry.inject(Redirect(SIGNED))
            yield world

    def configure(self, directory: Path) -> Path:
        """Write all files that the mirror reads."""
        (directory / "password").write_text(f"{PASSWORD}\n")
        (directory / "wrong").write_text(f"{WRONG_PASSWORD}\n")
        auths = {
            self._host("auths.test"): {"auth": basic("me", AUTH).removeprefix("Basic ")},
            self._host("identity.test"): {"identitytoken": IDENTITY},
        }
        (directory / "config.json").write_text(json.dumps({"auths": auths}))
        for name, script in HELPERS.items():
            program = directory / f"docker-credential-{name}"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        config = directory / "mirror.toml"
        sections = (section(name, self.upstreams[name].registry.url, more) for name, more in SECTIONS.items())
        config.write_text((CONFIG + "".join(sections)).replace("{directory}", str(directory)))
        return config

    def _host(self, name: str) -> str:
        return f"127.0.0.1:{self.upstreams[name].registry.port}"

    def targets(self, name: str) -> list[str]:
        upstream = self.upstreams[name]
        blob = upstream.blob(self.images[name].blobs[0])
        return [upstream.manifest("v1"), blob, upstream.manifest("v2"), f"/v2/{name}/{upstream.repository}/tags/list"]


@contextlib.asynccontextmanager
async def serving(directory: Path, config: Path, log_format: str) -> AsyncIterator[Mirror]:
    """Run a mirror with that log format."""
    mirror = await launched(
        directory / "mirror",
        *("--config", str(config), "--log-format", log_format),
        env={"PATH": f"{directory}:{os.environ['PATH']}"},
    )
    said = mirror.program.said
    try:
        await mirror.program.until(lambda: "listening" in said() and said().endswith("\n"))
        mirror.url = re.findall(r"http://127\.0\.0\.1:\d+", said())[-1]
        yield mirror
        mirror.program.signal(signal.SIGTERM)
        assert await mirror.program.ended() == 0
    finally:
        await mirror.program.kill()


async def request_everything(world: World, client: Client, emitted: Emitted) -> dict[str, int]:
    """Request every target of every upstream with every login; return each tag's status with the right login."""

    async def ask(name: str) -> int:
        statuses = []
        for headers in SHOWN:
            for target in world.targets(name):
                reply = await client.get(target, headers)
                emitted.reply(target, reply)
                statuses.append(reply.status)
        return statuses[len(world.targets(name)) if name == "passing.test" else 0]

    return dict(zip(SECTIONS, await asyncio.gather(*map(ask, SECTIONS)), strict=True))


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_no_secret_in_any_output(tmp_path: Path, log_format: str) -> None:
    """Log, responses, metrics, cache files and command lines, after successes and failures."""
    emitted = Emitted()
    async with (
        World.running() as world,
        serving(tmp_path, world.configure(tmp_path), log_format) as mirror,
        Client.of(mirror.url) as client,
        watch_command_lines(mirror.program.pid, emitted),
    ):
        answered = await request_everything(world, client, emitted)
        (tmp_path / "config.json").write_text('{"auths": "' + PASSWORD)
        world.tokens.revoke()
        await asyncio.sleep(1.1)  # a changed file is read again once per second
        await request_everything(world, client, emitted)
        for target in ("/metrics", "/readyz", "/healthz", "/v2/", "/token?service=passing.test"):
            emitted.reply(target, await client.get(target, SHOWN[1]))
        for target in (f"http://me:{CLIENT}@{mirror.host}/v2/library/", f"//me:{CLIENT}@{mirror.host}/v2/"):
            async with RawConnection.to(mirror) as connection:
                await connection.send(
                    f"GET {target} HTTP/1.1\r\nHost: {mirror.host}\r\nConnection: close\r\n\r\n".encode()
                )
                emitted.texts.append((target, await connection.rest()))
    emitted.files(tmp_path / "mirror")
    log = mirror.program.said()
    assert ("secret_file_broken" in log, "credential_helper_failed" in log) == (True, True)
    assert {name: status for name, status in answered.items() if status == 200}.keys() == {
        *("basic.test", "bearer.test", "auths.test", "identity.test", "good.test", "token.test"),
        *("signed.test", "passing.test"),
    }
    assert emitted.leaks() == []
