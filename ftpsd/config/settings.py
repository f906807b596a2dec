"""The settings, parsed, checked and frozen. A section goes to the one file that needs it.

The docstring of each class is what `docs/configuration.md` says of its keys; a test compares them.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime
from pathlib import Path
from typing import Literal, NewType

from attrs import Factory, frozen

from ftpsd.protocol.login_rules import Hours, LoginRules, Network
from ftpsd.protocol.name_rules import NameRules, matcher
from ftpsd.protocol.parsing import is_ipv4
from ftpsd.protocol.permissions import PROFILES, Permissions

DataSession = Literal["off", "allow", "require"]
CloseNotify = Literal["require", "lenient"]

#: Which hosts beside the client may be the other end of a data connection: all, none, or those of some networks.
ForeignData = bool | tuple[Network, ...]

EVERYWHERE: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))

#: A number that may be written with K, M, G or T behind it (binary).
Quantity = NewType("Quantity", int)


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
    close_notify: CloseNotify = "require"


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

    @property
    def host_names(self) -> list[str]:
        """The host names among the configured addresses, which have to be looked up."""
        addresses = [self.address, *(network.address for network in self.networks)]
        return [each for each in addresses if each is not None and not is_ipv4(each)]


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
    """How many, and how fast: rates of transfers in bytes per second. None: no limit."""

    sessions: int = 2000
    sessions_per_address: int = 100
    sessions_per_user: int | None = None
    login_failures: int = 3
    #: Twice what a client on the same machine gets answered of SIZE, MDTM or MLST, one after another, and a fraction
    #: of what the core answers of cheap ones in a flood (measured: 5,000 and 150,000). PWD alone can be faster, for
    #: as long as the burst of 20,000 lasts.
    commands_per_second: int | None = 10_000
    commands_per_second_before_login: int | None = 100
    transfers: int | None = None
    transfers_per_user: int | None = None
    upload_rate: Quantity | None = None
    download_rate: Quantity | None = None
    session_upload_rate: Quantity | None = None
    session_download_rate: Quantity | None = None


@frozen
class SandboxSettings:
    """What the kernel is asked to keep from the daemon; counts from the next start on."""

    landlock: Literal["auto", "off"] = "auto"


@frozen
class BanSettings:
    """When failed logins are answered with a ban, and for how long. Seconds; `attempts: 0` bans nobody."""

    attempts: int = 10
    window: int = 600
    duration: int = 600
    longest: int = 86_400
    #: The machine itself, by default: a proxy or a tunnel that ends here gives its address to all its clients.
    allow: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


@frozen
class StateSettings:
    """Where `state.sqlite` is; null: where systemd says, else nothing survives a restart."""

    directory: Path | None = None


@frozen
class UploadSettings:
    """What uploads leave on the disk."""

    fsync: bool = False
    keep_parts: int | None = 7 * 24 * 3600


@frozen
class LogSettings:
    """What the log shows."""

    unknown_names: Literal["hide", "show"] = "hide"


@frozen
class Settings:
    """The whole of `ftpsd.yaml`."""

    listen: tuple[ListenSettings, ...]
    tls: TlsSettings
    banner: str = "ftpsd ready."
    passive: PassiveSettings = PassiveSettings()
    active: ActiveSettings = ActiveSettings()
    foreign_data: ForeignData = False
    users: UsersSettings = UsersSettings()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    sandbox: SandboxSettings = SandboxSettings()
    bans: BanSettings = BanSettings()
    state: StateSettings = StateSettings()
    uploads: UploadSettings = UploadSettings()
    #: Whether a file that others may write, or a private key that they may read, is a fault.
    file_permissions: Literal["check", "ignore"] = "check"
    log: LogSettings = LogSettings()

    @property
    def foreign_networks(self) -> tuple[Network, ...]:
        """The networks of `foreign_data`; the whole of both families for true."""
        if isinstance(self.foreign_data, bool):
            return EVERYWHERE if self.foreign_data else ()
        return self.foreign_data


# --- users.yaml ------------------------------------------------------------------------------------


@frozen
class UserTls:
    """Exceptions from the TLS settings."""

    data_session: DataSession | None = None
    close_notify: CloseNotify | None = None


@frozen
class UserNetworks:
    """Where a user may come from: nothing in `allow` is everywhere, and `deny` wins."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()


class Pattern(str):
    """A shell pattern for the name of a file or directory, in whatever case."""

    __slots__ = ()


@frozen
class UserNames:
    """Names that cannot be given (`deny`), and names that are not there for the user (`hide`)."""

    deny: tuple[Pattern, ...] = ()
    hide: tuple[Pattern, ...] = ()


class Umask(int):
    """Permission bits that new files and directories do not get."""


@frozen
class QuotaSettings:
    """What the tree below a user's home may hold; null: anything."""

    bytes: Quantity | None = None
    files: int | None = None


@frozen
class UserLimits:
    """Limits of a user instead of the general ones; the first two rates are for all sessions of the user together."""

    sessions: int | None = None
    transfers: int | None = None
    upload_rate: Quantity | None = None
    download_rate: Quantity | None = None
    session_upload_rate: Quantity | None = None
    session_download_rate: Quantity | None = None


@frozen
class UserSettings:
    """One user, or the defaults for all."""

    password: str | None = None
    home: str | None = None
    permissions: frozenset[str] = PROFILES["read-write"]
    paths: dict[tuple[str, ...], frozenset[str]] = Factory(dict)
    tls: UserTls = UserTls()
    quota: QuotaSettings = QuotaSettings()
    limits: UserLimits = UserLimits()
    enabled: bool = True
    networks: UserNetworks = UserNetworks()
    expires: datetime | None = None
    hours: tuple[Hours, ...] = ()
    names: UserNames = UserNames()
    umask: Umask | None = None

    @property
    def permission_rules(self) -> Permissions:
        """The permissions, as the session asks for them."""
        return Permissions(self.permissions, self.paths)

    @property
    def login_rules(self) -> LoginRules:
        """Who may come in as this user."""
        return LoginRules(self.networks.allow, self.networks.deny, self.expires, self.hours, self.enabled)

    @property
    def name_rules(self) -> NameRules:
        """Which names the user may not give, and does not see."""
        return NameRules(matcher(self.names.deny), matcher(self.names.hide))
