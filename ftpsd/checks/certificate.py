"""Certificates: findings about what a client is shown, and about the file that the server loads. Pure."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ftpsd.checks.findings import Finding, printable
from ftpsd.system.tls import certificate_parts

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

#: Issuers of products that decrypt and inspect TLS. Such an issuer makes interception certain.
_INSPECTORS = re.compile(
    r"forti(gate|net)|zscaler|palo ?alto|sophos|netskope|blue ?coat|check ?point|watchguard|kaspersky|\beset\b|avast"
    r"|bitdefender|mitmproxy|squid|cisco umbrella|untangle|barracuda|sonicwall|ssl.?inspection|intercept",
    re.IGNORECASE,
)

#: What `SSLCertVerificationError.verify_code` says (openssl-verification-options(1)).
EXPIRED, NOT_YET = 10, 9
_WRONG_NAME = (62, 64)
_SELF_SIGNED = 18

#: Days before its end at which a certificate is a warning, as in `ftpsd check`.
SOON = 14


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 fingerprint as `openssl x509 -fingerprint -sha256` prints it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def same_fingerprint(one: str, other: str) -> bool:
    """Compare two fingerprints, however they are written."""
    plain = [re.sub(r"^(sha256|sha-256|sha256 fingerprint)[:=]|[^0-9a-f]", "", each.lower()) for each in (one, other)]
    return plain[0] == plain[1]


def issuer(certificate: x509.Certificate) -> str:
    """Return the issuer's name as text."""
    return printable(certificate_parts.text(certificate_parts.issuer(certificate))) or "nobody"


