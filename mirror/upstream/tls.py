"""TLS to upstreams: trusted certificate authorities, our client certificate, and messages about failed handshakes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from mirror.config import UpstreamSettings
from mirror.errors import ConfigurationInvalid

# OpenSSL's verification errors (openssl-verification-options), grouped by fix.
_EXPIRED, _NOT_YET = 10, 9
_UNKNOWN = frozenset({2, 18, 19, 20, 21, 24, 27})
_MISMATCH = frozenset({62, 64})


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS settings for connections to one upstream and to its redirect targets and token services.

    Attributes:
        own: the context for the configured addresses; True for the system's authorities and no client certificate.
        elsewhere: the context for all other hosts; True as above.
        has_certificate: whether *own* contains a client certificate.
    """

    own: ssl.SSLContext | bool = True
    elsewhere: ssl.SSLContext | bool = True
    has_certificate: bool = False

    @classmethod
    def of(cls, name: str, settings: UpstreamSettings) -> UpstreamTls:
        """Read the files named in *settings* and return the contexts.

        Only the upstream itself receives the client certificate. Other hosts are also trusted through the system's
        authorities: a private registry may keep its blobs in a public object store.

        Raises:
            ConfigurationInvalid: if a file can't be used.
        """
        if settings.ca_file is None and settings.certificate_file is None:
            return cls()  # loading the system's authorities takes 20 ms, and aiohttp has loaded them already
        own, elsewhere = (_context(name, settings.ca_file, system=system) for system in (False, True))
        if settings.certificate_file is None or settings.key_file is None:
            return cls(own, elsewhere)
        _load_certificate(own, name, settings.certificate_file, settings.key_file)
        return cls(own, elsewhere, has_certificate=True)


def _context(name: str, authorities: Path | None, *, system: bool) -> ssl.SSLContext:
    """Return a verifying context that trusts *authorities*, and the system's if *system* is set or there are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if system or authorities is None:
        context.load_default_certs()
    if authorities is not None:
        text = _read(name, "ca_file", authorities)
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise _invalid(name, "ca_file", authorities, f"contains no PEM certificates ({_reason(error)})") from error
    return context


def _load_certificate(context: ssl.SSLContext, name: str, certificate: Path, key: Path) -> None:
    _read(name, "certificate_file", certificate)
    _read(name, "key_file", key)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL asks the terminal
    except (ssl.SSLError, OSError, ValueError) as error:
        fault = f"and key_file {key} must be a certificate and its key (both PEM, the key without a passphrase)"
        raise _invalid(name, "certificate_file", certificate, f"{fault}: {_reason(error)}") from error


def _read(name: str, key: str, path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(name, key, path, f"can't be read: {_reason(error)}") from error


def _invalid(name: str, key: str, path: Path, fault: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(f"upstreams.{name!r}: {key} {path} {fault}")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or error.strerror or "not PEM"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def describe_tls_error(name: str, host: str, error: ssl.SSLError) -> str:
    """Describe why TLS with *host* failed, and how to fix it in the section of the upstream *name*."""
    section = f'in [upstreams."{name}"]'
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = error.reason or "no reason given"
        if "CERTIFICATE" in reason or "HANDSHAKE_FAILURE" in reason:
            fix = f"it requires a known client certificate: set certificate_file and key_file {section}"
        else:
            fix = f"check that the server speaks TLS 1.2 or newer on this port, or correct url {section}"
        return f"the TLS handshake with {host} failed ({reason}); {fix}"
    code = error.verify_code
    if code == _EXPIRED:
        return f"the certificate of {host} has expired; renew it on that server, or correct the clock of this machine"
    if code == _NOT_YET:
        return f"the certificate of {host} is not valid yet; check the clock of this machine"
    if code in _MISMATCH:
        return f"the certificate of {host} is for another name; set url {section} to a name in the certificate"
    if code in _UNKNOWN:
        return f"the certificate of {host} is from an unknown authority; set ca_file {section}"
    return f"the certificate of {host} is not valid: {error.verify_message}; check ca_file {section}"
