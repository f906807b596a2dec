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


#: One file, or several.
Files = Path | tuple[Path, ...]


@frozen
class ClientCertificateSettings:
    """Whether clients need certificates, and what one is worth.

    `ca` and `crl` are the authorities that sign them and the lists of those that were revoked. `map` is the part of a
    certificate that names its user.
    """

    ca: Path
    crl: Files = ()
    mode: Literal["off", "optional", "required"] = "optional"
    login: Literal["password", "certificate", "both"] = "certificate"
    map: Literal["cn", "email", "uri", "fingerprint"] = "cn"

    @property
    def crl_files(self) -> tuple[Path, ...]:
        """The files with revocation lists."""
        return (self.crl,) if isinstance(self.crl, Path) else self.crl


@frozen
class TlsSettings:
    """The certificates with their private keys, and the requirements for TLS."""

    certificate: Path
    private_key: Path | None = None
    certificates: tuple[CertificateSettings, ...] = ()
    client_certificates: ClientCertificateSettings | None = None
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None
    require: RequireSettings = RequireSettings()
    data_session: DataSession = "require"
    close_notify: CloseNotify = "require"

    @property
    def clients(self) -> ClientCertificateSettings | None:
        """The settings for certificates of clients; None if clients are not asked for any."""
        settings = self.client_certificates
        return None if settings is None or settings.mode == "off" else settings

    @property
    def pairs(self) -> list[tuple[tuple[str | int, ...], CertificateSettings]]:
        """All certificates, the first one first, each with the key at which its settings stand."""
        first = CertificateSettings(self.certificate, self.private_key)
        return [(("tls",), first), *((("tls", "certificates", i), each) for i, each in enumerate(self.certificates))]