def names(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names and addresses that a certificate is for."""
    found = certificate_parts.alternative_names(certificate)
    if found is None:
        return certificate_parts.common_names(certificate)
    return [str(each.value) for each in found if isinstance(each, x509.DNSName | x509.IPAddress)]


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Return whether a certificate is for a host name or an address. `*` stands for one label (RFC 6125)."""
    try:
        wanted = str(ipaddress.ip_address(host))
    except ValueError:
        wanted = host.rstrip(".").lower()
    for name in (each.lower() for each in names(certificate)):
        if name == wanted or (name.startswith("*.") and wanted.partition(".")[2] == name[2:]):
            return True
    return False


def refused(chain: Sequence[x509.Certificate], code: int, reason: str, host: str) -> Finding:
    """The finding for a certificate that a client's verification refuses. `chain` is what the server sent."""
    leaf = chain[0]
    print_ = f"The fingerprint (SHA-256) is {fingerprint(leaf)}."
    if _INSPECTORS.search(issuer(leaf)):
        return intercepted(f"The certificate was issued by an inspecting device ({issuer(leaf)}).")
    if code in (EXPIRED, NOT_YET):
        return _dates(leaf, code == EXPIRED)
    if code in _WRONG_NAME:
        return wrong_name(leaf, host)
    if code == _SELF_SIGNED:
        return Finding(
            "tls.self_signed",
            "warning",
            f"The certificate is signed by itself, so that clients cannot verify it. {print_}",
            "Use a certificate of a known authority (docs/certificates.md), or compare the fingerprint on the server:"
            " if it differs, a device on the way intercepts TLS.",
            "openssl x509 -noout -fingerprint -sha256 -in /etc/ftpsd/certificate.pem",
        )
    if len(chain) == 1 and not certificate_parts.is_issued_by(leaf, leaf):
        return Finding(
            "tls.chain",
            "fault",
            f"Clients cannot verify the certificate: its issuer ({issuer(leaf)}) is unknown here, and the server sent"
            f" no intermediate certificate. {print_}",
            "Append the intermediate certificates to the file of `tls.certificate`; if the file has them and the"
            " fingerprint differs there, a device on the way intercepts TLS.",
            "cat certificate.pem intermediate.pem > /etc/ftpsd/fullchain.pem",
        )
    return Finding(
        "tls.untrusted",
        "fault",
        f"The certificate is not trusted here: issuer {issuer(leaf)} ({printable(reason)}). {print_}",
        "Compare the fingerprint on the server: if it differs, a device on the way intercepts TLS; if not, use a"
        " certificate of a known authority or give its CA with --cafile.",
        "openssl x509 -noout -fingerprint -sha256 -in /etc/ftpsd/certificate.pem",
    )


def intercepted(evidence: str) -> Finding:
    """The finding for TLS that does not end at the server."""
    return Finding(
        "tls.intercepted",
        "fault",
        f"TLS is intercepted: {evidence[0].lower()}{evidence[1:]}",
        "Exempt the server's address and its passive ports from TLS inspection on the firewall or virus scanner.",
    )


def wrong_name(leaf: x509.Certificate, host: str) -> Finding:
    """The finding for a certificate of another name."""
    listed = printable(", ".join(names(leaf))) or "no name at all"
    return Finding(
        "tls.wrong_name",
        "fault",
        f"The certificate is not for {host}: it is for {listed}.",
        "Connect with a name of the certificate, or order one with this name.",
        f"certbot certonly --standalone -d {host}",
    )


def _dates(leaf: x509.Certificate, expired: bool) -> Finding:
    ends = certificate_parts.validity(leaf)
    if ends is None:
        return damaged()
    start, stop = ends
    if expired:
        return Finding(
            "tls.expired",
            "fault",
            f"The certificate expired on {stop:%Y-%m-%d}.",
            "Renew it and reload the daemon; the deploy hook does so after each renewal (docs/certificates.md).",
            "certbot renew && systemctl reload ftpsd",
        )
    return Finding(
        "tls.not_yet_valid",
        "fault",
        f"The certificate is valid from {start:%Y-%m-%d %H:%M} UTC on, which is in the future.",
        "Set the clock of this machine and of the one that made the certificate.",
        "timedatectl set-ntp true",
    )


def damaged() -> Finding:
    """The finding for a certificate that cannot be read."""
    problem = "The certificate is damaged: parts of it cannot be read."
    cure = "Create it again; if it is whole on the server, a device on the way has changed it."
    return Finding("tls.damaged", "fault", problem, cure, "openssl x509 -noout -text -in /etc/ftpsd/certificate.pem")


def dates(leaf: x509.Certificate, now: datetime.datetime) -> list[Finding]:
    """Return findings about the dates of a certificate: expired, not yet valid, or soon to expire."""
    ends = certificate_parts.validity(leaf)
    if ends is None:
        return [damaged()]
    start, stop = ends
    if now >= stop or now < start:
        return [_dates(leaf, now >= stop)]
    days = (stop - now).days
    if days >= SOON:
        return []
    return [
        Finding(
            "tls.expires_soon",
            "warning",
            f"The certificate expires in {days} days, on {stop:%Y-%m-%d}.",
            "Renew it and reload the daemon.",
            "certbot renew && systemctl reload ftpsd",
        )
    ]


def file(
    chain: Sequence[x509.Certificate], key: PublicKeyTypes | None, name: str | None, now: datetime.datetime
) -> list[Finding]:
    """Judge a certificate file: order, key, completeness, name and dates.

    `key` is the public key that belongs to the private key, or None if it could not be read; `name` is what clients
    connect to, or None if that is not known.
    """
    encoded = None if key is None else certificate_parts.encoded(key)
    own = [each for each in chain if encoded is not None and certificate_parts.public_key(each) == encoded]
    leaf = (own or chain)[0]
    found = dates(leaf, now)
    if key is not None and not own:
        found.append(_wrong_key())
    elif leaf is not chain[0] or not all(itertools.starmap(certificate_parts.is_issued_by, itertools.pairwise(chain))):
        found.append(_wrong_order())
    elif len(chain) == 1 and not certificate_parts.is_issued_by(leaf, leaf):
        found.append(
            Finding(
                "certificate.chain",
                "fault",
                f"The file holds the server's certificate only, and no certificate of its issuer ({issuer(leaf)}): most"
                " clients cannot verify it.",
                "Append the intermediate certificates, or name the file with the full chain.",
                "cat certificate.pem intermediate.pem > /etc/ftpsd/fullchain.pem",
            )
        )
    elif certificate_parts.is_issued_by(leaf, leaf):
        problem = "The certificate is signed by itself: clients cannot verify it."
        cure = "Use a certificate of a known authority (docs/certificates.md)."
        found.append(Finding("certificate.self_signed", "note", problem, cure, "certbot certonly --standalone"))
    if name is not None and not is_for(leaf, name):
        found.append(wrong_name(leaf, name))
    return found


def _wrong_order() -> Finding:
    problem = "The certificates in the file are in the wrong order: the server's must be first, then each one's issuer."
    cure = "Write the file again, in this order."
    paste = "cat certificate.pem intermediate.pem > /etc/ftpsd/fullchain.pem"
    return Finding("certificate.order", "fault", problem, cure, paste)


def _wrong_key() -> Finding:
    problem = "The private key does not belong to the certificate."
    cure = "Name the key that the certificate was made with in `tls.private_key`."
    paste = "openssl x509 -noout -pubkey -in certificate.pem; openssl pkey -pubout -in key.pem    # must be the same"
    return Finding("certificate.key", "fault", problem, cure, paste)
