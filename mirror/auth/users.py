"""Users of the mirror (htpasswd) and the check of their passwords.

Only bcrypt is accepted: the other hashes of htpasswd files can be guessed at billions a second. A check takes 50 to
500 ms of a core. It runs in a thread outside the event loop, once for each login, and a flood of wrong logins occupies
only that thread.
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

# The last letter of a salt holds two bits. A cost above 14 would occupy a core for seconds with each login.
_HASH = re.compile(r"\$2[aby]\$(?:0[4-9]|1[0-4])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_BCRYPT = re.compile(r"\$2[abxy]?\$")
_MAX_PASSWORD_BYTES = 72  # of a longer password, bcrypt would read only the beginning
_MAX_RIGHT = 8192  # cached logins that were right
_MAX_WRONG = 2048  # cached logins that were wrong: clients repeat them
_MAX_WAITING = 32  # logins that wait for a check: a few seconds of work
_NICE = 10  # so that the event loop has priority on a busy machine
_RETRY_AFTER = 2  # seconds


@dataclass(frozen=True, slots=True)
class Users:
    """User names, each with the bcrypt hash of its password."""

    hashes: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, file: Path) -> Users:
        """Read an htpasswd file.

        Raises:
            ConfigurationInvalid: if the file can't be read, or a line is invalid.
        """
        try:
            text = file.read_bytes().decode()
        except OSError as error:
            raise ConfigurationInvalid(f"users_file {file} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ConfigurationInvalid(f"users_file {file}, line {line}: not UTF-8; convert the file") from error
        return cls(parse_htpasswd(text, file=str(file)))

    def decoy(self, seed: bytes) -> bytes:
        """Return the hash against which the password of an unknown user is checked; equal seeds give equal hashes.

        Its login always fails, but the check takes as long as for a known user.
        """
        return list(self.hashes.values())[int.from_bytes(seed[:8]) % len(self.hashes)]


def parse_htpasswd(text: str, *, file: str) -> dict[str, bytes]:
    """Return the hash of each user: lines of `name:hash`. Empty lines and lines that begin with `#` are ignored.

    Raises:
        ConfigurationInvalid: if a line is invalid. The message names *file* and the line, never a hash.
    """
    hashes: dict[str, bytes] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.rstrip("\r\t ")
        if not entry or entry.startswith("#"):
            continue
        user, colon, hashed = entry.partition(":")
        fault = _entry_fault(user, hashed) if colon else "write name:hash"
        if user in hashes:
            fault = f"line {lines[user]} has the same name"
        if fault is not None:
            raise ConfigurationInvalid(f"users_file {file}, line {number}: {fault}")
        hashes[user], lines[user] = hashed.encode(), number
    if not hashes:
        raise ConfigurationInvalid(f"users_file {file} has no user: add one with htpasswd -B {file} NAME")
    return hashes


def _entry_fault(user: str, hashed: str) -> str | None:
    if user == ANONYMOUS:
        return f"the name {ANONYMOUS!r} is reserved for clients without a login; choose another name"
    if not is_user(user):
        return "a name has 1 to 255 printable characters and no blank at its ends"
    if _HASH.fullmatch(hashed):
        return None
    if _BCRYPT.match(hashed):
        return (
            "the hash must begin with $2a$, $2b$ or $2y$, be complete and have a cost of 4 to 14; "
            "create it again with htpasswd -B"
        )
    return "the hash is not bcrypt; create it again with htpasswd -B"


class Logins:
    """Authenticates logins against the users file. Results are cached until the file is read again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._key = secrets.token_bytes(32)  # the caches hold keyed hashes of logins, no passwords
        self._checks = SingleFlight[bytes, bool]()
        self._waiting = Counter[str]()  # by address
        self._threads = ThreadPoolExecutor(1, "logins", initializer=_lower_priority)
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
        """Read the users file again, and drop all cached results.

        Raises:
            ConfigurationInvalid: if the file is invalid. The previous users stay in force.
        """
        self._users = Users.read(self._file)
        self._right = LruCache(_MAX_RIGHT)
        self._wrong = LruCache(_MAX_WRONG)

    def cached(self, header: str) -> Caller | None:
        """Return the caller of an Authorization header that was right before: the path of nearly every request."""
        return self._right.get(self._hashed(header))

    async def authenticate(self, header: str, login: Login, address: str) -> Caller | None:
        """Return the caller of *login*, or None if the name or the password is wrong.

        An unknown name takes as long as a known one.

        Args:
            header: the Authorization header that carried *login*; the key of the cache.
            address: of the client. One address can't occupy all places in the queue of checks.

        Raises:
            TooManyLogins: if too many logins wait for a check.
        """
        key, password = self._hashed(header), login.password.encode()
        if self._wrong.get(key) or len(password) > _MAX_PASSWORD_BYTES:
            return None
        users = self._users
        own = users.hashes.get(login.username)
        stored = users.decoy(self._hashed(login.username)) if own is None else own
        right, _ = await self._checks.do(key + stored, partial(self._verify, password, stored, address))
        if users is not self._users:
            return await self.authenticate(header, login, address)  # the file was read again during the check
        if not right or own is None:
            self._wrong.set(key, True)
            return None
        caller = Caller(login.username)
        self._right.set(key, caller)
        return caller

    def _hashed(self, text: str) -> bytes:
        # A header may hold bytes that are not UTF-8 (PEP 383).
        return hashlib.blake2b(text.encode(errors="surrogateescape"), key=self._key, digest_size=32).digest()

    async def _verify(self, password: bytes, stored: bytes, address: str) -> bool:
        """Queue for the checking thread, and return whether the password is right.

        An address may add a login while it has fewer waiting logins than there are free places, hence at most half of
        the queue.

        Raises:
            TooManyLogins: if *address* has no further place.
        """
        if self._waiting[address] >= _MAX_WAITING - self._waiting.total():
            raise TooManyLogins(
                f"too many logins wait to be checked; try again in {_RETRY_AFTER} s",
                retry_after=_RETRY_AFTER,
            )
        self._waiting[address] += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, _is_password, password, stored)
        finally:
            self._waiting[address] -= 1
            self._waiting += Counter()  # drops addresses whose count is 0


def _is_password(password: bytes, stored: bytes) -> bool:
    """Compare in constant time. A password that bcrypt rejects is wrong."""
    try:
        return bcrypt.checkpw(password, stored)
    except ValueError:
        return False


def _lower_priority() -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
