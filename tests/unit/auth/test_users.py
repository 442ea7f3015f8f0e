"""Users: every line of an htpasswd file is valid or refused; logins are authenticated, cached and limited."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.auth.rules import is_user
from mirror.auth.users import Logins, Users, parse_htpasswd
from mirror.errors import ConfigurationInvalid, TooManyLogins
from mirror.oci.authorization import Login
from tests.unit.loops import Loop, new_loop
from tests.unit.texts import anything

WHOLE = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()
DEAR = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(9)).decode()
LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

users = st.text(st.characters(codec="utf-8").filter(lambda c: c.isprintable() and c != ":"), max_size=255).filter(
    lambda name: is_user(name) and not name.startswith("#")
)
hashes = st.builds(
    "${}${:02}${}{}{}".format,
    st.sampled_from(["2a", "2b", "2y"]),
    st.integers(4, 14),
    st.text(LETTERS, min_size=21, max_size=21),
    st.sampled_from(".Oeu"),
    st.text(LETTERS, min_size=31, max_size=31),
)
entries = st.dictionaries(users, hashes, min_size=1, max_size=6)
silent = st.sampled_from(["", "#", "# alice:$apr1$", "   ", "\t", "\r"])


def refused(text: str) -> str:
    """Return the message of the refusal of *text*."""
    with pytest.raises(ConfigurationInvalid) as refusal:
        parse_htpasswd(text, file="/etc/users")
    return str(refusal.value)


@given(entries, st.data(), st.sampled_from(["\n", "\r\n", " \n", "\t\n"]))
def test_htpasswd_file_yields_its_users(entries: dict[str, str], data: st.DataObject, ending: str) -> None:
    """Order, comments, empty lines between entries and the kind of line ending do not matter."""
    lines = [f"{user}:{hashed}" for user, hashed in entries.items()]
    for _ in range(data.draw(st.integers(0, 3))):
        lines.insert(data.draw(st.integers(0, len(lines))), data.draw(silent))
    text = ending.join(lines) + data.draw(st.sampled_from(["", ending]))
    assert parse_htpasswd(text, file="f") == {user: hashed.encode() for user, hashed in entries.items()}


@given(entries, st.data())
def test_invalid_line_is_named_by_file_and_number(entries: dict[str, str], data: st.DataObject) -> None:
    """The message does not contain the hash or a password in its place."""
    lines = [f"{user}:{hashed}" for user, hashed in entries.items()]
    wrong = data.draw(
        st.sampled_from(
            [
                *("alice", "alice:", "alice:secret-in-clear", f":{WHOLE}", f" alice:{WHOLE}", f"anonymous:{WHOLE}"),
                *(
                    "alice:$apr1$abc$0123456789",
                    "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
                    "alice:$5$abc$def",
                    "alice:$6$a$b",
                ),
                *(f"alice:{WHOLE}:more", f"alice:{WHOLE}x", f"alice:{WHOLE[:-1]}", f"alice: {WHOLE}", f"a\0b:{WHOLE}"),
                *(
                    f"alice:{WHOLE.replace('$2b$', '$2x$')}",
                    f"alice:{WHOLE.replace('$2b$', '$2$')}",
                    f"a\ufeff:{WHOLE}",
                ),
                *(
                    f"alice:{WHOLE.replace('$04$', '$03$')}",
                    f"alice:{WHOLE.replace('$04$', '$15$')}",
                    "a" * 256 + f":{WHOLE}",
                ),
                f"alice:{WHOLE[:28]}z{WHOLE[29:]}",
                f"{data.draw(st.sampled_from(sorted(entries)))}:{WHOLE}",
            ]
        ).filter(lambda line: line.partition(":")[0] not in entries or line.endswith(WHOLE))
    )
    twice = wrong.partition(":")[0] in entries
    at = len(lines) if twice else data.draw(st.integers(0, len(lines)))
    lines.insert(at, wrong)
    said = refused("\n".join(lines))
    assert f"/etc/users, line {at + 1}: " in said
    assert all(hashed[7:] not in said for hashed in entries.values())
    assert WHOLE[7:] not in said
    assert "secret" not in said


@given(st.lists(silent, max_size=3).map("\n".join))
def test_htpasswd_file_without_users_is_refused(text: str) -> None:
    """A mirror that admits no client is a mistake."""
    assert "/etc/users has no user" in refused(text)


@given(anything(entries.map(lambda found: "\n".join(f"{user}:{hashed}" for user, hashed in found.items()))))
def test_any_text_yields_users_or_is_refused(text: str) -> None:
    """Accepted entries have hashes that bcrypt can check and names that can be logged."""
    try:
        found = parse_htpasswd(text, file="f")
    except ConfigurationInvalid as refusal:
        assert re.match(r"users_file f(, line \d+: | has no user)", str(refusal))  # noqa: PT017
        return
    assert found
    assert all(is_user(user) and len(hashed) == 60 for user, hashed in found.items())


@given(hashes)
def test_accepted_hash_can_be_checked(hashed: str) -> None:
    """bcrypt accepts it without an error (checked at the lowest cost to save time)."""
    parse_htpasswd(f"alice:{hashed}", file="f")
    assert not bcrypt.checkpw(b"", f"{hashed[:4]}04{hashed[6:]}".encode())


def test_unreadable_htpasswd_file_is_named(tmp_path: Path) -> None:
    """Missing, a directory, or not UTF-8; in the last case with the line."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigurationInvalid, match=re.escape(f"users_file {path} can't be read")):
            Users.read(path)
    (tmp_path / "latin").write_bytes(b"# x\n\xfcnal:" + WHOLE.encode())
    with pytest.raises(ConfigurationInvalid, match="latin, line 2: not UTF-8"):
        Users.read(tmp_path / "latin")


