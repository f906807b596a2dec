"""Check settings of `ftpsd.yaml` that have the right type, but cannot be used. Each problem becomes a fault."""

from __future__ import annotations

import grp
import importlib
import ipaddress
import os
import re
from pathlib import Path
from typing import get_args

import attrs

from ftpsd.config import rule_checks
from ftpsd.config.faults import Key, quoted
from ftpsd.config.sections.admin import AdminSettings, PageSettings
from ftpsd.config.sections.anonymous import AnonymousLimits
from ftpsd.config.sections.groups import SharedLimits
from ftpsd.config.sections.passwords import PasswordSettings
from ftpsd.config.settings import (
    ActiveSettings,
    Limits,
    ListenSettings,
    MetricsSettings,
    Settings,
    Timeouts,
    UserLimits,
)
from ftpsd.config.yaml import Document
from ftpsd.limits.token_bucket import MIN_BYTES

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")

#: Bytes of the path of a Unix socket (unix(7)).
_LONGEST_SOCKET = 107

#: The least and the most bytes of `passwords.memory`.
_LEAST_MEMORY, _MOST_MEMORY = 1 << 20, 1 << 30

_POSITIVE = "Write 1 or a larger number."


def check(document: Document, settings: Settings) -> None:
    """Check all settings that need neither the users nor the certificate."""
    _check_listeners(document, settings)
    _check_passive(document, settings)
    _check_proxies(document, settings)
    _check_active(document, settings.active)
    _check_timeouts(document, settings.timeouts)
    check_limits(document, settings.limits, ("limits",))
    check_passwords(document, settings.passwords)
    _check_bans(document, settings)
    _check_metrics(document, settings)
    _check_state(document, settings)
    _check_admin(document, settings.admin)
    _check_page(document, settings)
    _check_event_files(document, settings)
    rule_checks.check(document, settings)


def _check_admin(document: Document, admin: AdminSettings) -> None:
    path, key = admin.socket, ("admin", "socket")
    if path is not None and len(os.fsencode(path)) > _LONGEST_SOCKET:
        problem = f"{path} is too long for a socket"
        document.fault(key, problem, f"Choose a path of at most {_LONGEST_SOCKET} bytes, as /run/ftpsd/admin.sock.")
    elif path is not None and not path.parent.is_dir():
        document.fault(key, f"{path.parent} is not a directory", f"Create it: install -d -m 0750 {path.parent}")
    if admin.group is not None:
        try:
            grp.getgrnam(admin.group)
        except (KeyError, ValueError):
            remedy = f"Create it: addgroup --system {admin.group}"
            document.fault(("admin", "group"), f"there is no group {quoted(admin.group)}", remedy)


def _check_page(document: Document, settings: Settings) -> None:
    page, key = settings.admin.page, ("admin", "page")
    if page is None:
        return
    _check_listener(document, settings, page, key)
    if page.port and any(page.port == each.port for each in settings.listen):
        document.fault((*key, "port"), "is the port of an entry of listen", "Choose another port.")
    for index, name in enumerate(page.hosts):
        if not _HOST_NAME.fullmatch(name):
            document.fault((*key, "hosts", index), f"{quoted(name)} is not a host name", "Write it as ftp.example.com.")


def check_limits(document: Document, limits: Limits | UserLimits | SharedLimits | AnonymousLimits, key: Key) -> None:
    """Refuse limits of 0: in other servers they mean no limit, and here they would stop everything."""
    for each in attrs.fields(attrs.resolve_types(type(limits))):
        value, least = getattr(limits, each.name), MIN_BYTES if "_rate" in each.name else 1
        if value is not None and value < least:
            or_null = ", or null for no limit" if type(None) in get_args(each.type) else ""
            document.fault((*key, each.name), f"{value} is too small", f"Write {least} or a larger number{or_null}.")


def _check_listeners(document: Document, settings: Settings) -> None:
    if not settings.listen:
        document.fault(("listen",), "is empty", 'Add an entry, as {address: "::", port: 21}.')
    seen: dict[tuple[str, int], int] = {}
    for index, listener in enumerate(settings.listen):
        key: Key = ("listen", index)
        _check_listener(document, settings, listener, key)
        first = seen.setdefault((listener.address, listener.port), index)
        if first != index and listener.port:
            document.fault(key, f"has the address and port of listen[{first}]", "Choose another port.")


def _check_listener(
    document: Document, settings: Settings, listener: ListenSettings | MetricsSettings | PageSettings, key: Key
) -> None:
    try:
        ipaddress.ip_address(listener.address)
    except ValueError:
        problem = f"{quoted(listener.address)} is not an IP address"
        document.fault((*key, "address"), problem, 'Write "::" for all addresses, or an address of this machine.')
    if listener.port > 65535:
        document.fault((*key, "port"), f"{listener.port} is not a port", "Write a number up to 65535.")
    if listener.port in settings.passive.ports:
        problem = f"the port range {settings.passive.ports} contains the listener's port {listener.port}"
        document.fault(("passive", "ports"), problem, "Choose a range without it.")


