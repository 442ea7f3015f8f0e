"""Authorization: what a client shows of itself (RFC 9110, 11.6.2; RFC 7617; RFC 6750)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password (Basic)."""

    username: str
    password: str = field(repr=False)

    def header(self) -> str:
        """As an Authorization header."""
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Token:
    """What a token service gave (Bearer)."""

    text: str = field(repr=False)

    def header(self) -> str:
        """As an Authorization header."""
        return f"Bearer {self.text}"


Authorization = Login | Token


def parse_authorization(header: str | None) -> Authorization | None:
    """What an Authorization header shows; None where it shows nothing that a registry could know.

    None too for Basic without a name, which is what podman sends when it has no login.
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
    # Control characters are in no name or password (RFC 7617, 2), and must not get into a header or a log from here.
    is_plain = (username + password).isprintable()
    return Login(username, password) if colon and username and is_plain else None
