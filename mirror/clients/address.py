"""Where the mirror is, as clients see it, and what it stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mirror.errors import ConfigurationInvalid
from mirror.oci.names import DOCKER_HUB

_ADDRESS = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?/?")
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1")


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the mirror.

    Attributes:
        scheme: http or https.
        host: host and perhaps port, as image names have them in front.
    """

    scheme: str
    host: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that *text* spells.

        Raises:
            ConfigurationInvalid: it is none, or one that not all clients can be told: with a path, say.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or (found[3] is not None and not 0 < int(found[3]) < 65536):
            raise ConfigurationInvalid(
                f"--mirror {text!r}: write http:// or https://, a host and perhaps a port, such as http://127.0.0.1:5000"
            )
        host = found[2].lower()
        return cls(found[1], host if found[3] is None else f"{host}:{int(found[3])}")

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def is_plain(self) -> bool:
        """Whether it is HTTP without TLS."""
        return self.scheme == "http"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return _LOOPBACK.fullmatch(urlsplit(self.url).hostname or "") is not None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a client is told.

    Attributes:
        upstreams: the registries that the mirror stands for, by name.
        default: the one that a request without a name goes to; None where there is none.
        has_users: whether the mirror asks who one is.
    """

    address: Address
    upstreams: tuple[str, ...]
    default: str | None = DOCKER_HUB
    has_users: bool = False
