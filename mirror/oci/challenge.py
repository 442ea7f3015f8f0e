"""Parser of challenges in WWW-Authenticate headers (RFC 9110, 11.6.1; RFC 6750; distribution's token spec)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - a token of the HTTP grammar
_SCHEME = re.compile(rf"\s*({_TOKEN})(?=\s|,|$)")
_PARAMETER = re.compile(rf"""\s*,*\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))""")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Basic:
    """The server wants a login with each request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The server wants a token from the token service at *realm*. Service and scope are None if absent."""

    realm: str
    service: str | None
    scope: str | None


Challenge = Basic | Bearer


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the Basic and Bearer challenges in these header values, in order.

    Registries deviate from the grammar, so unquoted parameters, several challenges on one line and a missing service
    are accepted. A challenge with unprintable parameters is skipped: parameters go into requests and messages.
    """
    found: list[Challenge] = []
    for header in headers:
        for scheme, parameters in _split(header):
            if scheme == "basic":
                found.append(Basic())
            elif scheme == "bearer" and parameters.get("realm") and "".join(parameters.values()).isprintable():
                found.append(
                    Bearer(parameters["realm"], parameters.get("service") or None, parameters.get("scope") or None)
                )
    return tuple(found)


def _split(header: str) -> Iterable[tuple[str, dict[str, str]]]:
    position = 0
    while position < len(header):
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            comma = header.find(",", position)
            if comma < 0:
                return
            position = comma + 1
            continue
        position = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(header, position)) is not None:
            quoted, plain = parameter[2], parameter[3]
            parameters[parameter[1].lower()] = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            position = parameter.end()
        yield scheme[1].lower(), parameters