def test_repr_shows_no_hash() -> None:
    """A logged value must not leak hashes."""
    assert "$2b$" not in repr(Users({"alice": WHOLE.encode()}))


# Logins


@pytest.fixture
def loop() -> Iterator[Loop]:
    with new_loop() as loop:
        yield loop


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"alice:{WHOLE}\nbob:{DEAR}\n")
    return path


async def admits(logins: Logins, login: Login, address: str) -> bool:
    """Return whether the login is accepted, first from the cache and then by a check, as the server does it."""
    header = f"{login.username}:{login.password}"
    caller = logins.cached(header) or await logins.authenticate(header, login, address)
    assert caller is None or caller.user == login.username
    assert (logins.cached(header) is None) == (caller is None)
    return caller is not None


ALICE, BOB = Login("alice", "open sesame"), Login("bob", "open sesame")


def test_reload_invalidates_cached_logins(loop: Loop, file: Path) -> None:
    """Removed users and changed passwords are refused; new users are accepted."""

    async def work() -> None:
        async with Logins(file) as logins:
            assert await admits(logins, ALICE, "a")
            assert await admits(logins, BOB, "a")
            carol = Login("carol", "open sesame")
            assert not await admits(logins, carol, "a")
            other = bcrypt.hashpw(b"changed", bcrypt.gensalt(4)).decode()
            file.write_text(f"alice:{other}\ncarol:{WHOLE}\n")
            assert await admits(logins, ALICE, "a"), "nothing changes before the reload"
            logins.reload()
            assert not await admits(logins, ALICE, "a")
            assert not await admits(logins, BOB, "a")
            assert await admits(logins, carol, "a")
            assert await admits(logins, Login("alice", "changed"), "a")

    loop.run(work())


def test_invalid_file_keeps_the_previous_users(loop: Loop, file: Path) -> None:
    """Users whose login was not cached yet are kept too."""

    async def work() -> None:
        async with Logins(file) as logins:
            assert await admits(logins, ALICE, "a")
            for text in ("", "alice:secret", f"alice:{WHOLE}\nalice:{WHOLE}"):
                file.write_text(text)
                with pytest.raises(ConfigurationInvalid):
                    logins.reload()
            file.unlink()
            with pytest.raises(ConfigurationInvalid):
                logins.reload()
            assert await admits(logins, ALICE, "a")
            assert await admits(logins, BOB, "a")

    loop.run(work())


