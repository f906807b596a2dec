"""Make a self-signed certificate, for a daemon that has no other."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes as digests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ftpsd.system.tls import certificate_parts

#: Names and addresses of this machine for itself.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def make_certificate(
    certificate_file: Path,
    key_file: Path,
    names: Sequence[str] = LOOPBACK,
    common_name: str = "ftpsd demo",
    days: int = 365,
) -> None:
    """Write a self-signed certificate for host names and addresses, and its key, which only its owner can read.

    Both are complete on the disk before one of them has its name. If the process is killed between the two names,
    `complete` gives the key its name.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, digests.SHA256())
    )
    new_key = _write_beside(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    new_certificate = _write_beside(certificate_file, certificate.public_bytes(Encoding.PEM), 0o666)
    new_certificate.rename(certificate_file)
    new_key.rename(key_file)


def complete(certificate_file: Path, key_file: Path) -> None:
    """Finish what `make_certificate` has begun, if it was killed when only the certificate had its name."""
    new_key = _temporary(key_file)
    if not os.path.lexists(key_file) and certificate_file.is_file() and new_key.is_file():
        try:
            key = load_pem_private_key(new_key.read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        except ValueError:
            return
        if certificate_parts.encoded(key.public_key()) == certificate_parts.public_key(certificate):
            new_key.rename(key_file)


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def _write_beside(file: Path, data: bytes, mode: int) -> Path:
    """Write what gets the name of `file` later. It is complete on the disk when this returns."""
    temporary = _temporary(file)
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as output:
        output.write(data)
        output.flush()
        os.fsync(output.fileno())
    return temporary


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
