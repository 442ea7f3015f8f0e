"""Credential helpers: real programs that respond, hang or fail. An invalid response never means anonymous access."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import RedirectTargetUnavailable
from mirror.oci.authorization import Login
from mirror.upstream.credentials.credential_helper import CredentialHelpers, HelperRequest, parse_response
from mirror.upstream.credentials.source import Credentials, IdentityToken, is_text
from tests.real.program import eventually

SERVER = "registry.test:5000"
UNKNOWN = b"credentials not found in native keychain\n"
TELL = """printf '{"ServerURL":"%s","Username":"me","Secret":"s %d"}' "$(cat)" "$(grep -c . runs)"\n"""
texts = st.text(st.characters(codec="utf-8")).filter(is_text)


def answer(**members: object) -> bytes:
    return json.dumps({"ServerURL": SERVER, "Username": "me", "Secret": "hidden", **members}).encode()


class Clock:
    """Clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Bench:
    """A directory with a helper program that logs each run there."""

    directory: Path
    clock: Clock

    def helper(self, script: str) -> HelperRequest:
        program = self.directory / "docker-credential-test"
        program.write_text(f"#!/bin/sh\ncd '{self.directory}'\necho $$ \"$@\" >> runs\n{script}")
        program.chmod(0o755)
        return HelperRequest(str(program), SERVER)

    @property
    def runs(self) -> list[str]:
        runs = self.directory / "runs"
        return runs.read_text().splitlines() if runs.exists() else []

    def helpers(self, timeout: float = 20.0) -> CredentialHelpers:
        return CredentialHelpers(timeout=timeout, clock=self.clock)

    async def noted(self) -> bool:
        return (self.directory / "pids").exists()

    def pids(self) -> list[int]:
        """Return the process ids that a script logged."""
        return [int(pid) for pid in (self.directory / "pids").read_text().split()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Clock())


async def gone(pids: list[int]) -> None:
    """Wait until none of these processes runs (a zombie doesn't)."""

    async def none_runs() -> bool:
        return not any(map(runs, pids))

    await eventually(none_runs)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@given(texts.filter(lambda name: name not in {"", "<token>"} and ":" not in name), texts.filter(bool))
def test_login_is_returned_unchanged(username: str, secret: str) -> None:
    """User name and secret, byte for byte."""
    assert parse_response(answer(Username=username, Secret=secret), 0, SERVER) == Login(username, secret)


def test_user_name_token_marks_an_identity_token() -> None:
    """The protocol uses `<token>` in place of a user name."""
    assert parse_response(answer(Username="<token>", Secret="t"), 0, SERVER) == IdentityToken("t")


@pytest.mark.parametrize("about", ["", SERVER, f"https://{SERVER}", f"https://{SERVER}/v2/", SERVER.upper()])
def test_server_url_may_be_spelled_differently(about: str) -> None:
    """Keychains add a scheme or a path."""
    assert parse_response(answer(ServerURL=about), 0, SERVER) == Login("me", "hidden")


def test_not_found_means_no_login() -> None:
    """The protocol's message together with a non-zero exit code."""
    assert parse_response(UNKNOWN, 1, SERVER) is None


@pytest.mark.parametrize(
    ("said", "code"),
    [
        *((b"", 0), (b"", 1), (b"hidden", 1), (answer(), 1), (answer(), -9), (UNKNOWN, 0), (b"hidden " + UNKNOWN, 1)),
        *((b"hidden", 0), (b"null", 0), (b'"hidden"', 0), (b"[]", 0), (b"{}", 0), (b"[" * 60_000, 0)),
        *((b"\xff\xfe\x00hidden", 0), (answer() + b"hidden", 0)),
        *((answer(Username=""), 0), (answer(Secret=""), 0), (answer(Username=None), 0), (answer(Secret=["hidden"]), 0)),
        *(
            (answer(Username="me\r\nX-Hidden: hidden"), 0),
            (answer(Username="hidden:x"), 0),
            (answer(Secret="hidden\n"), 0),
        ),
        *((answer(Secret="hidden\ud800"), 0), (answer(ServerURL="elsewhere.test"), 0)),
    ],
)
def test_invalid_response_is_an_error_without_its_content(said: bytes, code: int) -> None:
    """It is neither a login nor "no login"; the message contains nothing of the response."""
    with pytest.raises(ValueError, match=r"^(failed|returned) ") as refusal:
        parse_response(said, code, SERVER)
    assert "hidden" not in str(refusal.value).lower()


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps(value).encode()
    ),
    st.integers(-255, 255),
)
def test_any_response_is_parsed_or_rejected(said: bytes, code: int) -> None:
    """The rejection is always a ValueError."""
    try:
        found = parse_response(said, code, SERVER)
    except ValueError:
        return
    assert found is None or code == 0