def test_check_in_progress_at_a_reload_is_repeated(loop: Loop, file: Path) -> None:
    """The login was right when the check started; the user is removed before it ends."""

    async def work() -> None:
        async with Logins(file) as logins:
            asking = asyncio.create_task(admits(logins, BOB, "a"))
            await asyncio.sleep(0)
            file.write_text(f"alice:{WHOLE}\n")
            logins.reload()
            joining = asyncio.create_task(admits(logins, BOB, "a"))
            assert not any(await asyncio.gather(asking, joining))

    loop.run(work())


def test_password_checked_against_a_replaced_hash_is_checked_again(loop: Loop, file: Path) -> None:
    """The right password becomes wrong and the wrong one right while both are being checked."""

    async def work() -> None:
        async with Logins(file) as logins:
            before = [asyncio.create_task(admits(logins, Login("bob", word), "a")) for word in ("open sesame", "new")]
            await asyncio.sleep(0)
            file.write_text(f"bob:{bcrypt.hashpw(b'new', bcrypt.gensalt(4)).decode()}\n")
            logins.reload()
            assert await asyncio.gather(*before) == [False, True]

    loop.run(work())


def test_cancelled_caller_does_not_cancel_a_shared_check(loop: Loop, file: Path) -> None:
    """A check without callers completes too, and frees its place in the queue."""

    async def work() -> None:
        async with Logins(file) as logins:
            leaving, staying = (asyncio.create_task(admits(logins, BOB, "a")) for _ in range(2))
            await asyncio.sleep(0)
            leaving.cancel()
            assert await staying
            for number in range(100):
                alone = asyncio.create_task(admits(logins, Login("alice", f"guess {number}"), "a"))
                await asyncio.sleep(0)
                alone.cancel()
                await asyncio.gather(alone, return_exceptions=True)
                await asyncio.sleep(1)
            assert await admits(logins, ALICE, "a")

    loop.run(work())


def test_one_address_gets_half_of_the_free_places(loop: Loop, file: Path) -> None:
    """The number of its logins does not matter. All places are free again afterwards."""

    async def guesses(logins: Logins, address: str, count: int) -> int:
        """Return the number of logins that were checked."""
        guesses = (admits(logins, Login(address, f"guess {number}"), address) for number in range(count))
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        assert all(answer is False or isinstance(answer, TooManyLogins) for answer in answers)
        return answers.count(False)

    async def work() -> None:
        async with Logins(file) as logins:
            for _ in range(2):
                flood = asyncio.create_task(guesses(logins, "one", 500))
                await asyncio.sleep(0)
                other = asyncio.create_task(guesses(logins, "other", 500))
                await asyncio.sleep(0)
                assert await admits(logins, ALICE, "third")
                assert (await flood, await other) == (16, 8)
                logins.reload()

    loop.run(work())


def test_shutdown_cancels_waiting_checks(loop: Loop, file: Path) -> None:
    """It does not wait for them."""

    async def work() -> None:
        async with Logins(file) as logins:
            waiting = [asyncio.create_task(admits(logins, Login("bob", f"guess {n}"), "a")) for n in range(10)]
            await asyncio.sleep(0)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)

    loop.run(work())


def test_cache_holds_no_password(loop: Loop, file: Path) -> None:
    """The cache holds keyed hashes: even a leaked cache is no basis for guessing passwords."""

    async def work() -> None:
        async with Logins(file) as logins:
            await admits(logins, ALICE, "a")
            await admits(logins, Login("alice", "a wrong one"), "a")
            shown = repr({**vars(logins), **vars(logins._right), **vars(logins._wrong)})
            assert "sesame" not in shown
            assert "a wrong one" not in shown

    loop.run(work())
