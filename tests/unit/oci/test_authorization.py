"""Authorization headers: a header parses to a complete login, a complete token or None."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.authorization import Login, Token, parse_authorization

PRINTABLE = st.text(st.characters(codec="utf-8").filter(str.isprintable))


def basic(text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    return f"Basic {b64encode(content).decode()}"


@given(st.sampled_from(["Basic", "basic", "BASIC"]), PRINTABLE.filter(lambda name: name and ":" not in name), PRINTABLE)
def test_basic_header_parses_to_a_login(scheme: str, username: str, password: str) -> None:
    """RFC 7617, 2: the first colon ends the name; the password may contain colons, or be empty."""
    header = scheme + basic(f"{username}:{password}").removeprefix("Basic")
    assert parse_authorization(header) == Login(username, password)


@given(st.from_regex(r"[A-Za-z0-9._~+/=-]+", fullmatch=True))
def test_bearer_header_parses_to_a_token(text: str) -> None:
    """RFC 6750, 2.1."""
    assert parse_authorization(f"Bearer {text}") == Token(text)


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Basic", "Basic ", "Bearer", "Bearer  ", "Bearer a b", "Bearer \u00e9", "Negotiate abc"),
        *("Basic a:b", "Basic YTpi!", basic("nocolon"), basic(":"), basic(":password"), basic(b"\xff:x")),
        *(basic("a\r\nb:c"), basic("a:b\x00")),
    ],
)
def test_unusable_header_parses_to_none(header: str | None) -> None:
    """podman's empty login is unusable; so are control characters, which could break a line of a header or the log."""
    assert parse_authorization(header) is None


@given(st.text(max_size=200))
def test_any_header_parses_without_an_error(header: str) -> None:
    """The header is untrusted input."""
    parse_authorization(header)


def test_repr_shows_no_secret() -> None:
    """A logged value must not leak passwords and tokens."""
    assert "hidden" not in repr(Login("me", "hidden")) + repr(Token("hidden"))