async def test_helper_is_run_as_docker_runs_it(bench: Bench) -> None:
    """It gets the argument `get`, only the server on standard input, and the mirror's environment."""
    request = bench.helper(f"cat > asked\nenv > around\n{TELL.replace('$(cat)', '$(cat asked)')}")
    async with bench.helpers() as helpers:
        assert await helpers.ask(request) == Login("me", "s 1")
    assert [run.split()[1:] for run in bench.runs] == [["get"]]
    assert (bench.directory / "asked").read_text() == SERVER
    assert f"HOME={os.environ['HOME']}\n" in (bench.directory / "around").read_text()


async def test_helper_may_ignore_its_standard_input(bench: Bench) -> None:
    """A helper with a single login ignores it."""
    async with bench.helpers() as helpers:
        assert await helpers.ask(bench.helper('echo \'{"Username":"me","Secret":"s"}\'')) == Login("me", "s")


async def test_concurrent_callers_share_one_run(bench: Bench) -> None:
    """Later callers use the cached result."""
    request = bench.helper(f"sleep 0.2\n{TELL}")
    async with bench.helpers() as helpers:
        found = await asyncio.gather(*(helpers.ask(request) for _ in range(20)))
        found.append(await helpers.ask(request))
    assert found == [Login("me", "s 1")] * 21
    assert len(bench.runs) == 1


@pytest.mark.parametrize(
    ("script", "fresh_for", "first", "second"),
    [
        (TELL, 600, Login("me", "s 1"), Login("me", "s 2")),
        (f"echo '{UNKNOWN.decode().strip()}'; exit 1", 60, None, None),
    ],
)
async def test_result_is_cached_for_a_while(
    bench: Bench, script: str, fresh_for: float, first: Credentials | None, second: Credentials | None
) -> None:
    """A login for ten minutes; "no login" for one minute, as the operator may log in at any time."""
    request = bench.helper(script)
    async with bench.helpers() as helpers:
        assert await helpers.ask(request) == first
        bench.clock.now += fresh_for - 1
        assert await helpers.ask(request) == first
        assert len(bench.runs) == 1
        bench.clock.now += 2
        assert await helpers.ask(request) == second
        assert len(bench.runs) == 2


async def test_refused_login_is_renewed_once(bench: Bench) -> None:
    """It is not renewed right after a run, nor if another caller has renewed it already."""
    request = bench.helper(TELL)
    async with bench.helpers() as helpers:
        first = await helpers.ask(request)
        await helpers.renew(request, first)
        assert helpers.last(request) == first
        bench.clock.now += 4
        await asyncio.gather(*(helpers.renew(request, first) for _ in range(5)))
        assert helpers.last(request) == await helpers.ask(request) == Login("me", "s 2")
        bench.clock.now += 4
        await helpers.renew(request, first)
    assert len(bench.runs) == 2


