"""The settings of `ftpsd.yaml` and `users.yaml` as immutable classes, one for each section.

Each component gets only the sections that it needs. `docs/configuration.md` describes each key, and
`tests/test_documents.py` compares the keys and defaults.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime
from pathlib import Path
from typing import Literal

from attrs import Factory, frozen

from ftpsd.config.sections.admin import AdminSettings
from ftpsd.config.sections.anonymous import AnonymousSettings
from ftpsd.config.sections.events import EventsSettings
from ftpsd.config.sections.folders import FolderSettings
from ftpsd.config.sections.passive import SharedPassiveSettings
from ftpsd.config.sections.passwords import PasswordSettings
from ftpsd.config.sections.proxy import ProxySettings
from ftpsd.config.sections.quota import QuotaSettings as QuotaSettings
from ftpsd.config.sections.sources import CacheSettings, SourceSettings
from ftpsd.config.sections.storage import S3Storage, StorePlace
from ftpsd.config.sections.tls import CloseNotify, DataSession, TlsSettings
from ftpsd.config.sections.values import Quantity
from ftpsd.protocol.addresses import is_ipv4
from ftpsd.protocol.encoding.names import UTF8
from ftpsd.protocol.login_rules import Hours, LoginRules, Network
from ftpsd.protocol.name_rules import NameRules, matcher
from ftpsd.protocol.permissions import PROFILES, Permissions, mounted

#: Which other hosts than the client may be the peer of a data connection: all (True), none (False), or some networks.
ForeignData = bool | tuple[Network, ...]

EVERYWHERE: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))


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
    proxy_protocol: ProxySettings | None = None


@frozen
class NetworkOverride:
    """An exception for clients from some networks: PASV announces this address, or with None the one they reached."""

    clients: tuple[Network, ...]
    address: str | None = None


@frozen
class PassiveSettings:
    """The passive ports, and the address that PASV announces."""

    ports: PortRange = PortRange(50000, 50999)
    address: str | None = None
    refresh: int = 60
    networks: tuple[NetworkOverride, ...] = ()
    #: Whether the passive connections of sessions that came through a proxy come through it, too.
    proxy_protocol: bool = False
    #: None: each session has a port of its own.
    shared: SharedPassiveSettings | None = None

    @property
    def announces_others(self) -> bool:
        """Whether clients may be told another address than the one that they have connected to."""
        return self.address is not None or any(each.address is not None for each in self.networks)

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
    """The sources of the users: a file with many users, and a directory with one file for each user."""

    file: Path = Path("users.yaml")
    #: None: users.d beside the file, which need not exist.
    directory: Path | None = None
    #: The sources in the order in which they are asked: `file` and `directory` first, unless an entry says when.
    sources: tuple[SourceSettings, ...] = ()
    cache: CacheSettings = Factory(CacheSettings)

    @property
    def files(self) -> Path:
        """The directory of the users' files."""
        return self.directory or self.file.parent / "users.d"

    @property
    def yaml_place(self) -> int:
        """How many other sources are asked before the YAML files."""
        types = [each.type for each in self.sources]
        return types.index("yaml") if "yaml" in types else 0

    @property
    def group_files(self) -> Path:
        """The directory of the groups' files, beside that of the users' files. It need not exist."""
        return self.files.parent / "groups.d"


@frozen
class Timeouts:
    """Timeouts in seconds."""

    login: int = 60
    idle: int = 300
    data_connect: int = 30
    stalled: int = 120
    drain: int = 60
    drain_upgrade: int = 3600


@frozen
class Limits:
    """Limits of counts and of rates. Transfer rates are in bytes per second. None means no limit."""

    sessions: int = 2000
    sessions_per_address: int = 100
    sessions_per_user: int | None = None
    login_failures: int = 3
    #: Measured: a client on the same machine that waits for each reply gets 5,000 replies to SIZE, MDTM or MLST per
    #: second, and one processor can answer 150,000 cheap commands per second in a flood. The limit is twice the first.
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
    """Whether the kernel restricts the daemon to the files that it needs, and to which homes of users from sources.

    Changes take effect at the next start.
    """

    landlock: Literal["auto", "off"] = "auto"
    #: Directories below which users may have homes that are not known at the start.
    homes: tuple[Path, ...] = ()


@frozen
class BanSettings:
    """After how many failed logins a client is banned, and for how many seconds. `attempts: 0` disables bans."""

    attempts: int = 10
    window: int = 600
    duration: int = 600
    longest: int = 86_400
    #: By default the machine itself: all clients of a proxy or tunnel on it have its address.
    allow: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


@frozen
class StateSettings:
    """The directory of `state.sqlite`. None: $STATE_DIRECTORY of systemd; without that, no state survives a restart."""

    directory: Path | None = None


@frozen
class UploadSettings:
    """When uploads are written to the disk, and for how many seconds incomplete ones are kept."""

    fsync: bool = False
    keep_parts: int | None = 7 * 24 * 3600


