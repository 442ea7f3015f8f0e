"""Credential helpers: real programs that answer, hang and lie. What can't be believed is not taken for nobody."""

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
from mirror.upstream.credentials.credential_helper import CredentialHelpers, HelperRequest, understood
from mirror.upstream.credentials.source import Credentials, IdentityToken, is_text
from tests.real.program import eventually

SERVER = "registry.test:5000"
UNKNOWN = b"credentials not found in native keychain\n"
TELL = """printf '{"ServerURL":"%s","Username":"me","Secret":"s %d"}' "$(cat)" "$(grep -c . runs)"\n"""
texts = st.text(st.characters(codec="utf-8")).filter(is_text)


def answer(**members: object) -> bytes:
    return json.dumps({"ServerURL": SERVER, "Username": "me", "Secret": "hidden", **members}).encode()


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Bench:
    """A directory with a helper program in it, which notes each run there."""

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
        """Of all processes that a script noted."""
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
def test_a_login_is_taken_as_it_is(username: str, secret: str) -> None:
    """Name and secret, to the letter."""
    assert understood(answer(Username=username, Secret=secret), 0, SERVER) == Login(username, secret)


def test_an_identity_token_is_told_by_its_name() -> None:
    """The protocol's word for it, where the name of a user would stand."""
    assert understood(answer(Username="<token>", Secret="t"), 0, SERVER) == IdentityToken("t")


@pytest.mark.parametrize("about", ["", SERVER, f"https://{SERVER}", f"https://{SERVER}/v2/", SERVER.upper()])
def test_a_server_has_several_spellings(about: str) -> None:
    """What a keychain has it under."""
    assert understood(answer(ServerURL=about), 0, SERVER) == Login("me", "hidden")


def test_not_found_is_nobody() -> None:
    """The protocol's words, and an exit code that is not 0."""
    assert understood(UNKNOWN, 1, SERVER) is None


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
def test_what_cannot_be_believed_is_neither_a_login_nor_nobody(said: bytes, code: int) -> None:
    """And none of it is shown."""
    with pytest.raises(ValueError, match=r"^(ended|answered) ") as refusal:
        understood(said, code, SERVER)
    assert "hidden" not in str(refusal.value).lower()


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(
        lambda value: json.dumps(value).encode()
    ),
    st.integers(-255, 255),
)
def test_any_answer_is_a_login_nobody_or_refused(said: bytes, code: int) -> None:
    """Never another error."""
    try:
        found = understood(said, code, SERVER)
    except ValueError:
        return
    assert found is None or code == 0


async def test_it_is_asked_as_docker_asks(bench: Bench) -> None:
    """`get`, the server on standard input and nothing else, and the environment of the mirror."""
    enquiry = bench.helper(f"cat > asked\nenv > around\n{TELL.replace('$(cat)', '$(cat asked)')}")
    async with bench.helpers() as helpers:
        assert await helpers.ask(enquiry) == Login("me", "s 1")
    assert [run.split()[1:] for run in bench.runs] == [["get"]]
    assert (bench.directory / "asked").read_text() == SERVER
    assert f"HOME={os.environ['HOME']}\n" in (bench.directory / "around").read_text()


async def test_a_helper_need_not_read_what_it_is_asked(bench: Bench) -> None:
    """One that knows one login only."""
    async with bench.helpers() as helpers:
        assert await helpers.ask(bench.helper('echo \'{"Username":"me","Secret":"s"}\'')) == Login("me", "s")


async def test_many_who_ask_are_one_run(bench: Bench) -> None:
    """However many pulls begin at once, and those that come later too."""
    enquiry = bench.helper(f"sleep 0.2\n{TELL}")
    async with bench.helpers() as helpers:
        found = await asyncio.gather(*(helpers.ask(enquiry) for _ in range(20)))
        found.append(await helpers.ask(enquiry))
    assert found == [Login("me", "s 1")] * 21
    assert len(bench.runs) == 1


@pytest.mark.parametrize(
    ("script", "kept", "first", "second"),
    [
        (TELL, 600, Login("me", "s 1"), Login("me", "s 2")),
        (f"echo '{UNKNOWN.decode().strip()}'; exit 1", 60, None, None),
    ],
)
async def test_an_answer_is_kept_for_a_while(
    bench: Bench, script: str, kept: float, first: Credentials | None, second: Credentials | None
) -> None:
    """Ten minutes a login; one minute that there is none, for it may be made at any time."""
    enquiry = bench.helper(script)
    async with bench.helpers() as helpers:
        assert await helpers.ask(enquiry) == first
        bench.clock.now += kept - 1
        assert await helpers.ask(enquiry) == first
        assert len(bench.runs) == 1
        bench.clock.now += 2
        assert await helpers.ask(enquiry) == second
        assert len(bench.runs) == 2


