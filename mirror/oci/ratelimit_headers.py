"""Pull limits as registries tell them: `ratelimit-limit: 100;w=21600`, `ratelimit-remaining: 76;w=21600`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ITEM = re.compile(r"\s*([0-9]{1,9})\s*((?:;[^,;]*)*)(?:,.*)?", re.DOTALL)
_WINDOW = re.compile(r";\s*w\s*=\s*([0-9]{1,9})\s*(?=;|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RateLimitHeader:
    """So many pulls, in so many seconds (None where that is not told)."""

    pulls: int
    window: int | None

    @classmethod
    def parse(cls, header: str | None) -> RateLimitHeader | None:
        """What such a header says; None for nothing. Of several limits the first is the one that is reached next
        (draft-ietf-httpapi-ratelimit-headers, to its version 6).
        """
        found = None if header is None else _ITEM.fullmatch(header)
        if found is None:
            return None
        window = _WINDOW.search(found[2])
        return cls(int(found[1]), None if window is None else int(window[1]))
