"""Link headers for pagination (RFC 8288; distribution-spec 1.1, "Listing tags")."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

_LINK = re.compile(r"""<([^>]*)>((?:[^,"<]|"[^"]*")*)""")
_IS_NEXT = re.compile(r"""(?:^|;)\s*rel\s*=\s*(?:next\b|"(?:[^"]*\s)?next[\s"])""", re.IGNORECASE)


def next_page(link: str | None) -> tuple[tuple[str, str], ...] | None:
    """Return the query of the next page from an upstream's Link header; None if this is the last page."""
    target = next((found[1] for found in _LINK.finditer(link or "") if _IS_NEXT.search(found[2])), None)
    if target is None or not target.isprintable():  # bytes that are not UTF-8 would break the mirror's own Link header
        return None
    try:
        query = urlsplit(target).query
        return tuple(pair for pair in parse_qsl(query, keep_blank_values=True, max_num_fields=32) if pair[0] != "ns")
    except ValueError:
        return None


def link_to(path: str, query: tuple[tuple[str, str], ...], ns: str | None) -> str:
    """Return the Link header for the mirror's page at *path*. It is relative, and so valid behind any proxy."""
    pairs = query if ns is None else (*query, ("ns", ns))
    return f'<{path}?{urlencode(pairs)}>; rel="next"'
