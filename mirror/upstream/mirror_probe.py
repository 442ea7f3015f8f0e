"""Probe for a running mirror at an address of this machine, for the doctor."""

from __future__ import annotations

import json
from dataclasses import dataclass

import aiohttp

_MAX_RESPONSE = 2**16  # bytes


@dataclass(frozen=True, slots=True)
class MirrorProbe:
    """State of a running mirror. The fields are None if the mirror has users and so hides them from the probe."""

    version: str | None = None
    cache: str | None = None


async def probe_mirror(url: str, *, seconds: float) -> MirrorProbe | None:
    """Return the state of the mirror at *url*, or None if no mirror answers there.

    The certificate is not verified: it is issued for the name that clients use, and the probe sends no secrets.
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
    """Return the JSON object in the response, or None for any other response."""
    async with session.get(path, allow_redirects=False) as response:
        if response.status != 200:
            return None
        try:
            found = json.loads(await response.content.read(_MAX_RESPONSE))
        except ValueError:
            return None
        return found if isinstance(found, dict) else None
