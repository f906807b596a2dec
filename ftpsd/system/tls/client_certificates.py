"""Certificates of clients: ClientVerifier verifies them in the handshake, ClientCertificate is what one says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from OpenSSL import SSL, crypto

from ftpsd.system.tls import certificate_parts
from ftpsd.system.tls.private import share_store

#: Which part of a certificate names its user.
NameSource = Literal["cn", "email", "uri", "fingerprint"]

#: The most certificates between a client's and its authority.
_DEEPEST = 8

#: The most bytes of the names of authorities that are sent to clients. A certificate of a bundle with all authorities
#: of the web would not fit into a handshake message, and clients then need no hint.
_MOST_NAMES = 16 * 1024

#: OpenSSL's error for an issuer without a revocation list (x509_vfy.h).
_NO_CRL = 3

#: What the log says for OpenSSL's errors.
_PROBLEMS = {
    2: "the authority above it is missing in tls.client_certificates.ca",
    _NO_CRL: "tls.client_certificates.crl has no list of its issuer",
    8: "the revocation list of its issuer is not signed by it",
    9: "it is not valid yet",
    10: "it has expired",
    11: "the revocation list of its issuer is not valid yet",
    12: "the revocation list of its issuer has expired",
    18: "no authority in tls.client_certificates.ca has signed it",
    19: "no authority in tls.client_certificates.ca has signed it",
    20: "no authority in tls.client_certificates.ca has signed it, or an intermediate certificate is missing",
    21: "no authority in tls.client_certificates.ca has signed it, or an intermediate certificate is missing",
    22: "its chain is too long",
    23: "it has been revoked",
    26: "it is not for clients (extendedKeyUsage)",
    79: "it is not an authority's, and has signed another one",
}


class InvalidCertificate(SSL.Error):
    """The certificate that a client has shown, or one in its chain, cannot be accepted."""

    def __init__(self, certificate: crypto.X509, error: int) -> None:
        problem = _PROBLEMS.get(error, f"OpenSSL's error {error}")
        subject = subject_of(certificate_parts.parse(certificate))
        super().__init__([("ftpsd", "", f"the client certificate {subject} is refused: {problem}")])


class ClientVerifier:
    """Verifies the certificates of clients: signed by an authority, for clients, valid now, and not revoked.

    Without revocation lists nothing is revoked. With lists, one of each issuer is needed, and it must be valid: a list
    that is missing or has expired refuses all certificates of that issuer. A certificate that stands among the
    authorities needs no list.
    """

    def __init__(
        self,
        source: NameSource,
        authorities: Sequence[crypto.X509],
        revocations: Sequence[x509.CertificateRevocationList] = (),
    ) -> None:
        #: Which part of a certificate names its user.
        self.source = source
        self.authorities = tuple(authorities)
        self.revocations = tuple(revocations)
        self._attach_store = share_store(self.authorities, self.revocations)
        self._trusted = {each.digest("sha256") for each in authorities}
        #: Differs for verifiers that accept different certificates.
        self.identity = (source, frozenset(self._trusted), frozenset(each.signature for each in revocations))
        names = sum(certificate_parts.subject_size(each.to_cryptography()) for each in authorities)
        self._named = self.authorities if names <= _MOST_NAMES else ()

    def attach(self, context: SSL.Context) -> None:
        """Let a context ask clients for a certificate, and verify it. A client may have none."""
        self._attach_store(context)
        for each in self._named:
            context.add_client_ca(each)
        context.set_verify_depth(_DEEPEST)
        context.set_verify(SSL.VERIFY_PEER, self._check)

    def _check(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, valid: int) -> bool:
        if not valid and not (error == _NO_CRL and certificate.digest("sha256") in self._trusted):
            # Not raised: after a change of the context by SNI, pyOpenSSL would raise it in the next handshake.
            connection.set_app_data(InvalidCertificate(certificate, error))
            return False
        return True


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The verified certificate of a client. `names` are the user names in it; by a fingerprint it has none."""

    subject: str
    #: SHA-256 of the certificate, in hexadecimal digits.
    fingerprint: str
    source: NameSource
    names: tuple[str, ...] = ()

    def is_for(self, user: str, fingerprints: Sequence[str]) -> bool:
        """Return whether it is the certificate of a user with these fingerprints, of which a user may have none."""
        if self.source != "fingerprint" and not self.names_exactly(user):
            return False
        return self.fingerprint in fingerprints or not (fingerprints or self.source == "fingerprint")

    def names_exactly(self, user: str) -> bool:
        """Return whether a name stands in it as it is spelled here."""
        return _normal(user, self.source) in self.names

    def may_be_for(self, user: str) -> bool:
        """Return whether it could be that of a user, by the name that a client has sent."""
        return self.source == "fingerprint" or user.casefold() in (name.casefold() for name in self.names)


def refusal_of(connection: SSL.Connection) -> InvalidCertificate | None:
    """Return why the certificate of the client was refused in the handshake; None if it was not."""
    refusal = connection.get_app_data()
    return refusal if isinstance(refusal, InvalidCertificate) else None


def client_certificate(connection: SSL.Connection, source: NameSource) -> ClientCertificate | None:
    """Return the certificate that the client has shown in its handshake, or in the one that was resumed."""
    certificate = connection.get_peer_certificate()
    return None if certificate is None else read_certificate(certificate, source)


def read_certificate(certificate: crypto.X509, source: NameSource) -> ClientCertificate:
    """Return what a certificate says of its user."""
    parsed = certificate_parts.parse(certificate)
    names = () if parsed is None else tuple(_normal(name, source) for name in _names(parsed, source))
    return ClientCertificate(subject_of(parsed), _fingerprint(certificate), source, names)


def peer_fingerprint(connection: SSL.Connection) -> str | None:
    """Return the SHA-256 fingerprint of the peer's certificate in hexadecimal digits; None if it has shown none."""
    certificate = connection.get_peer_certificate()
    return None if certificate is None else _fingerprint(certificate)


def _fingerprint(certificate: crypto.X509) -> str:
    return certificate.digest("sha256").decode().replace(":", "").lower()


def subject_of(certificate: x509.Certificate | None) -> str:
    """Return the subject, as in RFC 4514, for the log. `certificate` is None if it cannot be read."""
    if certificate is None:
        return "that cannot be read"
    name = certificate_parts.subject(certificate)
    return "with a subject that cannot be read" if name is None else certificate_parts.text(name) or "without a subject"


def _names(certificate: x509.Certificate, source: NameSource) -> list[str]:
    """Return the user names of a certificate. Several are allowed: the authority has signed each."""
    if source == "cn":
        return certificate_parts.common_names(certificate)
    names = None if source == "fingerprint" else certificate_parts.alternative_names(certificate)
    if names is None:
        return []
    if source == "email":
        return list(names.get_values_for_type(x509.RFC822Name))
    return [_last_part(each) for each in names.get_values_for_type(x509.UniformResourceIdentifier)]


def _last_part(uri: str) -> str:
    """Return what follows the last / or : of a URI, since user names have no /."""
    return uri[max(uri.rfind("/"), uri.rfind(":")) + 1 :]


def _normal(name: str, source: NameSource) -> str:
    """Return a name as it is compared. Case matters, but not in the domain of an address (RFC 5280 section 7.5)."""
    if source != "email":
        return name
    local, at, domain = name.rpartition("@")
    return f"{local}{at}{domain.lower()}"
