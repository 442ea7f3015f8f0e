"""The address of the mirror as clients reach it, and the upstreams that it serves."""

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
    """The address of the mirror.

    Attributes:
        scheme: http or https.
        host: host and optional port, as in front of an image name.
    """

    scheme: str
    host: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse *text*.

        Raises:
            ConfigurationInvalid: if it is not a URL that every client can use, for example because it has a path.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or (found[3] is not None and not 0 < int(found[3]) < 65536):
            raise ConfigurationInvalid(
                f"--mirror {text!r} is invalid: write http:// or https://, a host and optionally a port, "
                f"such as http://127.0.0.1:5000"
            )
        host = found[2].lower()
        return cls(found[1], host if found[3] is None else f"{host}:{int(found[3])}")

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def is_plain(self) -> bool:
        """Whether the mirror serves HTTP without TLS."""
        return self.scheme == "http"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        return _LOOPBACK.fullmatch(urlsplit(self.url).hostname or "") is not None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The facts about a mirror that go into a client's configuration.

    Attributes:
        upstreams: the names of the registries that the mirror serves.
        default: the upstream of requests that name none; None if there is no default.
        has_users: whether the mirror requires a login.
    """

    address: Address
    upstreams: tuple[str, ...]
    default: str | None = DOCKER_HUB
    has_users: bool = False
