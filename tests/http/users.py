"""Users of a mirror: their passwords, the htpasswd file, and the headers that they send."""

from base64 import b64encode
from collections.abc import Mapping

import bcrypt

MIN_COST = 4  # lowest cost that bcrypt accepts: about a millisecond


def htpasswd(passwords: Mapping[str, str], *, cost: int = MIN_COST) -> str:
    """Return the file, as `htpasswd -B` writes it."""
    hashes = {user: bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)) for user, password in passwords.items()}
    return "".join(f"{user}:{hashed.decode().replace('$2b$', '$2y$')}\n" for user, hashed in hashes.items())


def basic(user: str, password: str) -> dict[str, str]:
    """Return the Authorization header of this login."""
    return authorization(f"{user}:{password}".encode())


def authorization(credentials: bytes) -> dict[str, str]:
    """Return an Authorization header with any bytes as Basic credentials."""
    return {"Authorization": f"Basic {b64encode(credentials).decode()}"}
