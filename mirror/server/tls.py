"""The mirror's certificate, and whom it asks for theirs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from mirror.config import ClientSettings, ServerSettings
from mirror.errors import ConfigurationInvalid


class Certificate:
    """What the next TLS connection begins with."""

    def __init__(self, certificate: Path, key: Path, authorities: Path | None) -> None:
        """Reads the files.

        Args:
            authorities: whose certificates clients may show; None asks clients for none.

        Raises:
            ConfigurationInvalid: a file can't be read, is not what it should be, or the key is another certificate's.
        """
        self._certificate = certificate
        self._key = key
        self._authorities = authorities
        self.context = self._read()

    @classmethod
    def configured(cls, server: ServerSettings, clients: ClientSettings) -> Certificate | None:
        """As the settings say; None where they name no certificate, so that the mirror speaks plain HTTP.

        Raises:
            ConfigurationInvalid
        """
        if server.certificate_file is None or server.key_file is None:
            return None
        return cls(server.certificate_file, server.key_file, clients.certificates_file)

    def reload(self) -> None:
        """Reads the files anew, for connections to come.

        Raises:
            ConfigurationInvalid: as at the start; what was there before stays.
        """
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # Alone first, so that a failure names the file that it is about.
        _checked("server.certificate_file", self._certificate, lambda: _is_certificate(self._certificate))
        _checked("server.key_file", self._key, lambda: _load(context, self._certificate, self._key))
        if (authorities := self._authorities) is not None:
            _checked("clients.certificates_file", authorities, lambda: context.load_verify_locations(authorities))
            context.verify_mode = ssl.CERT_OPTIONAL  # who may come in without is not decided here
        return context


def _is_certificate(file: Path) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    context.load_cert_chain(certificate, key, password=_no_password)


def _no_password() -> str:
    """Instead of a question on the terminal."""
    raise ConfigurationInvalid("it is encrypted; the mirror needs a key without a password")


def _checked(name: str, file: Path, read: Callable[[], object]) -> None:
    try:
        read()
    except ssl.SSLError as error:
        raise ConfigurationInvalid(f"{name} {file}: {_REASONS.get(error.reason, _IS_NOT_PEM)}") from error
    except OSError as error:
        raise ConfigurationInvalid(f"{name} {file} can't be read: {error.strerror or error}") from error
    except ConfigurationInvalid as error:
        raise ConfigurationInvalid(f"{name} {file}: {error}") from error


_IS_NOT_PEM = "it does not hold what it should, in PEM"
_REASONS = {
    "KEY_VALUES_MISMATCH": "the key is not that of the certificate in server.certificate_file",
    "EE_KEY_TOO_SMALL": "the certificate's key is too small to be trusted",
    "CA_MD_TOO_WEAK": "the certificate's signature is too weak to be trusted",
}