FAULTS: dict[str, tuple[str, str]] = {
    "hangs": ("echo $$ >> pids; sleep 60 & echo $! >> pids; wait", "did not respond within"),
    "leaves one behind that holds its output": ("sleep 60 & echo $! >> pids; exit 0", "did not respond within"),
    "never stops talking": ("echo $$ >> pids; while :; do echo hidden hidden hidden hidden; done", "more than 65536"),
    "stops too late": ("echo $$ >> pids; head -c 70000 /dev/zero", "more than 65536"),
    "crashes": ("echo $$ >> pids; echo hidden >&2; kill -SEGV $$", "exit code -11"),
    "fails": ("echo $$ >> pids; echo hidden; exit 3", "exit code 3"),
    "prints garbage": ("echo $$ >> pids; echo hidden", "invalid JSON"),
}


@pytest.mark.parametrize("how", FAULTS)
async def test_failed_helper_is_named_and_killed(bench: Bench, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The message contains the helper, the failure and a command to try, and no output; no process is left."""
    script, reason = FAULTS[how]
    async with bench.helpers(timeout=20.0 if "more than" in reason else 1.0) as helpers:
        with pytest.raises(
            RedirectTargetUnavailable, match=f"docker-credential-test for {SERVER} .*{reason}.*try"
        ) as found:
            await helpers.ask(bench.helper(script))
    await gone(bench.pids())
    assert found.value.retry_after
    everything = "".join(capfd.readouterr())
    assert "hidden" not in str(found.value) + str(found.value.detail) + everything


@pytest.mark.parametrize("prepare", [lambda path: path.unlink(), lambda path: path.chmod(0o644)])
async def test_unusable_program_is_named(bench: Bench, prepare: Callable[[Path], None]) -> None:
    """The program is not installed, or not executable."""
    request = bench.helper("")
    prepare(Path(request.program))
    async with bench.helpers() as helpers:
        with pytest.raises(
            RedirectTargetUnavailable, match=r"can't be started \((No such file|Permission denied).*PATH$"
        ):
            await helpers.ask(request)


async def test_failure_is_cached_for_a_few_seconds(bench: Bench) -> None:
    """The helper does not run for each request; once it is fixed, the next request after the pause succeeds."""
    request = bench.helper("exit 3")
    async with bench.helpers() as helpers:
        for _ in range(3):
            with pytest.raises(RedirectTargetUnavailable, match="exit code 3"):
                await helpers.ask(request)
        assert len(bench.runs) == 1
        bench.helper(TELL)
        bench.clock.now += 4
        assert await helpers.ask(request) == Login("me", "s 2")


async def test_refused_login_is_not_reused_when_the_helper_fails(bench: Bench) -> None:
    """The request fails: neither the old login nor anonymous access is used."""
    request = bench.helper(TELL)
    async with bench.helpers() as helpers:
        first = await helpers.ask(request)
        bench.helper("exit 3")
        bench.clock.now += 4
        with pytest.raises(RedirectTargetUnavailable):
            await helpers.renew(request, first)
        with pytest.raises(RedirectTargetUnavailable):
            await helpers.ask(request)


async def test_hanging_helper_does_not_delay_another(bench: Bench, tmp_path: Path) -> None:
    """Requests to different helpers are independent."""
    hanging = bench.helper("sleep 60")
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", bench.clock).helper(TELL)
    async with bench.helpers() as helpers:
        waiting = asyncio.create_task(helpers.ask(hanging))
        assert await helpers.ask(other) == Login("me", "s 1")
        assert not waiting.done()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_shutdown_kills_a_running_helper(bench: Bench) -> None:
    """Its child processes end too, and nothing waits for the time-out."""
    request = bench.helper("sleep 60 & echo $$ $! > pids.new; mv pids.new pids; wait")
    started = time.monotonic()
    async with bench.helpers(timeout=60) as helpers:
        waiting = asyncio.create_task(helpers.ask(request))
        await eventually(bench.noted)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gone(bench.pids())
    assert time.monotonic() - started < 30


async def test_run_continues_after_its_caller_is_cancelled(bench: Bench) -> None:
    """The next caller receives the result."""
    request = bench.helper(f"sleep 0.3\n{TELL}")
    async with bench.helpers() as helpers:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await helpers.ask(request)
        assert await helpers.ask(request) == Login("me", "s 1")
    assert len(bench.runs) == 1