@frozen
class LogSettings:
    """What the log shows."""

    unknown_names: Literal["hide", "show"] = "hide"


@frozen
class MetricsSettings:
    """The listener for metrics and health checks. `users`: whether there are series for each user."""

    address: str = "127.0.0.1"
    port: int = 8122
    users: bool = False


#: The number of worker processes. auto: one for each processor that the daemon may use.
WorkerCount = int | Literal["auto"]

#: The most worker processes.
MOST_WORKERS = 32


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
    passwords: PasswordSettings = Factory(PasswordSettings)
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    sandbox: SandboxSettings = SandboxSettings()
    bans: BanSettings = BanSettings()
    state: StateSettings = StateSettings()
    uploads: UploadSettings = UploadSettings()
    events: EventsSettings = Factory(EventsSettings)
    #: Whether it is a fault if others may write to a file of the configuration, or read the private key.
    file_permissions: Literal["check", "ignore"] = "check"
    log: LogSettings = LogSettings()
    admin: AdminSettings = Factory(AdminSettings)
    metrics: MetricsSettings | None = None
    anonymous: AnonymousSettings | None = None
    #: The stores in which homes and folders can be, by name.
    storage: dict[str, S3Storage] = Factory(dict)
    workers: WorkerCount = 1

    @property
    def foreign_networks(self) -> tuple[Network, ...]:
        """The networks of `foreign_data`: for true all addresses of both families."""
        if isinstance(self.foreign_data, bool):
            return EVERYWHERE if self.foreign_data else ()
        return self.foreign_data


# --- users.yaml ------------------------------------------------------------------------------------


@frozen
class UserTls:
    """Exceptions from the TLS settings for one user."""

    data_session: DataSession | None = None
    close_notify: CloseNotify | None = None


@frozen
class UserNetworks:
    """The networks from which a user may log in. An empty `allow` allows all; `deny` wins over `allow`."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()


#: A home: the path of a directory, or a place in a store.
HomePlace = str | StorePlace


class Pattern(str):
    """A shell pattern for names of files and directories. Case is ignored."""

    __slots__ = ()


class Encoding(str):
    """The encoding of names, as `ftpsd.protocol.encoding` names it."""

    __slots__ = ()


_UTF8 = Encoding(UTF8.name)


@frozen
class UserNames:
    """Patterns of names that the user cannot create (`deny`), and of names that the user cannot see (`hide`).

    `encoding` is that of the user's device.
    """

    deny: tuple[Pattern, ...] = ()
    hide: tuple[Pattern, ...] = ()
    encoding: Encoding = _UTF8


class TotpSecret(str):
    """The secret of a user's one-time passwords, in base32. It is never shown."""

    __slots__ = ()


class Fingerprint(str):
    """The SHA-256 fingerprint of a certificate, in 64 hexadecimal digits."""

    __slots__ = ()


class Umask(int):
    """Permission bits that are removed from the mode of new files and directories."""


@frozen
class UserLimits:
    """Limits of one user. `upload_rate` and `download_rate` are for all sessions of the user together."""

    sessions: int | None = None
    transfers: int | None = None
    upload_rate: Quantity | None = None
    download_rate: Quantity | None = None
    session_upload_rate: Quantity | None = None
    session_download_rate: Quantity | None = None


@frozen
class UserSettings:
    """The settings of one user, or the defaults for all users."""

    password: str | None = None
    #: The directory, or a place in a store.
    home: HomePlace | None = None
    #: The groups whose keys the user has, besides their own: later ones win.
    groups: tuple[str, ...] = ()
    permissions: frozenset[str] = PROFILES["read-write"]
    paths: dict[tuple[str, ...], frozenset[str]] = Factory(dict)
    tls: UserTls = UserTls()
    quota: QuotaSettings = Factory(QuotaSettings)
    limits: UserLimits = UserLimits()
    enabled: bool = True
    networks: UserNetworks = UserNetworks()
    expires: datetime | None = None
    hours: tuple[Hours, ...] = ()
    names: UserNames = UserNames()
    umask: Umask | None = None
    #: Directories from elsewhere, by the paths at which the user sees them.
    folders: dict[tuple[str, ...], FolderSettings] = Factory(dict)
    totp: TotpSecret | None = None
    certificates: tuple[Fingerprint, ...] = ()

    @property
    def permission_rules(self) -> Permissions:
        """The permissions in the whole tree, in the form that sessions use."""
        own = {at: each.permissions for at, each in self.folders.items() if each.permissions is not None}
        return Permissions(self.permissions, mounted(self.paths, own) if own else self.paths)

    @property
    def login_rules(self) -> LoginRules:
        """The rules that decide whether the user may log in."""
        return LoginRules(self.networks.allow, self.networks.deny, self.expires, self.hours, self.enabled)

    @property
    def name_rules(self) -> NameRules:
        """The rules for names that the user cannot create or see."""
        return NameRules(matcher(self.names.deny), matcher(self.names.hide))
