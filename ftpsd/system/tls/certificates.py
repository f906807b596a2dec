"""The server's certificates, and which one a client is shown: Certificates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from OpenSSL import crypto

from ftpsd.protocol.addresses import Address
from ftpsd.protocol.login_rules import Network
from ftpsd.system.tls import certificate_parts


@dataclass(frozen=True, eq=False)
class Identity:
    """A certificate chain, the server's own certificate first, and its private key. Both are parsed once.

    `file` is where the chain comes from. Clients that reach one of `addresses` without naming a host are shown it.
    """

    chain: tuple[crypto.X509, ...]
    key: crypto.PKey
    file: Path = Path()
    addresses: tuple[Network, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        """The host names of the certificate in lower case, wildcards included; of old ones the common name."""
        certificate = self.chain[0].to_cryptography()
        alternative = certificate_parts.alternative_names(certificate)
        if alternative is None:
            names = certificate_parts.common_names(certificate)
        else:
            names = alternative.get_values_for_type(x509.DNSName)
        return frozenset(_normal(name) for name in names)

    @cached_property
    def kind(self) -> str:
        """The kind of the key, such as RSA or EC: a context of OpenSSL has one certificate of each kind."""
        return type(self.chain[0].to_cryptography().public_key()).__name__

    @cached_property
    def expires(self) -> float | None:
        """When the certificate expires, as POSIX time in seconds; None if it does not say."""
        validity = certificate_parts.validity(self.chain[0].to_cryptography())
        return None if validity is None else validity[1].timestamp()

    def covers(self, name: str) -> bool:
        """Return whether the certificate has a name (in lower case), or a wildcard for it."""
        return name in self.names or _wildcard(name) in self.names


@dataclass(frozen=True, eq=False)
class Choice:
    """What one client is shown: one certificate, or several with keys of different kinds.

    Of several, OpenSSL takes one whose kind the client supports. The intermediate certificates are sent with each of
    them, because pyOpenSSL has no name for a chain of one certificate (RFC 8446 section 4.4.2 has clients accept that).
    """

    identities: tuple[Identity, ...]

    @cached_property
    def intermediates(self) -> tuple[crypto.X509, ...]:
        """The intermediate certificates, each one once."""
        found = {each.digest("sha256"): each for identity in self.identities for each in identity.chain[1:]}
        return tuple(found.values())


class Certificates:
    """The certificates of the server, the first one first. Immutable: a reload makes a new object."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        self.identities = tuple(identities)
        self._choices: dict[tuple[Identity, ...], Choice] = {}
        first = self.identities[0]
        self._first = self._choose([first, *(each for each in identities if all(map(each.covers, first.names)))])
        self._by_name = {name: self._covering(name) for each in self.identities for name in each.names}
        #: Whether all clients are shown the same.
        self.is_single = len(self._first.identities) == len(self.identities)

    @property
    def never_shown(self) -> list[Identity]:
        """The certificates that no client is shown: earlier ones have all of their names."""
        chosen = {each for choice in (self._first, *self._by_name.values()) for each in choice.identities}
        return [each for each in self.identities if each not in chosen and not each.addresses]

    def _choose(self, candidates: Iterable[Identity]) -> Choice:
        """Return the choice between the first candidates of each kind; the same object for the same ones."""
        kinds: dict[str, Identity] = {}
        for each in candidates:
            kinds.setdefault(each.kind, each)
        identities = tuple(kinds.values())
        return self._choices.setdefault(identities, Choice(identities))

    def _covering(self, name: str) -> Choice:
        exact = [each for each in self.identities if name in each.names]
        return self._choose(exact + [each for each in self.identities if each.covers(name)])

    def find(self, name: str) -> Choice | None:
        """Return what a client is shown that names a host; None if no certificate has that name."""
        name = _normal(name)
        return self._by_name.get(name) or self._by_name.get(_wildcard(name))

    def default(self, address: Address | None) -> Choice:
        """Return what a client is shown that names no host, or one that no certificate has.

        `address` is that of the server which the client has reached.
        """
        found = [each for each in self.identities if address and any(address in network for network in each.addresses)]
        return self._choose(found) if found else self._first


def _normal(name: str) -> str:
    return name.lower().rstrip(".")


def _wildcard(name: str) -> str:
    """Return the wildcard that stands for a name: for its first label only (RFC 6125 section 6.4.3)."""
    return f"*.{name.partition('.')[2]}"
