"""A certificate signed by an authority of our own, with everything that scanners check."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK: Sequence[x509.GeneralName] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
)

Extensions = list[tuple[x509.ExtensionType, bool]]


def make_chain(directory: Path, names: Sequence[x509.GeneralName] = LOOPBACK, days: float = 90) -> None:
    """Write certificate.pem, key.pem, and ca.pem, which a client has to trust.

    The certificate is for `names`, and ends after `days`, which may be negative.
    """
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    key_identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    root: Extensions = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(signs_certificates=True), True),
        (key_identifier, False),
    ]
    # Nobody fetches it (the scanners are not told to), but a certificate that cannot be revoked is a finding.
    revocations = x509.UniformResourceIdentifier("http://localhost/ftpsd-test.crl")
    leaf: Extensions = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName(list(names)), False),
        (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_identifier), False),
        (x509.CRLDistributionPoints([x509.DistributionPoint([revocations], None, None, None)]), False),
    ]
    _write(directory / "ca.pem", "ftpsd test authority", authority.public_key(), authority, root)
    _write(directory / "certificate.pem", "localhost", own.public_key(), authority, leaf, days)
    key = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").touch(0o600)
    (directory / "key.pem").write_bytes(key)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    signs = not signs_certificates
    return x509.KeyUsage(signs, False, False, False, False, signs_certificates, signs_certificates, False, False)


def _write(
    path: Path,
    name: str,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    extensions: Extensions,
    days: float = 90,
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ftpsd test authority")]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1) + min(datetime.timedelta(), datetime.timedelta(days=days)))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    path.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM))