async def test_what_was_refused_is_asked_for_anew(bench: Bench) -> None:
    """Once, unless it came a moment ago; and not where another asker has it already."""
    enquiry = bench.helper(TELL)
    async with bench.helpers() as helpers:
        first = await helpers.ask(enquiry)
        await helpers.renew(enquiry, first)
        assert helpers.last(enquiry) == first
        bench.clock.now += 4
        await asyncio.gather(*(helpers.renew(enquiry, first) for _ in range(5)))
        assert helpers.last(enquiry) == await helpers.ask(enquiry) == Login("me", "s 2")
        bench.clock.now += 4
        await helpers.renew(enquiry, first)
    assert len(bench.runs) == 2


FAULTS: dict[str, tuple[str, str]] = {
    "hangs": ("echo $$ >> pids; sleep 60 & echo $! >> pids; wait", "did not answer within"),
    "leaves one behind that holds its output": ("sleep 60 & echo $! >> pids; exit 0", "did not answer within"),
    "never stops talking": ("echo $$ >> pids; while :; do echo hidden hidden hidden hidden; done", "more than 65536"),
    "stops too late": ("echo $$ >> pids; head -c 70000 /dev/zero", "more than 65536"),
    "crashes": ("echo $$ >> pids; echo hidden >&2; kill -SEGV $$", "exit code -11"),
    "fails": ("echo $$ >> pids; echo hidden; exit 3", "exit code 3"),
    "lies": ("echo $$ >> pids; echo hidden", "not JSON"),
}


@pytest.mark.parametrize("how", FAULTS)
async def test_a_helper_that_fails_is_named_and_gone(bench: Bench, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The message says which, how, and what to try; nothing that it said is shown; none of its processes is left."""
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
async def test_a_helper_that_cannot_be_run_is_named(bench: Bench, prepare: Callable[[Path], None]) -> None:
    """Not installed, or not executable."""
    enquiry = bench.helper("")
    prepare(Path(enquiry.program))
    async with bench.helpers() as helpers:
        with pytest.raises(RedirectTargetUnavailable, match=r"can't be run: (No such file|Permission denied).*PATH"):
            await helpers.ask(enquiry)


async def test_a_failure_is_remembered_for_a_moment_and_then_forgotten(bench: Bench) -> None:
    """Not run for each request; when it is cured, the next request after that moment works."""
    enquiry = bench.helper("exit 3")
    async with bench.helpers() as helpers:
        for _ in range(3):
            with pytest.raises(RedirectTargetUnavailable, match="exit code 3"):
                await helpers.ask(enquiry)
        assert len(bench.runs) == 1
        bench.helper(TELL)
        bench.clock.now += 4
        assert await helpers.ask(enquiry) == Login("me", "s 2")


async def test_a_login_that_was_refused_is_not_used_because_the_helper_fails(bench: Bench) -> None:
    """What is not known any more fails; it does not become nobody, nor what it was."""
    enquiry = bench.helper(TELL)
    async with bench.helpers() as helpers:
        first = await helpers.ask(enquiry)
        bench.helper("exit 3")
        bench.clock.now += 4
        with pytest.raises(RedirectTargetUnavailable):
            await helpers.renew(enquiry, first)
        with pytest.raises(RedirectTargetUnavailable):
            await helpers.ask(enquiry)


async def test_one_that_hangs_keeps_no_other_waiting(bench: Bench, tmp_path: Path) -> None:
    """Enquiries are independent of each other."""
    hanging = bench.helper("sleep 60")
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", bench.clock).helper(TELL)
    async with bench.helpers() as helpers:
        waiting = asyncio.create_task(helpers.ask(hanging))
        assert await helpers.ask(other) == Login("me", "s 1")
        assert not waiting.done()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_when_the_mirror_stops_the_helper_is_gone(bench: Bench) -> None:
    """With all that it started; nobody waits for its time to be up."""
    enquiry = bench.helper("sleep 60 & echo $$ $! > pids.new; mv pids.new pids; wait")
    started = time.monotonic()
    async with bench.helpers(timeout=60) as helpers:
        waiting = asyncio.create_task(helpers.ask(enquiry))
        await eventually(bench.noted)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gone(bench.pids())
    assert time.monotonic() - started < 30


async def test_who_asked_may_leave(bench: Bench) -> None:
    """The run goes on, and the next one has its answer."""
    enquiry = bench.helper(f"sleep 0.3\n{TELL}")
    async with bench.helpers() as helpers:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await helpers.ask(enquiry)
        assert await helpers.ask(enquiry) == Login("me", "s 1")
    assert len(bench.runs) == 1
