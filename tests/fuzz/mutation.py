"""Mutate valid bytes, so that they become invalid or nearly valid."""

import random
from collections.abc import Sequence

FRAGMENTS = (
    *(b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\x0b", b"\x7f", b"\x80", b"\xff", b"\xc3\x28"),
    *(b":", b";", b",", b"=", b'"', b"'", b"<", b">", b"/", b"\\", b"%", b"?", b"#", b"@", b"..", b"//", b"/../"),
    *(b"%00", b"%0d%0a", b"%2e%2e", b"%2F", b"%3A", b"\r\n ", b"\r\n\tx", b"\r\nX-Injected: yes\r\n"),
    *(b"0", b"-1", b"+1", b"0x10", b"1e3", b"99999999999999999999", b"4294967296", b"18446744073709551616"),
    *(b"chunked", b"identity", b"gzip", b"bytes=", b"bytes ", b"HTTP/1.1 200 OK\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"),
    *(
        b"sha256:",
        b"{",
        b"}",
        b"[]",
        b"null",
        b"\xef\xbb\xbf",
        b"\xf0\x9f\x92\xa3",
        b"A" * 9000,
        b"<" * 3000,
        b"," * 3000,
    ),
)


def mutated(rng: random.Random, text: bytes, fragments: Sequence[bytes] = FRAGMENTS) -> bytes:
    """Return *text* with one to four random changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        text = _changed(rng, text, fragments)
    return text


def _changed(rng: random.Random, text: bytes, fragments: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice((0, 0, 1, 1, 2, 5, 20)))
    match rng.randrange(6):
        case 0:
            return text[:start] + rng.choice(fragments) + text[start:]
        case 1:
            return text[:start] + rng.choice(fragments) + text[end:]
        case 2:
            return text[:start] + text[end:]
        case 3:
            return text[:end] + text[start:end] * rng.choice((1, 2, 50)) + text[end:]
        case 4 if start < len(text):
            return text[:start] + bytes([text[start] ^ 1 << rng.randrange(8)]) + text[start + 1 :]
        case _:
            lines = text.split(b"\r\n")
            at = rng.randrange(len(lines))
            lines.insert(rng.randrange(len(lines) + 1), lines[at] if rng.random() < 0.5 else lines.pop(at))
            return b"\r\n".join(lines)
