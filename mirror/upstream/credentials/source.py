"""Credentials: whom the mirror is at an upstream, and what has to be known of wherever it learns that from."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Protocol

from mirror.oci.authorization import Login, Token


@dataclass(frozen=True, slots=True)
class IdentityToken:
    """What a token service takes instead of a name and a password (token specification, OAuth2: refresh_token)."""

    text: str = field(repr=False)


Credentials = Login | Token | IdentityToken


class CredentialSource(Protocol):
    """Where credentials for one endpoint come from."""

    @property
    def cure(self) -> str:
        """What a person has to do where upstream takes none of these: "check …", "set …"."""

    async def credentials(self) -> Credentials | None:
        """Whom to ask as; None for nobody in particular.

        Raises:
            UpstreamUnavailable: that can't be learnt now. It does not mean nobody.
        """

    def holds(self, credentials: Credentials | None) -> bool:
        """Whether these still are whom to ask as, as far as is known without waiting."""

    async def renewed(self, refused: Credentials | None) -> bool:
        """Whether there are others by now than these, which upstream did not take.

        Raises:
            UpstreamUnavailable: that can't be learnt now.
        """


class FixedCredentials:
    """Credentials that are what they are: those of a client, or none at all."""

    def __init__(self, credentials: Credentials | None, *, cure: str) -> None:
        self._credentials = credentials
        self.cure = cure

    async def credentials(self) -> Credentials | None:
        return self._credentials

    def holds(self, credentials: Credentials | None) -> bool:
        return credentials == self._credentials

    async def renewed(self, refused: Credentials | None) -> bool:
        return not self.holds(refused)


def is_text(secret: str) -> bool:
    """Whether there is nothing in it that has no place in a name or a password (RFC 7617, 2), or in any encoding."""
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in secret)
