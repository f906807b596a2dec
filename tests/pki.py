"""Certificate authorities of the tests: they sign certificates of servers and clients, and revoke them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Kind = Literal["ec", "rsa", "ed25519"]
Purpose = Literal["server", "client", "mail"]

PURPOSES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "mail": ExtendedKeyUsageOID.EMAIL_PROTECTION,
}

_DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def make_key(kind: Kind = "ec") -> Key:
    """Return a new private key."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, in files; `chain` are the certificates that its owner sends with it."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    def write(self, path: Path) -> Path:
        """Write chain and key into one PEM file."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.touch(0o600)
        path.write_bytes(b"".join(pem(each) for each in (self.certificate, *self.chain)) + key)
        return path

    @property
    def fingerprint(self) -> str:
        """The SHA-256 fingerprint, in plain hexadecimal digits."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


def pem(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """Return a certificate or a revocation list in PEM."""
    return certificate.public_bytes(Encoding.PEM)


@dataclass
class Authority:
    """A certificate authority, signed by another one or by itself."""

    name: str = "ftpsd tests"
    signer: Authority | None = None
    key: Key = field(default_factory=make_key)

    def __post_init__(self) -> None:
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        builder = self._builder(self.subject, self.key, self.signer or self)
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        self.certificate = (self.signer or self)._sign(builder)
        self._revoked: list[int] = []

    def _builder(
        self, subject: x509.Name, key: Key, issuer: Authority, valid: tuple[float, float] = (-1, 90)
    ) -> x509.CertificateBuilder:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() + valid[0] * _DAY)
            .not_valid_after(now() + valid[1] * _DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(identifier, False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256())

    def issue(
        self,
        common_name: str | Sequence[str] = "",
        *names: x509.GeneralName,
        purpose: Purpose | None = "client",
        kind: Kind = "ec",
        valid: tuple[float, float] = (-1, 90),
    ) -> Issued:
        """Return a new certificate. `valid` are its first and last day, from now."""
        key = make_key(kind)
        common_names = [common_name] if isinstance(common_name, str) else common_name
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common_names if each]
        builder = self._builder(x509.Name(attributes), key, self, valid)
        builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([PURPOSES[purpose]]), False)
        above: list[x509.Certificate] = []
        authority: Authority | None = self
        while authority is not None and authority.signer is not None:
            above.append(authority.certificate)
            authority = authority.signer
        return Issued(self._sign(builder), key, tuple(above))

    def server(self, *hosts: str, kind: Kind = "ec", **more: tuple[float, float]) -> Issued:
        """Return a certificate of a server with these host names."""
        return self.issue(hosts[0], *map(x509.DNSName, hosts), purpose="server", kind=kind, **more)

    def revoke(self, *issued: Issued | Authority) -> None:
        """Revoke certificates: the next revocation lists have them."""
        self._revoked += [each.certificate.serial_number for each in issued]

    def crl(self, valid: tuple[float, float] = (-1, 7)) -> bytes:
        """Return a revocation list in PEM. `valid` are its first and last day, from now."""
        first, last = (now() + days * _DAY for days in valid)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(first).next_update(last)
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - _DAY).build()
            builder = builder.add_revoked_certificate(entry)
        return pem(builder.sign(self.key, None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()))
