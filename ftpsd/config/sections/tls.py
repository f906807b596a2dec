"""The section `tls`: certificates, and the requirements for TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from ftpsd.protocol.login_rules import Network

DataSession = Literal["off", "allow", "require"]
CloseNotify = Literal["require", "lenient"]


@frozen
class RequireSettings:
    """Whether login and data must be encrypted."""

    login: bool = True
    data: bool = True


@frozen
class CertificateSettings:
    """A certificate with its private key. `addresses`: where clients reach the server that name no host."""

    certificate: Path
    private_key: Path | None = None
    addresses: tuple[Network, ...] = ()

    @property
    def key_file(self) -> Path:
        """The file of the private key, which may be that of the certificate."""
        return self.private_key or self.certificate

    @property
    def key_name(self) -> str:
        """The name of the setting that names this file."""
        return "private_key" if self.private_key else "certificate"


@frozen
class TlsSettings:
    """The certificates with their private keys, and the requirements for TLS."""

    certificate: Path
    private_key: Path | None = None
    certificates: tuple[CertificateSettings, ...] = ()
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None
    require: RequireSettings = RequireSettings()
    data_session: DataSession = "require"
    close_notify: CloseNotify = "require"

    @property
    def pairs(self) -> list[tuple[tuple[str | int, ...], CertificateSettings]]:
        """All certificates, the first one first, each with the key at which its settings stand."""
        first = CertificateSettings(self.certificate, self.private_key)
        return [(("tls",), first), *((("tls", "certificates", i), each) for i, each in enumerate(self.certificates))]
