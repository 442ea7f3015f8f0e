"""Users: who they are (htpasswd), and whether a login is one of theirs.

Only bcrypt is known here: the other hashes of htpasswd files are tried by the billion a second. A check takes 50 to
500 ms of a core, so it is done beside the loop, once for each login, and a flood of wrong ones has one thread to fill.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import bcrypt

from mirror.auth.rules import ANONYMOUS, Caller, is_user
from mirror.errors import ConfigurationInvalid, TooManyLogins
from mirror.oci.authorization import Login
from mirror.primitives.lru import LruCache
from mirror.primitives.singleflight import SingleFlight

# The last letter of a salt holds two bits. A cost above 14 would keep a core busy for seconds with each login.
_HASH = re.compile(r"\$2[aby]\$(?:0[4-9]|1[0-4])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_BCRYPT = re.compile(r"\$2[abxy]?\$")
_LONGEST_PASSWORD = 72  # bytes; of longer ones bcrypt would read the beginning only
_REMEMBERED = 8192  # logins that were right
_REFUSED = 2048  # logins that were wrong: clients say the same again and again
_MOST_WAITING = 32  # logins to be checked; a few seconds' work
_NICE = 10  # the loop comes first where cores are scarce
_RETRY = 2  # seconds


@dataclass(frozen=True, slots=True)
class Users:
    """Names, each with the bcrypt hash of its password."""

    hashes: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, file: Path) -> Users:
        """The users in an htpasswd file.

        Raises:
            ConfigurationInvalid: it can't be read, or a line is not what it should be.
        """
        try:
            text = file.read_bytes().decode()
        except OSError as error:
            raise ConfigurationInvalid(f"users_file {file} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ConfigurationInvalid(f"users_file {file}, line {line}: not UTF-8") from error
        return cls(parse_htpasswd(text, file=str(file)))

    def decoy(self, seed: bytes) -> bytes:
        """The hash to check a name against that nobody has: some user's, always the same for the same seed.

        The answer is no, whatever the check says; but the time it takes is that of any other name.
        """
        return list(self.hashes.values())[int.from_bytes(seed[:8]) % len(self.hashes)]


def parse_htpasswd(text: str, *, file: str) -> dict[str, bytes]:
    """The hash of each user in *text*: lines of `name:hash`; empty ones, and those that begin with `#`, say nothing.

    Raises:
        ConfigurationInvalid: the message names *file* and line, and never a hash.
    """
    hashes: dict[str, bytes] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.rstrip("\r\t ")
        if not entry or entry.startswith("#"):
            continue
        user, colon, hashed = entry.partition(":")
        fault = _fault(user, hashed) if colon else "write name:hash"
        if user in hashes:
            fault = f"the name stands in line {lines[user]} already"
        if fault is not None:
            raise ConfigurationInvalid(f"users_file {file}, line {number}: {fault}")
        hashes[user], lines[user] = hashed.encode(), number
    if not hashes:
        raise ConfigurationInvalid(f"users_file {file} has no user: add one with htpasswd -B {file} NAME")
    return hashes


def _fault(user: str, hashed: str) -> str | None:
    if user == ANONYMOUS:
        return f"the name {ANONYMOUS!r} stands for whoever has none; take another"
    if not is_user(user):
        return "a name is 1 to 255 characters that can be printed, without a blank at its ends"
    if _HASH.fullmatch(hashed):
        return None
    if _BCRYPT.match(hashed):
        return (
            "the hash is none of $2a$, $2b$, $2y$ with a cost of 4 to 14, or not whole; make it anew with htpasswd -B"
        )
    return "the hash is not bcrypt; make it anew with htpasswd -B"


class Logins:
    """Says whether a login is a user's. What was checked is remembered until the users are read anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._key = secrets.token_bytes(32)  # memory holds keyed hashes of logins, and no passwords
        self._checks = SingleFlight[bytes, bool]()
        self._waiting = Counter[str]()  # by address
        self._threads = ThreadPoolExecutor(1, "logins", initializer=_step_back)
        self._users: Users
        self._right: LruCache[bytes, Caller]
        self._wrong: LruCache[bytes, bool]
        self.reload()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._checks.__aexit__(kind, error, trace)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def reload(self) -> None:
        """Reads the users anew; every login is checked again.

        Raises:
            ConfigurationInvalid: the file is not what it should be; the users stay as they were.
        """
        self._users = Users.read(self._file)
        self._right = LruCache(_REMEMBERED)
        self._wrong = LruCache(_REFUSED)

    def known(self, header: str) -> Caller | None:
        """Who sends this Authorization header, if it was right before. Nearly every request of a user ends here."""
        return self._right.get(self._hashed(header))

    async def admitted(self, header: str, login: Login, address: str) -> Caller | None:
        """The user whose *login* it is, as *header* shows it; None where it is nobody's.

        A name that nobody has takes as long as others.

        Args:
            address: where it comes from; nobody there can keep all others waiting.

        Raises:
            TooManyLogins: too many logins wait to be checked.
        """
        key, password = self._hashed(header), login.password.encode()
        if self._wrong.get(key) or len(password) > _LONGEST_PASSWORD:
            return None
        users = self._users
        own = users.hashes.get(login.username)
        stored = users.decoy(self._hashed(login.username)) if own is None else own
        right, _ = await self._checks.ask(key + stored, partial(self._check, password, stored, address))
        if users is not self._users:
            return await self.admitted(header, login, address)  # they were read anew meanwhile
        if not right or own is None:
            self._wrong.set(key, True)
            return None
        caller = Caller(login.username)
        self._right.set(key, caller)
        return caller

    def _hashed(self, text: str) -> bytes:
        # A header may hold bytes that are no text (PEP 383).
        return hashlib.blake2b(text.encode(errors="surrogateescape"), key=self._key, digest_size=32).digest()

    async def _check(self, password: bytes, stored: bytes, address: str) -> bool:
        """Takes its turn. An address may have as many places as are left for others: a flood leaves half of them.

        Raises:
            TooManyLogins
        """
        if self._waiting[address] >= _MOST_WAITING - self._waiting.total():
            raise TooManyLogins(
                "more logins wait to be checked than the mirror takes on at once; ask again in a moment",
                retry_after=_RETRY,
            )
        self._waiting[address] += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, _is_password, password, stored)
        finally:
            self._waiting[address] -= 1
            self._waiting += Counter()  # without those that have none


def _is_password(password: bytes, stored: bytes) -> bool:
    """Compares in constant time; a password that bcrypt doesn't take is wrong."""
    try:
        return bcrypt.checkpw(password, stored)
    except ValueError:
        return False


def _step_back() -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
