"""Both YAML files to a configuration that can be used: what only the whole can tell. Every fault at once."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import attrs

from ftpsd import certificates, hashes, landlock
from ftpsd.rates import LEAST
from ftpsd.settings import (
    Limits,
    ListenSettings,
    Settings,
    UserLimits,
    UserSettings,
    UsersFile,
)
from ftpsd.structure import structure, told
from ftpsd.tls import ContextMaker
from ftpsd.wire import timestamp
from ftpsd.yamlfile import Document, Fault, Faulty, Key, did_you_mean, read

T = TypeVar("T")

#: Where the daemon and `ftpsd check` look when nothing is said.
DEFAULT = "/etc/ftpsd/ftpsd.yaml"

#: Seconds that the disk of a home has to answer in. systemd starts the daemon again after that, and does not give up.
ANSWERS = 15

#: Days before its end at which a certificate is worth a warning.
EXPIRES_SOON = 14


# --- ftpsd.yaml ------------------------------------------------------------------------------------


@attrs.frozen
class Configuration:
    """A complete set: nothing in it has to be looked up or parsed again."""

    settings: Settings
    users: UsersFile
    contexts: ContextMaker
    #: What the host names of `passive` were when they were looked up for this set.
    addresses: dict[str, str]


def load(path: str | os.PathLike[str]) -> Configuration:
    """Everything that both files and the certificate say, or `Faulty` with all that is wrong."""
    main = read(Path(os.path.abspath(path)))
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
        _check_limits(main, settings.limits, ("limits",))
        _check_bans(main, settings)
        _check_state(main, settings)
        addresses = _look_up_names(main, settings)
        contexts = certificates.load(main, settings)
        users, users_faults = load_users(settings.users.file, settings.tls.data_session != "off")
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
    return [*_open_homes(configuration), *_old_certificate(configuration, now)]


def _open_homes(configuration: Configuration) -> list[str]:
    file = os.path.realpath(configuration.settings.users.file)
    return [
        f"the home of {name} holds {file}, with everybody's hashes: choose another"
        for name, user in configuration.users.users.items()
        if user.home and file.startswith(user.home.rstrip("/") + "/")
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


def _check_limits(document: Document, limits: Limits | UserLimits, key: Key) -> None:
    """Nothing may be zero: with other servers that means no limit, and here it would stop everything."""
    for each in attrs.fields(attrs.resolve_types(type(limits))):
        value, least = getattr(limits, each.name), LEAST if each.name.endswith("_rate") else 1
        if value is not None and value < least:
            or_null = ", or null" if type(None) in get_args(each.type) else ""
            document.fault((*key, each.name), f"{value} is too little", f"Write a number from {least}{or_null}.")


# --- users.yaml ------------------------------------------------------------------------------------


def load_users(path: Path, resumption: bool) -> tuple[UsersFile | None, list[Fault]]:
    """The users with the defaults worked in, and what is wrong with them.

    `resumption` is whether `ftpsd.yaml` lets TLS sessions be resumed at all.
    """
    document = read(path)
    if not document.faults and document.value is None:  # what a full disk leaves of a file that is written anew
        document.fault((), "the file is empty", "Write `users: {}` if there are to be none.")
    if document.faults:
        return None, document.faults
    top = document.value if isinstance(document.value, dict) else {}
    if not isinstance(document.value, dict):
        document.fault((), "keys are expected", "Start with users:")
    for name in top:
        if name not in ("defaults", "users"):
            document.fault((name,), "is not a key that is known here", did_you_mean(name, ("defaults", "users")))
    defaults, given = ({} if top.get(key) is None else top[key] for key in ("defaults", "users"))
    structure(document, defaults, UserSettings, ("defaults",))
    if not isinstance(given, dict) or not isinstance(defaults, dict):
        document.fault(
            ("users",),
            "names are expected below this key",
            "Write each user's name with a colon, and its keys indented.",
        )
        return None, document.faults
    users = {}
    for name, values in given.items():
        user = _load_user(document, name, defaults, values)
        if user is not None:
            users[name] = user
            _check_data_session(document, name, user, resumption)
    homes = [each.get("home") for each in (defaults, *given.values()) if isinstance(each, dict)]
    return UsersFile(users, _places(path.parent, homes, users)), document.faults


def _places(base: Path, homes: Iterable[Any], users: dict[str, UserSettings]) -> frozenset[str]:
    """Where homes are: what stands before {user}, and the directory that each home lies in.

    A home is made, replaced or mounted beside others, and must be found there without a restart. Nothing
    lies beside a home that is directly below /: it stands for itself.
    """
    templates = [os.path.join(base, home) for home in homes if isinstance(home, str) and "{user}" in home]
    found = [user.home or "" for user in users.values()]
    found += [os.path.realpath(each.partition("{user}")[0] + "{user}") for each in templates]
    return frozenset(os.path.dirname(home).rstrip("/") or home for home in found)


def _check_data_session(document: Document, name: str, user: UserSettings, resumption: bool) -> None:
    if user.tls.data_session == "require" and not resumption:
        # A session's TLS begins before anybody knows who the user will be.
        document.fault(
            ("users", name, "tls", "data_session"),
            "require cannot be met: ftpsd.yaml has tls.data_session: off",
            "Write allow there, which asks nothing of the other users.",
        )


def _load_user(document: Document, name: str, defaults: dict[str, Any], values: Any) -> UserSettings | None:
    key: Key = ("users", name)
    if values is not None and not isinstance(values, dict):
        document.fault(key, "keys are expected below a user's name", "Write password: and home: indented.")
        return None
    before = len(document.faults)
    user = structure(document, _with_defaults(defaults, values or {}), UserSettings, key)
    if user is None or len(document.faults) > before:
        return None
    _check_limits(document, user.limits, (*key, "limits"))
    if user.password is None:
        document.fault((*key, "password"), "is missing", "Add the hash that `ftpsd passwd` prints.")
    elif not hashes.known(user.password):
        document.fault(
            (*key, "password"),
            "is no hash that is known here",
            "Write what `ftpsd passwd` prints, in quotes.",
        )
    if user.home is None:
        document.fault((*key, "home"), "is missing", "Add the directory that is the user's root.")
        return None
    home = document.path.parent / user.home.replace("{user}", name)
    if not user.home:
        document.fault((*key, "home"), "is empty", "Write the directory that is the user's root.")
    elif "/" in name or name in ("", ".", ".."):
        document.fault(key, "is no name for a user", "Write a name without /.")
    elif (found := _find(document, (*key, "home"), home)) is None:
        document.fault((*key, "home"), f"{home} is not a directory", f"Create it: install -d {home}")
    elif landlock.shut_out(home):
        document.fault((*key, "home"), f"{home} lies outside of the sandbox", landlock.RESTART)
    else:
        return attrs.evolve(user, home=found)
    return user


def _find(document: Document, key: Key, home: Path) -> str | None:
    """Where a home is, without links; None where there is no directory.

    A disk that does not answer ends it all: the next home may be on it, too. Its call cannot be ended: it has a thread.
    """
    found: list[str | None] = []

    def look() -> None:
        # Path.is_dir raises where the name is too long, or may not be looked at.
        found.append(os.path.realpath(home) if os.path.isdir(home) else None)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(ANSWERS)
    if not found:
        document.fault(key, f"the disk of {home} does not answer", "Wait for it, or take the user out.")
        raise Faulty(document.faults)
    return found[0]


def _with_defaults(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A user's keys over the defaults, within sections key by key: one limit does not lift the others."""
    merged = {**defaults, **values}
    for name in ("limits", "names", "networks", "quota", "tls"):
        common, own = defaults.get(name), values.get(name)
        if isinstance(common, dict) and isinstance(own, dict):
            merged[name] = {**common, **own}
    return merged
