"""Rows of blobs, parsed in bulk: a start parses up to a million of them, and one call for each takes two seconds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import orjson

from mirror.storage.facts import moment_of

_KEYS = {76: b"blob sha256:", 140: b"blob sha512:"}  # the prefix of a key, by its length in bytes
_HEX = b"0123456789abcdef"
_MAX_VALUE = 4096  # bytes
NamedBlob = tuple[str, int, float]
"""The hex digits of a blob's digest, its size, and its last use in seconds since the epoch."""


def parse_blobs(rows: Sequence[tuple[bytes, bytes | None]]) -> list[NamedBlob | None]:
    """Return the blobs of many rows, each a key and a JSON text; None for each row that is invalid."""
    values = parse_values([text for _, text in rows])
    return [_blob(key, value) for (key, _), value in zip(rows, values, strict=True)]


def _blob(key: bytes, value: object) -> NamedBlob | None:
    name = key[12:]
    # Hex digits only: a start builds a digest from each name.
    if isinstance(value, dict) and key[:12] == _KEYS.get(len(key)) and not name.translate(None, _HEX):
        size, used = value.get("size"), moment_of(value.get("used"))
        if used is not None and type(size) is int and 0 <= size < 2**63:
            return name.decode("ascii"), size, used
    return None


def parse_values(texts: Sequence[bytes | None]) -> list[object]:
    """Return the value of each JSON text; None for each that is not JSON, or too long."""
    # An object without another one inside begins at its only "{" and ends with "}". If the array of such texts has as
    # many values as there are texts, each text is one value: none can begin a second object, and a string that
    # continues in the next text makes one value of two.
    if all(map(_is_flat_object, texts)):
        with suppress(ValueError):
            values: list[object] = orjson.loads(b"[%b]" % b",".join(texts))  # type: ignore[arg-type]  # none is None
            if len(values) == len(texts):
                return values
    return list(map(_value, texts))


def _is_flat_object(text: bytes | None) -> bool:
    return text is not None and not text.rfind(b"{") and text[-1:] == b"}" and len(text) <= _MAX_VALUE


def _value(text: bytes | None) -> object:
    try:
        return None if text is None or len(text) > _MAX_VALUE else orjson.loads(text)
    except ValueError:
        return None
