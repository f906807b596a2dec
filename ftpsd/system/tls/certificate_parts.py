"""What certificates and revocation lists say.

cryptography parses a part only when it is asked for, and raises then, while OpenSSL accepts encodings that cryptography
does not. These functions return None, or nothing, for a part that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

_T = TypeVar("_T")
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def _read(part: Callable[[], _T]) -> _T | None:
    try:
        return part()
    except Exception:  # what cryptography raises differs between releases, and has no common base
        return None


def parse(certificate: crypto.X509) -> x509.Certificate | None:
    """Return a certificate of OpenSSL as one of cryptography."""
    return _read(certificate.to_cryptography)


def parse_pem_chain(blocks: Sequence[bytes]) -> list[x509.Certificate] | None:
    """Return the certificates in blocks of PEM text; None if one of them is damaged."""
    return _read(lambda: list(map(x509.load_pem_x509_certificate, blocks)))


def parse_der_chain(encodings: Sequence[bytes]) -> list[x509.Certificate] | None:
    """Return the certificates that have these DER encodings; None if one of them is damaged."""
    return _read(lambda: list(map(x509.load_der_x509_certificate, encodings)))


def subject(certificate: x509.Certificate) -> x509.Name | None:
    """Return the subject of a certificate."""
    return _read(lambda: certificate.subject)


def subject_size(certificate: x509.Certificate) -> int:
    """Return the bytes of the subject, in DER."""
    name = subject(certificate)
    return 0 if name is None else len(_read(name.public_bytes) or b"")


def issuer(signed: x509.Certificate | x509.CertificateRevocationList) -> x509.Name | None:
    """Return who has signed a certificate or a revocation list."""
    return _read(lambda: signed.issuer)


def text(name: x509.Name | None) -> str:
    """Return a name as in RFC 4514; an empty one is an empty text."""
    found = None if name is None else _read(name.rfc4514_string)
    return "that cannot be read" if found is None else found


def is_issued_by(certificate: x509.Certificate, other: x509.Certificate) -> bool:
    """Return whether a certificate names another one as its issuer. The signature is not verified."""
    name = issuer(certificate)
    return name is not None and name == subject(other)


def encoded(key: PublicKeyTypes) -> bytes:
    """Return a public key in DER (SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_key(certificate: x509.Certificate) -> bytes | None:
    """Return the public key of a certificate, as `encoded` does."""
    return _read(lambda: encoded(certificate.public_key()))


def has_key(certificate: crypto.X509) -> bool:
    """Return whether a certificate and its public key can be read. They are parsed late: a damaged one shows here."""
    parsed = parse(certificate)
    return parsed is not None and public_key(parsed) is not None


def common_names(certificate: x509.Certificate) -> list[str]:
    """Return the common names of the subject."""
    name = subject(certificate)
    return [] if name is None else [str(each.value) for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return the value of an extension; None if there is none."""
    return _read(lambda: certificate.extensions.get_extension_for_class(kind).value)


def alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """Return the names that a certificate has beside its subject (RFC 5280 section 4.2.1.6)."""
    return extension(certificate, x509.SubjectAlternativeName)


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether OpenSSL lets it sign others: it is not the certificate of a single client or server.

    Without basicConstraints, a certificate of version 1 may that signs itself, and one whose keyUsage says so.
    """
    usage, constraints = extension(certificate, x509.KeyUsage), extension(certificate, x509.BasicConstraints)
    if usage is not None and not usage.key_cert_sign:
        return False
    if constraints is not None:
        return bool(constraints.ca)
    is_first = _read(lambda: certificate.version) is x509.Version.v1
    return usage is not None or (is_first and is_issued_by(certificate, certificate))


def validity(certificate: x509.Certificate) -> tuple[datetime, datetime] | None:
    """Return both ends of a certificate's life, in UTC."""
    return _read(lambda: _validity(certificate))


def _validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    if hasattr(certificate, "not_valid_after_utc"):  # cryptography 42; Debian 12 has 38
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate.not_valid_before.replace(tzinfo=UTC), certificate.not_valid_after.replace(tzinfo=UTC)


def next_update(revocations: x509.CertificateRevocationList) -> datetime | None:
    """Return until when a revocation list is valid, in UTC; None if it does not say."""
    return _read(lambda: _next_update(revocations))


def _next_update(revocations: x509.CertificateRevocationList) -> datetime | None:
    if hasattr(revocations, "next_update_utc"):  # cryptography 42
        return revocations.next_update_utc
    end = revocations.next_update
    return None if end is None else end.replace(tzinfo=UTC)
