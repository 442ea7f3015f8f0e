"""Pull quota headers: `ratelimit-limit: 100;w=21600`, `ratelimit-remaining: 76;w=21600`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ITEM = re.compile(r"\s*([0-9]{1,9})\s*((?:;[^,;]*)*)(?:,.*)?", re.DOTALL)
_WINDOW = re.compile(r";\s*w\s*=\s*([0-9]{1,9})\s*(?=;|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RateLimitHeader:
    """A number of pulls in a window of seconds (None if the header has no window)."""

    pulls: int
    window: int | None

    @classmethod
    def parse(cls, header: str | None) -> RateLimitHeader | None:
        """Parse a ratelimit header. Return None if it is missing or malformed.

        Of several limits the first counts: it is the next to be reached (draft-ietf-httpapi-ratelimit-headers, up to
        version 6).
        """
        found = None if header is None else _ITEM.fullmatch(header)
        if found is None:
            return None
        window = _WINDOW.search(found[2])
        return cls(int(found[1]), None if window is None else int(window[1]))
