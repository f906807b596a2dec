"""Load a complete configuration: both YAML files and the certificate. All faults are reported together."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Mapping, Sequence, Set
from functools import cached_property, partial
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred

from ftpsd.accounts.sources.source import ConfiguredSource
from ftpsd.accounts.user_store import User
from ftpsd.accounts.yaml_store import YamlUserStore
from ftpsd.config import checks, modes, rule_checks
from ftpsd.config.anonymous import load_anonymous
from ftpsd.config.convert import structure
from ftpsd.config.disk_watch import DiskWatch, in_own_thread, watched
from ftpsd.config.faults import ConfigurationWarning, InvalidConfiguration
from ftpsd.config.sections.passwords import PasswordSettings
from ftpsd.config.sections.storage import ConfiguredStore
from ftpsd.config.settings import Settings
from ftpsd.config.sources import make_sources, source_warnings
from ftpsd.config.stores import load as stores
from ftpsd.config.tls import certificates, client_certificates
from ftpsd.config.users.directory import ExposedFile, UserFiles
from ftpsd.config.users.layers import Layers
from ftpsd.config.users.loader import load_users
from ftpsd.config.users.records import RecordBuilder
from ftpsd.config.yaml import Document, read
from ftpsd.limits.member_homes import MOST_SHARED
from ftpsd.protocol.printable import printable
from ftpsd.system.memory.garbage import no_full_collections
from ftpsd.system.memory.large import LargeSet
from ftpsd.system.reactor import CallsFromThreads
from ftpsd.system.tls.contexts import ContextMaker

#: The configuration of the daemon and of the command `ftpsd`, unless an option names another one.
DEFAULT = "/etc/ftpsd/ftpsd.yaml"

#: The most names of users in a warning.
_MOST_NAMES = 5

#: Days before its end from which on a certificate is worth a warning.
EXPIRES_SOON = 14


@attrs.frozen(slots=False)
class Configuration:
    """A complete configuration. Nothing in it has to be looked up or parsed again."""

    settings: Settings
    users: YamlUserStore
    contexts: ContextMaker
    #: The IPv4 addresses of the host names in `passive`, as they were resolved during the load.
    addresses: dict[str, str]
    #: Files of users that others than their owner may change or read.
    exposed: Sequence[ExposedFile] = ()
    #: The defaults and groups of the YAML files, which hold for users of other sources, too.
    layers: Layers = attrs.Factory(Layers)
    #: The sources other than the YAML files, in the order in which they are asked.
    sources: Sequence[ConfiguredSource] = ()
    #: The user of anonymous logins; None if there are none.
    anonymous: User | None = None
    #: The stores in which homes and folders can be.
    stores: Sequence[ConfiguredStore] = ()

    @cached_property
    def builder(self) -> RecordBuilder:
        """What builds the settings of users whom other sources know."""
        settings = self.settings
        base, resumption = settings.users.file.parent, settings.tls.data_session != "off"
        homes = {*self.users.homes.parents, *map(os.path.realpath, settings.sandbox.homes)}
        public = None if self.anonymous is None else self.anonymous.settings.home
        counted, names = self.users.homes.with_quota, settings.storage.keys()
        return RecordBuilder(base, self.layers, resumption, homes, public, counted, names)

    @cached_property
    def warnings(self) -> Sequence[ConfigurationWarning]:
        """What works but should be changed. It is found when it is first asked for, and that blocks."""
        return warnings(self, time.time())


def load(
    path: str | os.PathLike[str], changes: Mapping[str, bytes | None] | None = None, warn: bool = False
) -> Configuration:
    """Return the configuration that `ftpsd.yaml` at a path describes. Blocks.

    With `changes`, some files of users have other contents (see `UserFiles`). With `warn`, the warnings are found, too.
    Raises InvalidConfiguration with all faults of all files.
    """
    return watched(partial(_load, Path(os.path.abspath(path)), changes, warn))


def reload(reactor: CallsFromThreads, path: str, warn: bool = False) -> Deferred[Configuration]:
    """Load the configuration of a daemon that has sessions, in a thread of its own.

    With `warn`, its warnings are found there, too. The Deferred fails with InvalidConfiguration if there are faults.
    """

    def run() -> Configuration:
        with no_full_collections():
            return load(path, warn=warn)

    return in_own_thread(reactor, run)


def _load(path: Path, changes: Mapping[str, bytes | None] | None, warn: bool, watch: DiskWatch) -> Configuration:
    watch.begin(Document(path), (), path)
    main = read(path)
    watch.end()
    settings = _settings(main)
    if settings is None:
        raise InvalidConfiguration(main.faults)
    checks.check(main, settings)
    addresses = _resolve_names(main, settings)
    watch.begin(main, ("tls", "certificate"), settings.tls.certificate)
    contexts = certificates.load(main, settings, client_certificates.load(main, settings))
    if settings.file_permissions == "check":
        modes.check(main, settings)
    watch.end()
    _check_directory(main, settings)
    files = UserFiles(settings.users.files, watch, changes)
    groups = UserFiles(settings.users.group_files, watch, kind="group")
    places = stores.load_stores(main, settings)
    resumption = settings.tls.data_session != "off"
    found = load_users(settings.users.file, resumption, watch, files, groups, settings.storage.keys())
    if settings.file_permissions == "check":
        for directory in (files, groups):
            modes.check_user_files(main, directory)
    if settings.workers != 1 and found.store is not None:
        _check_group_homes(main, found.store.homes.of_groups)
    user = load_anonymous(main, settings, found, watch)
    sources = make_sources(main, settings, found.layers.groups)
    if main.faults or found.faults or contexts is None or found.store is None:
        raise InvalidConfiguration([*main.faults, *found.faults])
    loaded = Configuration(
        settings, found.store, contexts, addresses, files.exposed, found.layers, sources, user, places
    )
    if warn:
        watch.begin(main, (), path)
        _ = loaded.warnings
        watch.end()
    return loaded


def _check_directory(main: Document, settings: Settings) -> None:
    """Add a fault if the directory that the file names is missing: its users would be gone without a word."""
    directory = settings.users.directory
    if directory is not None and not directory.exists():
        remedy = f"Create it: install -d -m 0750 {directory}"
        main.fault(("users", "directory"), f"{directory} is not a directory", remedy)


def _check_group_homes(main: Document, groups: Mapping[str, Set[str]]) -> None:
    """Add a fault if groups with a quota have more homes than worker processes can count together."""
    if sum(map(len, groups.values())) <= MOST_SHARED:
        return
    homes: LargeSet[str] = LargeSet()
    for members in groups.values():
        for home in members:  # one by one: a union of sets would stop the sessions
            homes.add(home)
    if len(homes) > MOST_SHARED:
        problem = f"groups with a shared quota have {len(homes)} homes, and workers can count {MOST_SHARED} together"
        main.fault(("workers",), problem, "Write workers: 1, or give shared quotas to smaller groups only.")


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """Return the settings alone, for a command that needs neither users nor certificate.

    Raises InvalidConfiguration.
    """
    main = read(Path(os.path.abspath(path)))
    settings = _settings(main)
    if settings is None:  # unknown keys do not matter here
        raise InvalidConfiguration(main.faults)
    return settings


def load_passwords(path: str | os.PathLike[str]) -> PasswordSettings:
    """Return what a new password hash costs, whatever faults other sections have. Raises InvalidConfiguration."""
    main = read(Path(os.path.abspath(path)))
    settings = _settings(main)
    if settings is None:
        raise InvalidConfiguration(main.faults)
    others = len(main.faults)
    checks.check_passwords(main, settings.passwords)
    if len(main.faults) > others:
        raise InvalidConfiguration(main.faults[others:])
    return settings.passwords


def load_rules(path: str | os.PathLike[str]) -> Settings:
    """Return the settings with rules for events that can be used, for `ftpsd deliver`. Blocks.

    Raises InvalidConfiguration.
    """
    main = read(Path(os.path.abspath(path)))
    settings = _settings(main)
    if settings is not None:
        rule_checks.check(main, settings)
    if settings is None or main.faults:
        raise InvalidConfiguration(main.faults)
    return settings


def _settings(main: Document) -> Settings | None:
    if not main.faults and main.value is None:
        main.fault((), "the file is empty", "Start from the example in etc/ftpsd.yaml.")
    settings = None if main.value is None else structure(main, main.value, Settings)
    if settings is None:
        return None
    file = main.path.parent / settings.users.file  # the default is relative, too
    return attrs.evolve(settings, users=attrs.evolve(settings.users, file=file))


# --- host names ------------------------------------------------------------------------------------


def resolve(name: str) -> str:
    """Return the IPv4 address of a host name. Blocks. Raises OSError if there is none."""
    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return str(found[0][4][0])


def _resolve_names(document: Document, settings: Settings) -> dict[str, str]:
    addresses = {}
    for name in settings.passive.host_names:
        try:
            addresses[name] = resolve(name)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            remedy = "Correct the name, or write the IPv4 address."
            document.fault(("passive", "address"), f"{name} has no IPv4 address ({reason})", remedy)
    return addresses


# --- warnings --------------------------------------------------------------------------------------


def warnings(configuration: Configuration, now: float) -> list[ConfigurationWarning]:
    """Return what works but should be changed, or will soon stop working. `now` is POSIX time."""
    settings = configuration.settings
    permissions = modes.warnings(settings, configuration.exposed) if settings.file_permissions == "check" else []
    weak = certificates.cipher_warnings(configuration.contexts.suites()) if settings.tls.ciphers else []
    verifier = configuration.contexts.clients
    clients = [
        *client_certificates.warnings(verifier, now),
        *client_certificates.of_users(verifier, configuration.users.users),
    ]
    files = [*_exposed_hashes(configuration), *_exposed_event_files(configuration)]
    weak += _weak_hashes(configuration.users.users.weak)
    files += [*source_warnings(settings), *stores.warnings(settings), *rule_checks.warnings(settings)]
    return [*files, *_open_page(configuration), *_certificates(configuration, now), *permissions, *weak, *clients]


def _weak_hashes(names: Sequence[str]) -> list[ConfigurationWarning]:
    if not names:
        return []
    shown = ", ".join(map(printable, names[:_MOST_NAMES]))
    more = f" and {len(names) - _MOST_NAMES} others" if len(names) > _MOST_NAMES else ""
    problem = f"the hashes of {shown}{more} have no salt ({{SHA}}), so that tables of passwords break them"
    return [ConfigurationWarning(("users",), problem, "give new passwords with `ftpsd user passwd`")]


def _exposed_hashes(configuration: Configuration) -> list[ConfigurationWarning]:
    users, homes = configuration.settings.users, configuration.users.homes.all
    # An empty directory counts, too: the next user has a file there.
    places = [(("users", "file"), users.file), (("users", "directory"), users.files / "NAME.yaml")]
    found = {}
    for key, path in reversed(places):  # a home that contains both is named once, with the file
        for home in map(str, Path(os.path.realpath(path)).parents):
            if home in homes:
                problem = f"the home {home} contains {path}, with the hashes of all passwords"
                found[home] = ConfigurationWarning(key, problem, "choose another home")
    return list(found.values())


def _exposed_event_files(configuration: Configuration) -> list[ConfigurationWarning]:
    events, homes = configuration.settings.events, configuration.users.homes.all
    return [
        ConfigurationWarning(("events", name), f"the home {home} contains {file}", "choose another directory")
        for name, file in (("audit", events.audit), ("xferlog", events.xferlog))
        if file is not None
        for home in map(str, Path(os.path.realpath(file)).parents)
        if home in homes
    ]


def _open_page(configuration: Configuration) -> list[ConfigurationWarning]:
    page = configuration.settings.admin.page
    if page is None or ipaddress.ip_address(page.address).is_loopback:
        return []
    problem = f"the page at {page.address} is not encrypted"
    remedy = "write 127.0.0.1, and reach it through ssh or a web server with TLS"
    return [ConfigurationWarning(("admin", "page", "address"), problem, remedy)]


def _certificates(configuration: Configuration, now: float) -> list[ConfigurationWarning]:
    found = []
    pairs = zip(configuration.settings.tls.pairs, configuration.contexts.certificates.identities, strict=True)
    for (key, pair), identity in pairs:
        days = None if identity.expires is None else int((identity.expires - now) // 86_400)
        if days is not None and days < EXPIRES_SOON:
            ends = (
                f"expires in {days} days" if days >= 0 else "has expired, and clients that verify it refuse to connect"
            )
            problem = f"the certificate {pair.certificate} {ends}"
            found.append(ConfigurationWarning((*key, "certificate"), problem, "renew it"))
        if identity in configuration.contexts.certificates.never_shown:
            problem = f"no client is shown the certificate {pair.certificate}, since earlier ones have its names"
            found.append(ConfigurationWarning((*key, "certificate"), problem, "remove it, or add addresses"))
    return found
