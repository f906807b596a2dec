"""Check the rules for events. Each problem becomes a fault; a rule that waits in vain for something is a warning."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ftpsd.config.faults import ConfigurationWarning, Key, quoted
from ftpsd.config.modes import mode_of
from ftpsd.config.sections.events import EventRule, WebhookSettings
from ftpsd.config.settings import Settings
from ftpsd.config.yaml import Document
from ftpsd.events.record import recorded_kinds
from ftpsd.events.types import FileChanged, TransferEnded
from ftpsd.outbox.place import MIN_JOURNAL, journal_directory
from ftpsd.protocol.addresses import is_loopback


def check(document: Document, settings: Settings) -> None:
    """Check the rules for events, and where their journal is."""
    events = settings.events
    for name, value in (("give_up", events.give_up), ("timeout", events.timeout)):
        if value < 1:
            document.fault(("events", name), "must be at least one second", "Write 1 or a larger number.")
    if events.journal_size < MIN_JOURNAL:
        document.fault(("events", "journal_size"), f"{events.journal_size} is too small", "Write 1M or more.")
    same: dict[str, EventRule] = {}
    for index, rule in enumerate(events.rules):
        _check_rule(document, rule, ("events", "rules", index))
        if same.setdefault(rule.target, rule).webhook != rule.webhook:
            problem = "has the URL of another rule, but another secret_file, ca_file or insecure"
            document.fault(("events", "rules", index, "webhook"), problem, "Write the same in both.")
        if settings.file_permissions == "check":
            _check_secret(document, rule.webhook, ("events", "rules", index, "webhook", "secret_file"))
    if events.directory is not None and not os.path.isdir(events.directory):
        remedy = f"Create it: install -d -m 0700 {events.directory}"
        document.fault(("events", "directory"), f"{events.directory} is not a directory", remedy)
    elif events.rules and journal_directory(settings, document.path) is None:
        remedy = "Set state.directory, or events.directory, to a directory of the daemon."
        document.fault(("events", "rules"), "there is no directory in which events survive a restart", remedy)


def warnings(settings: Settings) -> list[ConfigurationWarning]:
    """Return what no event can match in the rules."""
    return [warning for index, rule in enumerate(settings.events.rules) for warning in _unmatched(rule, index)]


def _unmatched(rule: EventRule, index: int) -> Iterator[ConfigurationWarning]:
    key = "events", "rules", index
    kinds = recorded_kinds()
    with_path = kinds[FileChanged] | kinds[TransferEnded]
    without = [name for name in rule.on if name not in with_path]
    if rule.paths and without:
        problem = f"events.rules[{index}] has paths, and {' and '.join(without)} never match it: they have no path"
        yield ConfigurationWarning((*key, "on"), problem, "write a rule without paths for them")
    for number, pattern in enumerate(rule.paths):
        if {"", ".", ".."} & set(pattern.split("/")[1:]):
            problem = f"no path matches {quoted(pattern)} in events.rules[{index}]"
            yield ConfigurationWarning((*key, "paths", number), problem, "write /in/** for all below /in")


def _check_rule(document: Document, rule: EventRule, key: Key) -> None:
    if not rule.on:
        document.fault((*key, "on"), "is empty", "Name the events, as [upload, delete].")
    has_webhook = rule.webhook.url is not None
    if has_webhook == bool(rule.exec):
        problem = "has both webhook and exec" if has_webhook else "has neither webhook.url nor exec"
        remedy = "Write one of webhook: {url: https://…} and exec: [/path/of/program]."
        document.fault(key, problem, remedy)
    elif has_webhook:
        _check_webhook(document, rule.webhook, (*key, "webhook"))
    else:
        _check_program(document, rule.exec[0], (*key, "exec"))


def _check_webhook(document: Document, webhook: WebhookSettings, key: Key) -> None:
    url = webhook.url or ""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch("[!-~]+", url):
        problem = f"{quoted(url)} is not the URL of a web server"
        document.fault((*key, "url"), problem, "Write it as https://host.example/path.")
    elif parts.username is not None or parts.fragment:
        document.fault((*key, "url"), "contains a password or a fragment", "Remove it: secret_file signs the events.")
    elif parts.scheme == "http" and not webhook.insecure and not is_loopback(host):
        problem = f"http://{host} would send events unencrypted through the network"
        document.fault((*key, "url"), problem, "Write https://, or insecure: true if the network can be trusted.")
    for name, file in (("secret_file", webhook.secret_file), ("ca_file", webhook.ca_file)):
        if file is not None and _is_missing(file):
            document.fault((*key, name), f"{file} does not exist", "Create it, or name another file.")


def _check_secret(document: Document, webhook: WebhookSettings, key: Key) -> None:
    """Add a fault for a secret that everyone may read."""
    file = webhook.secret_file
    if file is not None and mode_of(file) & stat.S_IROTH:
        remedy = f"Run: chmod o-r {file} (or write file_permissions: ignore)"
        document.fault(key, f"everyone on this machine may read the secret {file}", remedy)


def _check_program(document: Document, program: str, key: Key) -> None:
    if not program.startswith("/"):
        document.fault((*key, 0), f"{quoted(program)} is not an absolute path", "Write the program's whole path.")
    elif _is_missing(Path(program)):
        document.fault((*key, 0), f"{program} does not exist", "Install it, or correct the path.")


def _is_missing(path: Path) -> bool:
    """Return whether a file is known to be missing. `ftpsd deliver` may read directories that the daemon may not."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:
        pass
    return False