def _check_metrics(document: Document, settings: Settings) -> None:
    metrics = settings.metrics
    if metrics is None:
        return
    _check_listener(document, settings, metrics, ("metrics",))
    if metrics.port and any(metrics.port == each.port for each in settings.listen):
        document.fault(("metrics", "port"), "is the port of an entry of listen", "Choose another port.")
    require_library(document, "metrics", "prometheus_client", "ftpsd[metrics]", "python3-prometheus-client")


def require_library(document: Document, section: str, module: str, pip: str, apt: str) -> None:
    """Check that the library is installed that a section needs. Importing it takes a tenth of a second, so it is
    imported here, where a load may block."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        remedy = f"Install it (pip install '{pip}', or apt install {apt}), or remove the section."
        document.fault((section,), f"needs the Python module {module}, which cannot be imported ({error})", remedy)


def _check_proxies(document: Document, settings: Settings) -> None:
    proxies = [(index, each.proxy_protocol) for index, each in enumerate(settings.listen) if each.proxy_protocol]
    for index, proxy in proxies:
        if not proxy.trusted:
            key: Key = ("listen", index, "proxy_protocol", "trusted")
            document.fault(key, "is empty", "Write the networks of the proxies, as [10.0.0.0/8].")
    if settings.passive.proxy_protocol and not proxies:
        problem = "is true, but no entry of listen has proxy_protocol"
        document.fault(("passive", "proxy_protocol"), problem, "Add proxy_protocol: {trusted: [...]} to the listener.")


def _check_passive(document: Document, settings: Settings) -> None:
    passive = settings.passive
    _check_announced(document, ("passive", "address"), passive.address)
    for index, each in enumerate(passive.networks):
        _check_announced(document, ("passive", "networks", index, "address"), each.address)
    if passive.refresh < 1:
        document.fault(("passive", "refresh"), "must be at least one second", _POSITIVE)


def _check_announced(document: Document, key: Key, address: str | None) -> None:
    """Check an address that PASV announces."""
    if address is None:
        return
    try:
        if ipaddress.ip_address(address).version != 4:
            remedy = "PASV can announce IPv4 addresses only; EPSV announces none."
            document.fault(key, f"{address} is not an IPv4 address", remedy)
    except ValueError:
        if not _HOST_NAME.fullmatch(address) or re.fullmatch(r"[0-9.]+", address):
            problem = f"{quoted(address)} is neither an IPv4 address nor a host name"
            document.fault(key, problem, "Write one of the two, or null.")


def _check_active(document: Document, active: ActiveSettings) -> None:
    port = active.source_port
    if port is not None and not 1 <= port <= 65535:
        document.fault(("active", "source_port"), f"{port} is not a port", "Write a number up to 65535, or null.")


def _check_timeouts(document: Document, timeouts: Timeouts) -> None:
    for each in attrs.fields(Timeouts):
        if getattr(timeouts, each.name) < 1:
            document.fault(("timeouts", each.name), "must be at least one second", _POSITIVE)


def check_passwords(document: Document, passwords: PasswordSettings) -> None:
    """Check the parameters of argon2id: what the library takes, and what a login may cost without a mistake."""
    key = ("passwords", "memory")
    if passwords.memory < _LEAST_MEMORY:
        document.fault(key, f"{passwords.memory} bytes are too few to resist guessing", "Write 19M or more.")
    elif passwords.memory > _MOST_MEMORY:
        document.fault(key, f"{passwords.memory} bytes for each login are too many", "Write 1G or less.")
    for name, value, most in (("iterations", passwords.iterations, 100), ("parallelism", passwords.parallelism, 64)):
        if not 1 <= value <= most:
            document.fault(("passwords", name), f"{value} is out of range", f"Write a number from 1 to {most}.")


def _check_bans(document: Document, settings: Settings) -> None:
    bans = settings.bans
    for name, value in (("window", bans.window), ("duration", bans.duration)):
        if value < 1:
            document.fault(("bans", name), "must be at least one second", _POSITIVE)
    if bans.longest < bans.duration:
        problem = f"is less than bans.duration ({bans.duration})"
        document.fault(("bans", "longest"), problem, "Write the same number or a larger one.")


def _check_state(document: Document, settings: Settings) -> None:
    directory = settings.state.directory
    if directory is not None and not os.path.isdir(directory):
        remedy = f"Create it: install -d -m 0700 {directory}"
        document.fault(("state", "directory"), f"{directory} is not a directory", remedy)


def _check_event_files(document: Document, settings: Settings) -> None:
    """Check the files of the section `events`. The daemon creates a file, but not its directory."""
    files = {"audit": settings.events.audit, "xferlog": settings.events.xferlog}
    for name, file in files.items():
        if file is not None:
            _check_event_file(document, ("events", name), file)
    if files["audit"] is not None and files["audit"] == files["xferlog"]:
        document.fault(("events", "xferlog"), "is the file of events.audit", "Name another file.")


def _check_event_file(document: Document, key: Key, file: Path) -> None:
    if not os.path.isdir(file.parent):
        remedy = f"Create it for the daemon's user: install -d -m 0750 -o ftpsd -g ftpsd {file.parent}"
        document.fault(key, f"{file.parent} is not a directory", remedy)
    elif os.path.islink(file) or (os.path.exists(file) and not os.path.isfile(file)):
        document.fault(key, f"{file} is not a regular file", "Remove it, or name another file.")
