"""The settings, parsed, checked and frozen. A section goes to the one file that needs it.

The docstring of each class is what `docs/configuration.md` says of its keys; a test compares them.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from attrs import Factory, frozen

from ftpsd.rights import PROFILES, Rights

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
DataSession = Literal["off", "allow", "require"]


@frozen
class PortRange:
    """Ports from `low` to `high`, both included."""

    low: int
    high: int

    def __contains__(self, port: int) -> bool:
        return self.low <= port <= self.high

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@frozen
class ListenSettings:
    """One control listener. `::` serves IPv4 as well."""

    address: str
    port: int
    tls: Literal["explicit", "implicit"] = "explicit"


@frozen
class RequireSettings:
    """Whether login and data must be encrypted."""

    login: bool = True
    data: bool = True


@frozen
class TlsSettings:
    """Certificate, key and what TLS must be like."""

    certificate: Path
    private_key: Path | None = None
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str | None = None
    require: RequireSettings = RequireSettings()
    data_session: DataSession = "require"
    close_notify: Literal["require", "lenient"] = "require"


@frozen
class NetworkOverride:
    """Clients from these networks are told another address; null: the one that they reached."""

    clients: tuple[Network, ...]
    address: str | None = None


@frozen
class PassiveSettings:
    """The passive ports, and the address that PASV announces."""

    ports: PortRange = PortRange(50000, 50999)
    address: str | None = None
    refresh: int = 60
    networks: tuple[NetworkOverride, ...] = ()


@frozen
class ActiveSettings:
    """Active mode (PORT, EPRT)."""

    enabled: bool = True
    source_port: int | None = None


@frozen
class UsersSettings:
    """Where the users are."""

    file: Path = Path("users.yaml")


@frozen
class Timeouts:
    """In seconds."""

    login: int = 60
    idle: int = 300
    data_connect: int = 30
    stalled: int = 120
    drain: int = 60


@frozen
class Limits:
    """How many."""

    sessions: int = 2000
    sessions_per_address: int = 100
    login_failures: int = 3


@frozen
class Settings:
    """The whole of `ftpsd.yaml`."""

    listen: tuple[ListenSettings, ...]
    tls: TlsSettings
    banner: str = "ftpsd ready."
    passive: PassiveSettings = PassiveSettings()
    active: ActiveSettings = ActiveSettings()
    foreign_data: bool = False
    users: UsersSettings = UsersSettings()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()


# --- users.yaml ------------------------------------------------------------------------------------


@frozen
class UserTls:
    """Exceptions from the TLS settings."""

    data_session: DataSession | None = None


@frozen
class UserSettings:
    """One user, or the defaults for all."""

    password: str | None = None
    home: str | None = None
    permissions: frozenset[str] = PROFILES["read-write"]
    paths: dict[tuple[str, ...], frozenset[str]] = Factory(dict)
    tls: UserTls = UserTls()
    enabled: bool = True

    @property
    def rights(self) -> Rights:
        """The permissions, as the session asks for them."""
        return Rights(self.permissions, self.paths)


@frozen
class UsersFile:
    """The whole of `users.yaml`: the users with the defaults worked in."""

    users: dict[str, UserSettings] = Factory(dict)
