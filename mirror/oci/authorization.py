"""Authorization headers: logins (Basic, RFC 7617) and tokens (Bearer, RFC 6750); RFC 9110, 11.6.2."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password (Basic)."""

    username: str
    password: str = field(repr=False)

    def header(self) -> str:
        """Return the value of the Authorization header."""
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Token:
    """A token issued by a token service (Bearer)."""

    text: str = field(repr=False)

    def header(self) -> str:
        """Return the value of the Authorization header."""
        return f"Bearer {self.text}"


Authorization = Login | Token


def parse_authorization(header: str | None) -> Authorization | None:
    """Return the login or token in an Authorization header; None if it is absent, malformed or of another scheme.

    Also None for Basic without a user name, which podman sends when it has no login.
    """
    scheme, _, rest = (header or "").strip().partition(" ")
    text = rest.strip()
    match scheme.lower():
        case "bearer" if text.isascii() and text.isprintable():
            return Token(text) if text and " " not in text else None
        case "basic":
            return _login(text)
    return None


def _login(text: str) -> Login | None:
    try:
        username, colon, password = b64decode(text, validate=True).decode().partition(":")
    except ValueError:  # also UnicodeDecodeError, binascii.Error
        return None
    # RFC 7617, 2, forbids control characters. They must not reach a header or the log.
    is_plain = (username + password).isprintable()
    return Login(username, password) if colon and username and is_plain else None
