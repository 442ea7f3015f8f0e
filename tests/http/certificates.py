"""TLS certificates of clients, including malformed and expired ones."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


class Authority:
    """A certificate authority, and the certificates that it issues."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        key = serialization.load_pem_private_key(self._authority.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def write_ca_certificate(self, name: str) -> Path:
        """Write the authority's own certificate to a file."""
        file = self._directory / name
        self._authority.cert_pem.write_to_path(str(file))
        return file

    def server(self, name: str) -> Path:
        """Write a certificate for 127.0.0.1, with its chain and key, to a file."""
        file = self._directory / name
        self._authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
        return file

    def without_certificate(self) -> ssl.SSLContext:
        """Return the TLS context of a client without a certificate."""
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context

    def client(self, *names: str, trusting: "Authority | None" = None, ends: timedelta = DAY) -> ssl.SSLContext:
        """Return the TLS context of a client that has a certificate with these common names.

        Args:
            trusting: the server's authority, if it is another one.
            ends: time from now until the certificate expires.
        """
        context = (trusting or self).without_certificate()
        context.load_cert_chain(*self.write_client_certificate(*names, ends=ends))
        return context

    def write_client_certificate(self, *names: str, ends: timedelta = DAY) -> tuple[Path, Path]:
        """Write a client certificate with these common names, and its key, to two files."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes()).subject
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")]
        subject += [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(issuer, x509.Name(subject), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + ends)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files = (self._directory / f"{certificate.serial_number}.{kind}" for kind in ("cert", "key"))
        certificate_file, key_file = files
        certificate_file.write_bytes(certificate.public_bytes(pem))
        key_file.write_bytes(key.private_bytes(pem, *plain))
        return certificate_file, key_file
