"""Authorization headers: what parsed is a login or a token, whole; everything else is nobody."""

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
def test_basic_is_a_name_and_a_password(scheme: str, username: str, password: str) -> None:
    """RFC 7617, 2: the first colon ends the name; the password may hold more of them, or nothing."""
    header = scheme + basic(f"{username}:{password}").removeprefix("Basic")
    assert parse_authorization(header) == Login(username, password)


@given(st.from_regex(r"[A-Za-z0-9._~+/=-]+", fullmatch=True))
def test_bearer_is_a_token(text: str) -> None:
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
def test_what_shows_nobody_is_nobody(header: str | None) -> None:
    """Also podman's empty login, and whatever could break a line further on."""
    assert parse_authorization(header) is None


@given(st.text(max_size=200))
def test_any_text_is_somebody_or_nobody(header: str) -> None:
    """Never an error."""
    parse_authorization(header)


def test_nothing_secret_is_shown() -> None:
    """Not even to whoever logs the value."""
    assert "hidden" not in repr(Login("me", "hidden")) + repr(Token("hidden"))
