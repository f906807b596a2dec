"""Load the authorities and revocation lists for certificates of clients, and warn of what will refuse clients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from OpenSSL import crypto

from ftpsd.accounts.yaml_store import UserTable
from ftpsd.config.faults import ConfigurationWarning, Key
from ftpsd.config.sections.tls import ClientCertificateSettings
from ftpsd.config.settings import Settings
from ftpsd.config.tls.certificates import certificate_blocks, read_file
from ftpsd.config.yaml import Document
from ftpsd.protocol.printable import printable
from ftpsd.protocol.replies import readable_size
from ftpsd.system.tls import certificate_parts
from ftpsd.system.tls.client_certificates import ClientVerifier, read_certificate, subject_of
from ftpsd.system.tls.private import share_store

_SECTION: Key = ("tls", "client_certificates")
_CA: Key = (*_SECTION, "ca")
_CRL: Key = (*_SECTION, "crl")

#: Bytes of a revocation list from which on it is worth a warning. OpenSSL hashes the list of the issuer in each
#: handshake with a certificate: 1 ms for 20,000 revoked certificates, measured.
_LARGE_LIST = 2**20


def load(document: Document, settings: Settings) -> ClientVerifier | None:
    """Return what verifies certificates of clients; None if there is nothing to verify, or a fault."""
    clients = settings.tls.clients
    if clients is None:
        return None
    if not (settings.tls.require.login or clients.mode == "optional"):
        problem = "required is not possible: tls.require.login is false, and plain text has no certificates"
        document.fault((*_SECTION, "mode"), problem, "Write optional, or require TLS.")
    authorities = _authorities(document, clients.ca)
    lists = [each for key, path in crl_files(clients) for each in _lists(document, key, path)]
    return ClientVerifier(clients.map, authorities, lists) if authorities and not document.faults else None


def crl_files(clients: ClientCertificateSettings) -> list[tuple[Key, Path]]:
    """Return the files with revocation lists, each with its key."""
    if isinstance(clients.crl, Path):
        return [(_CRL, clients.crl)]
    return [((*_CRL, index), path) for index, path in enumerate(clients.crl)]


def files(settings: Settings) -> list[tuple[Key, Path]]:
    """Return all files of the section, each with its key."""
    clients = settings.tls.clients
    return [] if clients is None else [(_CA, clients.ca), *crl_files(clients)]


def _authorities(document: Document, path: Path) -> list[crypto.X509]:
    pem = read_file(document, path, _CA)
    if pem is None:
        return []
    blocks = certificate_blocks(pem)
    if not blocks:
        document.fault(_CA, f"{path} contains no certificate", "Name a PEM file with the certificates of authorities.")
    found = []
    for number, block in enumerate(blocks, 1):
        try:
            certificate = crypto.load_certificate(crypto.FILETYPE_PEM, block)
            is_damaged = not certificate_parts.has_key(certificate)
        except Exception:  # pyOpenSSL raises many types for damaged files, without a common base
            is_damaged = True
        if is_damaged:
            document.fault(_CA, f"certificate {number} in {path} is damaged", "Remove it, or create the file again.")
        else:
            found.append(certificate)
    return found


def _lists(document: Document, key: Key, path: Path) -> list[x509.CertificateRevocationList]:
    data = read_file(document, path, key)
    if data is None:
        return []
    blocks = re.findall(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", data, re.DOTALL)
    try:
        found = [x509.load_pem_x509_crl(block) for block in blocks] or [x509.load_der_x509_crl(data)]
        share_store((), found)  # OpenSSL reads more of a list than cryptography does
        return found
    except Exception:  # as above
        document.fault(key, f"{path} contains no usable revocation list", "Name a CRL file, in PEM or DER.")
        return []


# --- warnings ----------------------------------------------------------------------------------------


def warnings(verifier: ClientVerifier | None, now: float) -> Iterator[ConfigurationWarning]:
    """Yield what refuses clients: authorities and lists that have expired, and missing authorities and lists."""
    if verifier is None:
        return
    subjects = {certificate_parts.subject(each.to_cryptography()) for each in verifier.authorities}
    for each in verifier.authorities:
        certificate = each.to_cryptography()
        validity = certificate_parts.validity(certificate)
        if validity is not None and validity[1].timestamp() <= now:
            named = f"the authority {subject_of(certificate)}"
            problem = f"{named} has expired, and all certificates that it has signed are refused"
            yield ConfigurationWarning(_CA, problem, "replace it")
        above = certificate_parts.issuer(certificate)
        if above is not None and above not in subjects:
            problem = (
                f"the certificate {subject_of(certificate)} and all that it has signed are refused without that of"
            )
            yield ConfigurationWarning(_CA, f"{problem} {certificate_parts.text(above)}", "add that one, too")
    for revocations in verifier.revocations:
        size, issuer = len(revocations.tbs_certlist_bytes), certificate_parts.issuer(revocations)
        named = f"the revocation list of {certificate_parts.text(issuer)}"
        if size > _LARGE_LIST:
            problem = f"{named} has {readable_size(size)}"
            remedy = "let the authority leave out certificates that have expired"
            yield ConfigurationWarning(_CRL, f"{problem}, and each login with a certificate reads it", remedy)
        until = certificate_parts.next_update(revocations)
        if until is not None and until.timestamp() <= now:
            problem = f"{named} has expired on {until:%Y-%m-%d}"
            yield ConfigurationWarning(_CRL, f"{problem}, and all of its certificates are refused", "get a new list")
    if verifier.revocations:
        listed = set(map(certificate_parts.issuer, verifier.revocations))
        for certificate in (each.to_cryptography() for each in verifier.authorities):
            if certificate_parts.subject(certificate) not in listed and certificate_parts.is_authority(certificate):
                problem = f"no revocation list is of {subject_of(certificate)}, and certificates that it has signed"
                yield ConfigurationWarning(_CRL, f"{problem} are refused", "add its list")


def of_users(verifier: ClientVerifier | None, users: UserTable) -> Iterator[ConfigurationWarning]:
    """Yield the authorities that are the certificate of one user: `openssl req -x509` makes such by default."""
    if verifier is None:
        return
    fingerprints = users.fingerprints()
    for each in verifier.authorities:
        certificate = read_certificate(each, verifier.source)
        named = next((name for name in certificate.names if name in users), None)
        is_authority = certificate_parts.is_authority(each.to_cryptography())
        if is_authority and (named is not None or certificate.fingerprint in fingerprints):
            whose = "of a user" if named is None else f"of the user {printable(named)}"
            problem = (
                f"the certificate {certificate.subject} {whose} is an authority, too: its key can sign a certificate"
            )
            remedy = "make it with -addext basicConstraints=critical,CA:FALSE"
            yield ConfigurationWarning(_CA, f"{problem} for every user", remedy)
