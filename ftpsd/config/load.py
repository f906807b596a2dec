"""Both YAML files to a configuration that can be used: what only the whole can tell. Every fault at once."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from functools import partial
from pathlib import Path

import attrs

from ftpsd.accounts.yaml_store import YamlUserStore
from ftpsd.config import certificates, modes, suites
from ftpsd.config.convert import structure, told
from ftpsd.config.settings import ListenSettings, Settings
from ftpsd.config.users_file import check_limits, load_users
from ftpsd.config.waiting import Waiting, watched
from ftpsd.config.yaml import Document, Fault, Faulty, Key, read
from ftpsd.protocol.parsing import timestamp
from ftpsd.system.tls import ContextMaker

#: Where the daemon and `ftpsd check` look when nothing is said.
DEFAULT = "/etc/ftpsd/ftpsd.yaml"

#: Days before its end at which a certificate is worth a warning.
EXPIRES_SOON = 14


# --- ftpsd.yaml ------------------------------------------------------------------------------------


@attrs.frozen
class Configuration:
    """A complete set: nothing in it has to be looked up or parsed again."""

    settings: Settings
    users: YamlUserStore
    contexts: ContextMaker
    #: What the host names of `passive` were when they were looked up for this set.
    addresses: dict[str, str]


def load(path: str | os.PathLike[str]) -> Configuration:
    """Everything that both files and the certificate say, or `Faulty` with all that is wrong."""
    return watched(partial(_load, Path(os.path.abspath(path))))


def _load(path: Path, waiting: Waiting) -> Configuration:
    waiting.begin(Document(path), (), path)
    main = read(path)
    waiting.end()
    if not main.faults and main.value is None:
        main.fault((), "the file is empty", "Start from the example in etc/ftpsd.yaml.")
    settings = None if main.value is None else structure(main, main.value, Settings)
    contexts, users, faults = None, None, main.faults
    addresses: dict[str, str] = {}
    if settings is not None:
        file = main.path.parent / settings.users.file  # the default is relative, too
        settings = attrs.evolve(settings, users=attrs.evolve(settings.users, file=file))
        _check_listeners(main, settings)
        _check_address(main, settings)
        check_limits(main, settings.limits, ("limits",))
        _check_bans(main, settings)
        _check_state(main, settings)
        addresses = _look_up_names(main, settings)
        waiting.begin(main, ("tls", "certificate"), settings.tls.certificate)
        contexts = certificates.load(main, settings)
        if settings.file_permissions == "check":
            modes.check(main, settings)
        waiting.end()
        users, users_faults = load_users(settings.users.file, settings.tls.data_session != "off", waiting)
        faults = [*faults, *users_faults]
    if faults or settings is None or contexts is None or users is None:
        raise Faulty(faults)
    return Configuration(settings, users, contexts, addresses)


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """What `ftpsd.yaml` says, for a command that needs neither users nor certificate; or `Faulty`."""
    main = read(Path(os.path.abspath(path)))
    settings = None if main.value is None else structure(main, main.value, Settings)
    if settings is None:
        raise Faulty(main.faults or [Fault(str(main.path), 0, "", "the file is empty", "Start from etc/ftpsd.yaml.")])
    return settings


def warnings(configuration: Configuration, now: float) -> list[str]:
    """What works and should not, or will not for long. `now` is POSIX time."""
    settings = configuration.settings
    read = modes.warnings(settings) if settings.file_permissions == "check" else []
    weak = suites.warnings(configuration.contexts.suites()) if settings.tls.ciphers else []
    return [*_open_homes(configuration), *_old_certificate(configuration, now), *read, *weak]


def _open_homes(configuration: Configuration) -> list[str]:
    file = os.path.realpath(configuration.settings.users.file)
    homes = configuration.users.homes.all
    return [
        f"the home {home} holds {file}, with the hashes of all passwords: choose another home"
        for home in map(str, Path(file).parents)
        if home in homes
    ]


def _old_certificate(configuration: Configuration, now: float) -> list[str]:
    ends = configuration.contexts.identity.chain[0].get_notAfter()
    if ends is None:
        return []
    days = int((timestamp(ends.decode().rstrip("Z")) - now) // 86_400)
    path = configuration.settings.tls.certificate
    if days < 0:
        return [f"the certificate {path} has expired: clients that verify it refuse to connect"]
    return [f"the certificate {path} ends in {days} days: renew it"] if days < EXPIRES_SOON else []


def absolute(path: str) -> str:
    """The path as it must be remembered: twistd changes the directory when it goes to the background."""
    return os.path.abspath(path)


def look_up(name: str) -> str:
    """The IPv4 address of a host name. Blocks; OSError when there is none."""
    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return str(found[0][4][0])


def _look_up_names(document: Document, settings: Settings) -> dict[str, str]:
    addresses = {}
    for name in settings.passive.host_names:
        try:
            addresses[name] = look_up(name)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            remedy = "Correct the name, or write the IPv4 address."
            document.fault(("passive", "address"), f"{name} has no IPv4 address ({reason})", remedy)
    return addresses


def _check_listeners(document: Document, settings: Settings) -> None:
    if not settings.listen:
        document.fault(("listen",), "is empty", 'Add an entry, as {address: "::", port: 21}.')
    seen: dict[tuple[str, int], int] = {}
    for index, listener in enumerate(settings.listen):
        key: Key = ("listen", index)
        _check_listener(document, settings, listener, key)
        first = seen.setdefault((listener.address, listener.port), index)
        if first != index and listener.port:
            document.fault(key, f"listens where listen[{first}] does", "Choose another port.")


def _check_listener(document: Document, settings: Settings, listener: ListenSettings, key: Key) -> None:
    try:
        ipaddress.ip_address(listener.address)
    except ValueError:
        problem = f"{told(listener.address)} is not an address"
        document.fault((*key, "address"), problem, 'Write "::" for all, or an address of this machine.')
    if listener.port > 65535:
        document.fault((*key, "port"), f"{listener.port} is not a port", "Write a number up to 65535.")
    if listener.port in settings.passive.ports:
        document.fault(
            ("passive", "ports"),
            f"the range {settings.passive.ports} holds the listener's port {listener.port}",
            "Choose a range without it.",
        )


def _check_address(document: Document, settings: Settings) -> None:
    passive = settings.passive
    named: list[tuple[Key, str | None]] = [(("passive", "address"), passive.address)]
    named += [(("passive", "networks", n, "address"), each.address) for n, each in enumerate(passive.networks)]
    for key, address in named:
        if address is None:
            continue
        try:
            if ipaddress.ip_address(address).version != 4:
                document.fault(key, f"{address} is no IPv4 address", "PASV can tell IPv4 only; EPSV needs no address.")
        except ValueError:
            if not re.fullmatch(r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?", address) or (
                re.fullmatch(r"[0-9.]+", address)
            ):
                document.fault(
                    key,
                    f"{told(address)} is neither an IPv4 address nor a host name",
                    "Write one of the two, or null.",
                )
    port = settings.active.source_port
    if port is not None and not 1 <= port <= 65535:
        document.fault(("active", "source_port"), f"{port} is not a port", "Write a number up to 65535, or null.")
    for name in ("login", "idle", "data_connect", "stalled", "drain"):
        if getattr(settings.timeouts, name) < 1:
            document.fault(
                ("timeouts", name),
                "must be at least one second",
                "Every wait has an end: write a number from 1.",
            )
    if passive.refresh < 1:
        document.fault(("passive", "refresh"), "must be at least one second", "Write a number from 1.")


def _check_bans(document: Document, settings: Settings) -> None:
    bans = settings.bans
    for name in ("window", "duration"):
        if getattr(bans, name) < 1:
            document.fault(("bans", name), "must be at least one second", "Write a number from 1.")
    if bans.longest < bans.duration:
        problem = f"is less than duration ({bans.duration})"
        document.fault(("bans", "longest"), problem, "A ban only grows: write as much or more.")


def _check_state(document: Document, settings: Settings) -> None:
    directory = settings.state.directory
    if directory is not None and not os.path.isdir(directory):
        remedy = f"Create it: install -d -m 0700 {directory}"
        document.fault(("state", "directory"), f"{directory} is not a directory", remedy)
