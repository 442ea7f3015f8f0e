"""Credentials for an upstream, and the protocol of their sources (password file, credential helper, config.json)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Protocol

from mirror.oci.authorization import Login, Token


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """A refresh token, which a token service accepts instead of a password (token specification, OAuth2)."""

    text: str = field(repr=False)


Credentials = Login | Token | IdentityToken


class CredentialSource(Protocol):
    """Source of the credentials for one endpoint."""

    @property
    def fix(self) -> str:
        """Instruction to the operator for refused credentials, in the imperative: "check …", "set …"."""

    @property
    def is_anonymous(self) -> bool:
        """Whether no credentials are configured for the endpoint."""

    async def credentials(self) -> Credentials | None:
        """Return the current credentials, or None for anonymous access.

        Raises:
            UpstreamUnavailable: if the source can't be read now. Do not fall back to anonymous access.
        """

    def holds(self, credentials: Credentials | None) -> bool:
        """Return whether *credentials* are the current ones, as far as known without waiting."""

    async def renewed(self, refused: Credentials | None) -> bool:
        """Reload the source after the upstream refused *refused*, and return whether the credentials changed.

        Raises:
            UpstreamUnavailable: if the source can't be read now.
        """


class FixedCredentials:
    """Constant credentials: those of a client, or none."""

    def __init__(self, credentials: Credentials | None, *, fix: str) -> None:
        self._credentials = credentials
        self.is_anonymous = credentials is None
        self.fix = fix

    async def credentials(self) -> Credentials | None:
        return self._credentials

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self._credentials

    async def renewed(self, refused: Credentials | None) -> bool:
        return not self.holds(refused)


def is_text(secret: str) -> bool:
    """Return whether *secret* is free of control characters (RFC 7617, 2) and surrogates, which no encoding allows."""
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in secret)
