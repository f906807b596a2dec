"""`ftpsd doctor -c CONFIG`: collect what this machine says of itself, have it judged, then log in as a client."""

from __future__ import annotations

import json
import os
import pwd
import re
import resource
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

from ftpsd.accounts.sources.probe import probe_all
from ftpsd.checks import files, host, network
from ftpsd.checks.findings import Finding, Report, printable
from ftpsd.cli.doctor import firewall
from ftpsd.cli.doctor.homes import of_sources, running
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.storage import is_in_store
from ftpsd.config.settings import Settings
from ftpsd.protocol.addresses import is_ipv4
from ftpsd.protocol.paths import VirtualPath
from ftpsd.storage import stores

#: Seconds for each program that is asked.
_PROGRAM = 5


@frozen
class Service:
    """The user that the daemon runs as, and its unit."""

    name: str
    uid: int
    groups: frozenset[int]
    unit: host.Unit
    open_files: int


def check(path: str, report: Report) -> Settings | None:
    """Judge the configuration and this machine. Return the settings if they can be read."""
    configuration: load.Configuration | None = None
    try:
        configuration = load.load(path)
        settings = configuration.settings
    except InvalidConfiguration as invalid:
        for fault in invalid.faults:
            where = f"{fault.file}:{fault.line}" if fault.line else fault.file
            problem = printable(f"{where}: {fault.key + ': ' if fault.key else ''}{fault.problem}.", 500)
            report.add(Finding("configuration.fault", "fault", problem, fault.remedy))
        try:
            settings = load.load_settings(path)
        except InvalidConfiguration:
            return None
    else:
        report.ok(f"{path} has no fault")
    service = _service()
    _judge(report, "the certificate", files.certificates(settings))
    _judge(report, "the network", _network(settings, configuration, service))
    _firewall(settings, report)
    if configuration is not None:
        _judge(report, "homes and disks", _homes(configuration, service, running.written(path)))
        if configuration.contexts.clients is not None:
            _judge(report, "certificates of clients", files.client_certificates(configuration.contexts.clients))
        if configuration.sources:
            _judge(
                report,
                "the users of sources",
                of_sources.check(configuration, service.unit, running.written(path)),
            )
            _judge(report, "the sources of users", _sources(configuration))
        if configuration.stores:
            _judge(report, "the stores", _stores(configuration))
    host.check_logins(settings.passwords, configuration.users.decoys if configuration is not None else (), report)
    _judge(report, "open files and clock", _machine(settings, path, service))
    return settings


def _judge(report: Report, subject: str, findings: list[Finding]) -> None:
    report.add(*findings)
    if all(finding.level == "note" for finding in findings):
        report.ok(f"{subject}: nothing wrong")


