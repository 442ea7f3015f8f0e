"""Link headers that lead to the next page (RFC 8288; distribution-spec 1.1, "Listing tags")."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

_LINK = re.compile(r"""<([^>]*)>((?:[^,"<]|"[^"]*")*)""")
_IS_NEXT = re.compile(r"""(?:^|;)\s*rel\s*=\s*(?:next\b|"(?:[^"]*\s)?next[\s"])""", re.IGNORECASE)


def next_page(link: str | None) -> tuple[tuple[str, str], ...] | None:
    """The query of the page after this one, of upstream's Link header; None where this is the last."""
    target = next((found[1] for found in _LINK.finditer(link or "") if _IS_NEXT.search(found[2])), None)
    if target is None or not target.isprintable():  # bytes that are no text would break the link that is made of it
        return None
    try:
        query = urlsplit(target).query
        return tuple(pair for pair in parse_qsl(query, keep_blank_values=True, max_num_fields=32) if pair[0] != "ns")
    except ValueError:
        return None


def link_to(path: str, query: tuple[tuple[str, str], ...], ns: str | None) -> str:
    """The Link header for the page of the mirror at *path*; relative, so that it holds behind any front."""
    pairs = query if ns is None else (*query, ("ns", ns))
    return f'<{path}?{urlencode(pairs)}>; rel="next"'
