"""Parser for docker's config.json, as written by `docker login` and `podman login`: logins and credential helpers."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass

from mirror.oci.authorization import Login, Token
from mirror.oci.names import canonical_upstream
from mirror.upstream.credentials.source import Credentials, IdentityToken, is_text

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # no slash: the program must be on the PATH
_SECRETS = ("registrytoken", "identitytoken", "auth", "username", "password")
_API = re.compile(r"/?|/v[12]/?")  # paths that mean the whole host


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """Credentials in a config.json. Hosts are normalized: all names of Docker Hub become docker.io.

    Attributes:
        logins: the stored login of each host.
        helpers: the credential helper of each host (credHelpers); None disables *helper_for_all* for that host.
        helper_for_all: the helper of all other hosts (credsStore).
    """

    logins: Mapping[str, Credentials]
    helpers: Mapping[str, str | None]
    helper_for_all: str | None

    @classmethod
    def parse(cls, content: bytes) -> DockerConfig:
        """Parse the bytes of a config.json.

        Raises:
            ValueError: if it is invalid. The message contains no secret.
        """
        try:
            found = _members(json.loads(content), "it")
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError("it is not JSON") from None
        own = _members(found.get("credHelpers"), "credHelpers")
        helpers = {host_of(key): _helper(name, f"credHelpers.{key}") for key, name in own.items()}
        logins: dict[str, Credentials] = {}
        # An entry for a part of a host (podman's quay.io/team) applies to the whole host if that has no own entry.
        auths = _members(found.get("auths"), "auths")
        for key in sorted(auths, key=lambda key: _API.fullmatch(_path(key)) is None):
            login = _login(_members(auths[key], f"auths.{key}"), f"auths.{key}")
            if login is not None:
                logins.setdefault(host_of(key), login)
        return cls(logins, helpers, _helper(found.get("credsStore"), "credsStore"))

    def helper(self, host: str) -> str | None:
        """Return the suffix of the helper program for *host* (after `docker-credential-`), or None."""
        return self.helpers.get(host, self.helper_for_all)


def host_of(key: str) -> str:
    """Return the host and port of *key*, a server address with or without scheme and path."""
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
        raise ValueError(f"{key} must be the part of a program's name after docker-credential-")
    return name


def _login(entry: Mapping[str, object], key: str) -> Credentials | None:
    """Parse an entry of `auths`. Return None if it has no secret: the secret is then in a credential helper."""
    texts = {name: _text(entry.get(name), f"{key}.{name}") for name in _SECRETS}
    if texts["registrytoken"]:
        if not re.fullmatch(r"[!-~]+", texts["registrytoken"]):
            raise ValueError(f"{key}.registrytoken is not a valid token")
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
        raise ValueError(f"{key} must be a string, and may not contain control characters")
    return value


def _decoded(auth: str, key: str) -> Login:
    try:
        username, colon, password = b64decode(auth, validate=True).decode().partition(":")
    except ValueError:  # also UnicodeDecodeError, binascii.Error
        raise ValueError(f"{key} is not base64 of USERNAME:PASSWORD") from None
    password = password.rstrip("\0")  # old clients pad it with NUL
    if not colon or not username or not is_text(username + password):
        raise ValueError(f"{key} is not base64 of USERNAME:PASSWORD")
    return Login(username, password)