def _run(*line: str) -> str | None:
    """The output of a program; None if it is not installed, fails or does not end in time."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=_PROGRAM)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def _service() -> Service:
    shown = dict(re.findall(r"^(\w+)=(.*)$", _run("systemctl", "show", "ftpsd.service") or "", re.MULTILINE))
    loaded = shown.get("LoadState") == "loaded"
    name = shown.get("User") if loaded else None
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except KeyError:
        entry = pwd.getpwuid(os.geteuid())
    unit = host.Unit()
    files = shown.get("LimitNOFILE", "") if loaded else ""
    if loaded:
        state = tuple(f"/var/lib/{each}" for each in shown.get("StateDirectory", "").split())
        writable = tuple(each.lstrip("-+") for each in shown.get("ReadWritePaths", "").split())
        # systemd shows SOURCE:TARGET:OPTIONS, of which a unit may write the first alone.
        bound = tuple((each.split(":") * 2)[1] for each in shown.get("BindPaths", "").split())
        unit = host.Unit(shown.get("ProtectHome", "no"), shown.get("ProtectSystem", "no"), writable + state, bound)
    limit = int(files) if files.isdigit() else -1 if loaded else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Service(entry.pw_name, entry.pw_uid, groups, unit, limit)


# --- network -------------------------------------------------------------------------------------


def _network(settings: Settings, configuration: load.Configuration | None, service: Service) -> list[Finding]:
    passive = settings.passive
    address = passive.address
    if configuration is not None and address is not None:
        address = configuration.addresses.get(address, address)
    found: list[Finding] = []
    routes, own = _run("ip", "-4", "route"), _own_addresses()
    if address is None or is_ipv4(address):
        routed = bool(re.search(r"^default\b", routes or "", re.MULTILINE))
        found += network.announced(address, own, routed)
    for index, each in enumerate(passive.networks):
        told = (configuration.addresses if configuration is not None else {}).get(each.address or "", each.address)
        if told is not None and is_ipv4(told) and routes is not None:
            found += network.exception(index, told, own, filter(_is_unrouted, map(str, each.clients)))
    local = files.text_of("/proc/sys/net/ipv4/ip_local_port_range").split()
    low, high = passive.ports.low, passive.ports.high
    if len(local) == 2:
        reserved = files.text_of("/proc/sys/net/ipv4/ip_local_reserved_ports")
        found += network.port_range(low, high, (int(local[0]), int(local[1])), reserved, passive.shared is not None)
    listening = network.parse_listeners(files.text_of("/proc/net/tcp"), files.text_of("/proc/net/tcp6"))
    found += network.other_listeners(low, high, listening, service.uid)
    return found + network.not_listening([each.port for each in settings.listen], listening)


def _is_unrouted(clients: str) -> bool:
    """Return whether no route leads to an IPv4 network."""
    if ":" in clients:
        return False
    return _run("ip", "-4", "route", "get", clients.partition("/")[0]) is None


def _own_addresses() -> list[str]:
    shown = re.findall(r"\binet ([0-9.]+)", _run("ip", "-4", "-o", "addr") or "")
    return [each for each in shown if not each.startswith("127.")]


def _firewall(settings: Settings, report: Report) -> None:
    control = [each.port for each in settings.listen]
    low, high = settings.passive.ports.low, settings.passive.ports.high
    chosen = sorted({*control, low, (low + high) // 2, high})
    status = _run("ufw", "status")
    verdicts: dict[int, firewall.Verdict] | None
    if status and "Status: active" in status:
        source, verdicts = "ufw", firewall.ufw(status, chosen)
    else:
        verdicts = _nft_verdicts(chosen)
        if verdicts is None:
            report.ok("the firewall's rules cannot be read here (run as root, with nft): not checked")
            return
        source = "nft"
    _judge(report, f"the rules of {source}", firewall.findings(source, verdicts, control, str(settings.passive.ports)))


def _nft_verdicts(ports: list[int]) -> dict[int, firewall.Verdict] | None:
    rules = _run("nft", "-j", "list", "ruleset")
    try:
        return None if rules is None else firewall.nftables(json.loads(rules), ports)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # a later nft, with rules of another form


# --- the machine ---------------------------------------------------------------------------------


def _homes(configuration: load.Configuration, service: Service, written: Sequence[str] | None) -> list[Finding]:
    found: list[Finding] = []
    for name, what, path, is_written in _trees(configuration):
        found += host.sandboxed(name, path, service.unit, what)
        found += host.outside(name, path, written, what)
        found += host.home(name, host.places(path), service.uid, service.groups, service.name, what, is_written)
    return found + files.disks(path for _, _, path, _ in _trees(configuration))


def _trees(configuration: load.Configuration) -> Iterator[tuple[str, str, str, bool]]:
    """Yield each home, and each folder once, unless they are in a store: a user, what it is to the user, its path,
    whether users write there."""
    folders: set[tuple[str, bool]] = set()
    for name in configuration.users.users.names():
        user = configuration.users.users.get(name)
        if user is None or user.settings.home is None:
            continue
        if not is_in_store(user.settings.home):
            yield name, "home", os.path.realpath(user.settings.home), True
        for at, folder in user.settings.folders.items():
            if folder.storage is None and (folder.path, folder.is_written) not in folders:
                folders.add((folder.path, folder.is_written))
                yield name, f"folder {VirtualPath(at)}", folder.path, folder.is_written


def _machine(settings: Settings, path: str, service: Service) -> list[Finding]:
    answer = _run("timedatectl", "show", "-p", "NTPSynchronized", "--value")
    synchronized = None if answer is None or not answer.strip() else answer.strip() == "yes"
    return files.open_files(settings, service.open_files) + files.clock(settings, Path(path), synchronized)


def _sources(configuration: load.Configuration) -> list[Finding]:
    """Log in to each source of users. The daemon may do so as another user, and from its sandbox."""
    return [
        Finding(
            "source.failed",
            "fault",
            f"users.sources: {name} does not answer: {error}",
            "Check that the server runs, and that the entry names it and its password.",
        )
        for name, error in probe_all(configuration.sources).items()
    ]


def _stores(configuration: load.Configuration) -> list[Finding]:
    """Look whether each store can be used. The daemon may do so as another user, and from its sandbox."""
    found = []
    for name, each in stores.probe_all(configuration.stores).items():
        if each.error:
            cure = "Check the endpoint, the bucket, the credentials and the clock of this machine."
            found.append(Finding("store.failed", "fault", f"the store {name} cannot be used: {each.error}", cure))
        elif each.read_only:
            cure = "Permit uploads to the daemon's credentials, unless its users only read."
            problem = f"nothing can be uploaded to the store {name}: {each.read_only}"
            found.append(Finding("store.read_only", "warning", problem, cure))
    return found
