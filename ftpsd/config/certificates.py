"""The certificate and the key that `ftpsd.yaml` names: read, parsed, matched; or the faults of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from ftpsd.config import suites
from ftpsd.config.convert import told
from ftpsd.config.settings import Settings
from ftpsd.config.yaml import Document, Key
from ftpsd.system.tls import CIPHERS, ContextMaker, Identity


def load(document: Document, settings: Settings) -> ContextMaker | None:
    tls = settings.tls
    key_path, key_key = (tls.private_key, "private_key") if tls.private_key else (tls.certificate, "certificate")
    chain_pem = _read_pem(document, tls.certificate, ("tls", "certificate"))
    key_pem = _read_pem(document, key_path, ("tls", key_key)) if key_path != tls.certificate else chain_pem
    if chain_pem is None or key_pem is None:
        return None
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", chain_pem, re.DOTALL)
    if not blocks:
        document.fault(
            ("tls", "certificate"),
            f"{tls.certificate} holds no certificate",
            "Name a PEM file, the server's certificate first.",
        )
        return None
    try:
        chain = tuple(crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks)
        chain[0].to_cryptography().public_key()  # what is wrong with the key shows now, not before
    except Exception:  # whatever two libraries raise for bytes of others: their errors share no other base
        document.fault(("tls", "certificate"), f"{tls.certificate} is damaged", "Write the file anew.")
        return None
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, key_pem, b"")
    except (crypto.Error, ValueError, TypeError, UnsupportedAlgorithm):
        document.fault(
            ("tls", key_key),
            f"{key_path} holds no private key that can be used",
            "Name a PEM file with an unencrypted key.",
        )
        return None
    maker = ContextMaker(Identity(chain, key), tls.minimum_version, tls.ciphers, tls.data_session != "off")
    if not _matches(chain[0], key):
        document.fault(
            ("tls", key_key),
            f"the key in {key_path} does not belong to the certificate",
            "Name the key that the certificate was made with.",
        )
        return None
    try:
        offered = maker.suites()
    except (SSL.Error, ValueError):
        known = f"Write null for {CIPHERS}."
        document.fault(("tls", "ciphers"), f"{told(tls.ciphers)} is no cipher string that OpenSSL takes", known)
        return None
    for problem, remedy in suites.problems(offered):
        document.fault(("tls", "ciphers"), f"{told(tls.ciphers)} {problem}", remedy)
    return maker


def _matches(certificate: Any, key: Any) -> bool:
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = certificate.to_cryptography().public_key().public_bytes(*form)
    return bool(own == key.to_cryptography_key().public_key().public_bytes(*form))


def _read_pem(document: Document, path: Path, key: Key) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        document.unreadable(key, path, error)
        return None
