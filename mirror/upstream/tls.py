"""Trust: by which authorities an upstream is believed, and with which certificate the mirror shows itself to it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from mirror.config import UpstreamSettings
from mirror.errors import ConfigurationInvalid

# What OpenSSL's verification can say (openssl-verification-options), as far as each has a cure of its own.
_EXPIRED, _NOT_YET = 10, 9
_UNKNOWN = frozenset({2, 18, 19, 20, 21, 24, 27})
_MISMATCH = frozenset({62, 64})


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS with an upstream, and with those it sends to. True: the system's authorities, and no certificate."""

    own: ssl.SSLContext | bool = True
    elsewhere: ssl.SSLContext | bool = True
    shows: bool = False  # whether it has a certificate to show

    @classmethod
    def of(cls, name: str, settings: UpstreamSettings) -> UpstreamTls:
        """What the settings say; their files are read now.

        Only the upstream itself is shown the certificate. Those it sends to are believed also when the system's
        authorities know them: a private registry may keep its blobs in a public store.

        Raises:
            ConfigurationInvalid: a file can't be used.
        """
        if settings.ca_file is None and settings.certificate_file is None:
            return cls()  # reading the system's authorities takes 20 ms, which aiohttp has spent already
        own, elsewhere = (_context(name, settings.ca_file, system=system) for system in (False, True))
        if settings.certificate_file is None or settings.key_file is None:
            return cls(own, elsewhere)
        _show(own, name, settings.certificate_file, settings.key_file)
        return cls(own, elsewhere, shows=True)


def _context(name: str, authorities: Path | None, *, system: bool) -> ssl.SSLContext:
    """Verifying; by these *authorities*, and by the *system*'s too if it is so said or there are no others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if system or authorities is None:
        context.load_default_certs()
    if authorities is not None:
        text = _text(name, "ca_file", authorities)
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise _invalid(name, "ca_file", authorities, f"holds no certificates in PEM ({_said(error)})") from error
    return context


def _show(context: ssl.SSLContext, name: str, certificate: Path, key: Path) -> None:
    _text(name, "certificate_file", certificate)
    _text(name, "key_file", key)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL asks the terminal
    except (ssl.SSLError, OSError, ValueError) as error:
        what = f"and key_file {key} are no certificate and its key (both PEM, the key without a passphrase)"
        raise _invalid(name, "certificate_file", certificate, f"{what}: {_said(error)}") from error


def _text(name: str, key: str, path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(name, key, path, f"can't be read: {_said(error)}") from error


def _invalid(name: str, key: str, path: Path, what: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(f"upstreams.{name!r}: {key} {path} {what}")


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or error.strerror or "not PEM"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def complaint(name: str, host: str, error: ssl.SSLError) -> str:
    """What is wrong between the mirror and *host*, and what cures it."""
    section = f'in [upstreams."{name}"]'
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = error.reason or "no agreement"
        if "CERTIFICATE" in reason or "HANDSHAKE_FAILURE" in reason:
            cure = f"it wants a certificate that it knows: set certificate_file and key_file {section}"
        else:
            cure = f"does it speak TLS 1.2 or newer there? See url {section}"
        return f"{host} ended TLS ({reason}); {cure}"
    code = error.verify_code
    if code == _EXPIRED:
        return f"the certificate of {host} has expired; it is to be renewed there (or the clock here is wrong)"
    if code == _NOT_YET:
        return f"the certificate of {host} is not valid yet: is the clock here right?"
    if code in _MISMATCH:
        return f"the certificate of {host} is for another name; set url {section} to a name that is in it"
    if code in _UNKNOWN:
        return f"the certificate of {host} is from an authority unknown here; name that in ca_file {section}"
    return f"the certificate of {host} is not valid: {error.verify_message}; see ca_file {section}"
