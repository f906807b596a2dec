"""Load the certificates and private keys that `ftpsd.yaml` names, and judge the cipher suites."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from OpenSSL import SSL, crypto

from ftpsd.config.faults import ConfigurationWarning, Key, quoted
from ftpsd.config.sections.tls import CertificateSettings
from ftpsd.config.settings import Settings
from ftpsd.config.yaml import Document
from ftpsd.system.tls import certificate_parts
from ftpsd.system.tls.certificates import Certificates, Identity
from ftpsd.system.tls.client_certificates import ClientVerifier
from ftpsd.system.tls.contexts import CIPHERS, ContextMaker
from ftpsd.system.tls.trial import works

# Cipher suites by their names in OpenSSL.
_ANONYMOUS = re.compile("A(?:EC)?DH-")
_UNENCRYPTED = re.compile(".*NULL")
_BROKEN = re.compile(".*(?:RC4|RC2|DES|IDEA|EXP)")
#: TLS 1.3 has no other suites.
_FORWARD_SECRET = re.compile("TLS_|ECDHE-|DHE-|EDH-")

_KINDS = (
    (_UNENCRYPTED, "without encryption", "!eNULL"),
    (_ANONYMOUS, "without authentication of the server", "!aNULL"),
    (_BROKEN, "with broken encryption", "!RC4:!DES:!3DES:!IDEA:!EXP"),
)


def load(document: Document, settings: Settings, clients: ClientVerifier | None) -> ContextMaker | None:
    """Return a maker of TLS contexts; None if a certificate, its key or the ciphers have a fault.

    `clients` verifies the certificates of clients.
    """
    tls = settings.tls
    found = [_load_pair(document, key, pair) for key, pair in tls.pairs]
    identities = [each for each in found if each is not None]
    if len(identities) < len(found):
        return None
    resumption = tls.data_session != "off"
    maker = ContextMaker(Certificates(identities), tls.minimum_version, tls.ciphers, resumption, clients)
    return maker if _check_ciphers(document, tls.ciphers, maker) else None


def _load_pair(document: Document, key: Key, pair: CertificateSettings) -> Identity | None:
    """Return a certificate and its private key, whose settings stand at a key; None if one of them has a fault."""
    where, key_where = (*key, "certificate"), (*key, pair.key_name)
    chain_pem = read_file(document, pair.certificate, where)
    key_pem = read_file(document, pair.key_file, key_where) if pair.key_file != pair.certificate else chain_pem
    if chain_pem is None or key_pem is None:
        return None
    chain = _parse_chain(document, pair.certificate, where, chain_pem)
    if chain is None:
        return None
    private_key = _parse_key(document, pair.key_file, key_where, key_pem)
    if private_key is None:
        return None
    if not _match(chain[0], private_key):
        problem = f"the key in {pair.key_file} does not belong to the certificate"
        document.fault(key_where, problem, "Name the key that the certificate was made with.")
        return None
    if not _is_whole(chain[0], private_key):
        problem = f"the private key in {pair.key_file} is damaged"
        document.fault(key_where, problem, "Create the key again, and a certificate for it.")
        return None
    return Identity(chain, private_key, pair.certificate, pair.addresses)


def read_file(document: Document, path: Path, key: Key) -> bytes | None:
    """Return the contents of a file that a key names; None, with a fault, if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        document.unreadable(key, path, error)
        return None


def certificate_blocks(pem: bytes) -> list[bytes]:
    """Return the certificates of a PEM file, each as PEM text. A key in the file is left out."""
    return re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)


def _parse_chain(document: Document, path: Path, where: Key, pem: bytes) -> tuple[crypto.X509, ...] | None:
    blocks = certificate_blocks(pem)
    if not blocks:
        document.fault(where, f"{path} contains no certificate", "Name a PEM file, the server's certificate first.")
        return None
    try:
        chain = tuple(crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks)
    except Exception:  # pyOpenSSL raises many types for damaged files, without a common base
        chain = ()
    if not chain or not certificate_parts.has_key(chain[0]):
        document.fault(where, f"{path} is damaged", "Create the file again.")
        return None
    return chain


def _parse_key(document: Document, path: Path, where: Key, pem: bytes) -> crypto.PKey | None:
    try:
        return crypto.load_privatekey(crypto.FILETYPE_PEM, pem, b"")
    except (crypto.Error, ValueError, TypeError, UnsupportedAlgorithm):
        document.fault(where, f"{path} contains no usable private key", "Name a PEM file with an unencrypted key.")
        return None


def _is_whole(certificate: crypto.X509, key: crypto.PKey) -> bool:
    """Return whether the private key of a certificate can be used."""
    if works(certificate, key):
        return True
    # cryptography checks whether the primes of an RSA key are such, and all other threads wait for that: 35 ms for 2048
    # bits, 0.2 s for 4096.
    try:
        whole = key.to_cryptography_key()
        if isinstance(whole, ec.EllipticCurvePrivateKey):  # its two parts are compared by newer releases only
            signature = whole.sign(b"", ec.ECDSA(SHA256()))
            whole.public_key().verify(signature, b"", ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature):
        return False
    except UnsupportedAlgorithm:
        pass
    return True


def _match(certificate: crypto.X509, key: crypto.PKey) -> bool:
    try:
        own = certificate_parts.encoded(load_der_public_key(crypto.dump_publickey(crypto.FILETYPE_ASN1, key)))
    except (ValueError, UnsupportedAlgorithm):
        return False
    return certificate_parts.public_key(certificate.to_cryptography()) == own


def _check_ciphers(document: Document, ciphers: str | None, maker: ContextMaker) -> bool:
    """Check that OpenSSL accepts the cipher string. Suites that must not be offered are faults, too."""
    where: Key = ("tls", "ciphers")
    try:
        offered = maker.suites()
    except (SSL.Error, ValueError):
        problem = f"{quoted(ciphers)} is not a cipher string that OpenSSL accepts"
        document.fault(where, problem, f"Write null for {CIPHERS}.")
        return False
    for problem, remedy in _suite_problems(offered):
        document.fault(where, f"{quoted(ciphers)} {problem}", remedy)
    return True


def _suite_problems(offered: Iterable[str]) -> list[tuple[str, str]]:
    """Return what is wrong with suites that must not be offered, and what to write instead."""
    names = list(offered)
    found = []
    for kind, text, without in _KINDS:
        named = [name for name in names if kind.match(name)]
        if named:
            problem = f"allows connections {text} ({named[0]})"
            found.append((problem, f"Add :{without} at the end, or write null for the default."))
    return found


def cipher_warnings(offered: Iterable[str]) -> list[ConfigurationWarning]:
    """Return warnings about suites that should not be offered."""
    named = [name for name in offered if not _FORWARD_SECRET.match(name)]
    if not named:
        return []
    problem = f"tls.ciphers allows connections without forward secrecy ({named[0]})"
    return [ConfigurationWarning(("tls", "ciphers"), problem, "add :!kRSA:!PSK:!SRP, or write null")]
