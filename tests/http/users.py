"""Users of a mirror: their passwords, the file that the mirror has of them, and what they send."""

from base64 import b64encode
from collections.abc import Mapping

import bcrypt

CHEAP = 4  # the least that bcrypt takes: a millisecond


def htpasswd(passwords: Mapping[str, str], *, cost: int = CHEAP) -> str:
    """The file, as `htpasswd -B` writes it."""
    hashes = {user: bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)) for user, password in passwords.items()}
    return "".join(f"{user}:{hashed.decode().replace('$2b$', '$2y$')}\n" for user, hashed in hashes.items())


def basic(user: str, password: str) -> dict[str, str]:
    """The header that a client with this login sends with each request."""
    return shown(f"{user}:{password}".encode())


def shown(credentials: bytes) -> dict[str, str]:
    """Any bytes where a login is looked for."""
    return {"Authorization": f"Basic {b64encode(credentials).decode()}"}
