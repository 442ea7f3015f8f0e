"""TLS: the server certificate, its reload, and the verification of client certificates."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.config import ClientSettings, ServerSettings
from mirror.errors import ConfigurationInvalid


class Certificate:
    """The server certificate and key, and the authorities for client certificates.

    Attributes:
        context: the TLS settings for the next connection.
    """

    def __init__(self, certificate: Path, key: Path, authorities: Path | None) -> None:
        """Load the files.

        Args:
            authorities: a file with the authorities that may sign client certificates; None requests no client
                certificates.

        Raises:
            ConfigurationInvalid: if a file can't be read or parsed, or the key does not belong to the certificate.
        """
        self._certificate = certificate
        self._key = key
        self._authorities = authorities
        self.context = self._load()

    @classmethod
    def configured(cls, server: ServerSettings, clients: ClientSettings) -> Certificate | None:
        """Return the configured certificate; None for plain HTTP.

        Raises:
            ConfigurationInvalid: if a file can't be used.
        """
        if server.certificate_file is None or server.key_file is None:
            return None
        return cls(server.certificate_file, server.key_file, clients.certificates_file)

    def reload(self) -> None:
        """Load the files again, for new connections.

        Raises:
            ConfigurationInvalid: if a file can't be used; the previous certificate stays in use.
        """
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # The certificate is loaded alone first, so that the error names the right file.
        with _errors_naming("server.certificate_file", self._certificate):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self._certificate)
        with _errors_naming("server.key_file", self._key):
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        if self._authorities is not None:
            with _errors_naming("clients.certificates_file", self._authorities):
                context.load_verify_locations(self._authorities)
            context.verify_mode = ssl.CERT_OPTIONAL  # server/auth decides whether one is required
        return context


def _no_password() -> str:
    """Raise instead of OpenSSL's prompt on the terminal."""
    raise ConfigurationInvalid("the key is encrypted; decrypt it first (openssl pkey)")


@contextmanager
def _errors_naming(setting: str, file: Path) -> Iterator[None]:
    """Turn the errors of a *file* into ConfigurationInvalid, with the *setting* that names it."""
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigurationInvalid(f"{setting} {file}: {_REASONS.get(error.reason, _NOT_PEM)}") from error
    except OSError as error:
        raise ConfigurationInvalid(f"{setting} {file} can't be read: {error.strerror or error}") from error
    except ConfigurationInvalid as error:
        raise ConfigurationInvalid(f"{setting} {file}: {error}") from error


_NOT_PEM = "the file is not valid PEM of the expected kind"
_REASONS = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate in server.certificate_file",
    "EE_KEY_TOO_SMALL": "the certificate's key is too small to be trusted",
    "CA_MD_TOO_WEAK": "the certificate's signature is too weak to be trusted",
}
