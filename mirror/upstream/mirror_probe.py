"""Whether a mirror answers at an address of this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass

import aiohttp

_MOST = 2**16  # bytes of an answer


@dataclass(frozen=True, slots=True)
class MirrorProbe:
    """A mirror that answers, and what it tells; nothing where it has users, and does not know who asks."""

    version: str | None = None
    cache: str | None = None


async def probe_mirror(url: str, *, seconds: float) -> MirrorProbe | None:
    """The mirror at *url*; None where none answers.

    Its certificate is not looked at: it is for the name that clients use, and nothing secret is sent.
    """
    connector = aiohttp.TCPConnector(ssl=False)
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
            if await _json(session, "/healthz") != {"status": "alive"}:
                return None
            state = await _json(session, "/readyz")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    if state is None:
        return MirrorProbe()
    return MirrorProbe(str(state.get("version", "unknown")), str(state.get("cache", "unknown")))


async def _json(session: aiohttp.ClientSession, path: str) -> dict[str, object] | None:
    """The object that is answered; None for anything else."""
    async with session.get(path, allow_redirects=False) as response:
        if response.status != 200:
            return None
        try:
            found = json.loads(await response.content.read(_MOST))
        except ValueError:
            return None
        return found if isinstance(found, dict) else None
