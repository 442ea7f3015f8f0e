"""config.json, as `docker login` and `podman login` write it: logins, and the programs that keep them."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass

from mirror.oci.authorization import Login, Token
from mirror.oci.names import canonical_upstream
from mirror.upstream.credentials.source import Credentials, IdentityToken, is_text

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a program's name: no path leads out of PATH
_SECRETS = ("registrytoken", "identitytoken", "auth", "username", "password")
_API = re.compile(r"/?|/v[12]/?")  # what may follow the host, and tells nothing more


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """What it says of credentials. Hosts are spelled in one way here, docker.io and its port among them."""

    logins: Mapping[str, Credentials]
    helpers: Mapping[str, str | None]  # None: not even the one for all
    helper_for_all: str | None

    @classmethod
    def parse(cls, content: bytes) -> DockerConfig:
        """Raises:
        ValueError: it is not one; nothing secret is in the message.
        """
        try:
            found = _members(json.loads(content), "it")
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError("it is not JSON") from None
        own = _members(found.get("credHelpers"), "credHelpers")
        helpers = {host_of(key): _helper(name, f"credHelpers.{key}") for key, name in own.items()}
        logins: dict[str, Credentials] = {}
        # Entries for a part of a host (podman's quay.io/team) count for all of it where it has none of its own.
        auths = _members(found.get("auths"), "auths")
        for key in sorted(auths, key=lambda key: _API.fullmatch(_path(key)) is None):
            login = _login(_members(auths[key], f"auths.{key}"), f"auths.{key}")
            if login is not None:
                logins.setdefault(host_of(key), login)
        return cls(logins, helpers, _helper(found.get("credsStore"), "credsStore"))

    def helper(self, host: str) -> str | None:
        """What follows docker-credential- in the name of the program to ask; None for none."""
        return self.helpers.get(host, self.helper_for_all)


def host_of(key: str) -> str:
    """The host (and port) that a key or a server address means: with or without a scheme, and with any path."""
    return canonical_upstream(key.rpartition("://")[2].partition("/")[0])


def _path(key: str) -> str:
    return "".join(key.rpartition("://")[2].partition("/")[1:])


def _members(value: object, key: str) -> dict[str, object]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise ValueError(f"{key} is not a JSON object")


def _helper(name: object, key: str) -> str | None:
    if name is None or name == "":
        return None
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise ValueError(f"{key} has to be what follows docker-credential- in a program's name")
    return name


def _login(entry: Mapping[str, object], key: str) -> Credentials | None:
    """None for an entry that only says where the user has logged in; the secret is then in a helper."""
    texts = {name: _text(entry.get(name), f"{key}.{name}") for name in _SECRETS}
    if texts["registrytoken"]:
        if not re.fullmatch(r"[!-~]+", texts["registrytoken"]):
            raise ValueError(f"{key}.registrytoken is no token")
        return Token(texts["registrytoken"])
    if texts["identitytoken"]:
        return IdentityToken(texts["identitytoken"])
    if texts["auth"]:
        return _decoded(texts["auth"], f"{key}.auth")
    return Login(texts["username"], texts["password"]) if texts["username"] and texts["password"] else None


def _text(value: object, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not is_text(value):
        raise ValueError(f"{key} is no text")
    return value


def _decoded(auth: str, key: str) -> Login:
    try:
        username, colon, password = b64decode(auth, validate=True).decode().partition(":")
    except ValueError:  # also UnicodeDecodeError, binascii.Error
        raise ValueError(f"{key} is not base64 of USERNAME:PASSWORD") from None
    password = password.rstrip("\0")  # old clients padded it
    if not colon or not username or not is_text(username + password):
        raise ValueError(f"{key} is not base64 of USERNAME:PASSWORD")
    return Login(username, password)
