"""Make the sources of users from their settings: `users.sources`. Nothing connects to a source during a load."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ftpsd.accounts.sources.source import ConfiguredSource, Secrets, Source, UnusableSettings
from ftpsd.config.convert import structure
from ftpsd.config.faults import ConfigurationWarning, Key, quoted
from ftpsd.config.modes import read_secret
from ftpsd.config.sections.sources import LdapSource, RemoteSource, YamlSource
from ftpsd.config.settings import Settings, UserSettings
from ftpsd.config.yaml import Document

if TYPE_CHECKING:  # let mypy check that what they make is a Source
    from ftpsd.accounts.sources import helper, http
    from ftpsd.accounts.sources.ldap import make as ldap
    from ftpsd.accounts.sources.sql import source as sql
    from ftpsd.config.sections.sources import SqlSource

    _sql: Callable[[SqlSource, Secrets], Source] = sql.make
    _ldap: Callable[[LdapSource, Secrets], Source] = ldap.make
    _http: Callable[[RemoteSource, Secrets], Source] = http.make
    _helper: Callable[[RemoteSource, Secrets], Source] = helper.make

#: The modules with the function `make` (see `ftpsd.accounts.sources.source`), by the type of the source. They are
#: imported only when a source of this type is configured.
MODULES: Mapping[str, str] = {
    "sql": "ftpsd.accounts.sources.sql.source",
    "ldap": "ftpsd.accounts.sources.ldap.make",
    "http": "ftpsd.accounts.sources.http",
    "helper": "ftpsd.accounts.sources.helper",
}


def make_sources(document: Document, settings: Settings, groups: Collection[str]) -> tuple[ConfiguredSource, ...]:
    """Return the sources of `users.sources` in their order, without `yaml`. Those that have faults are left out.

    `groups` are the names of all groups in `users.yaml` and `groups.d`.
    """
    found = []
    for index, each in enumerate(settings.users.sources):
        if isinstance(each, RemoteSource):
            made = _make(document, index, each, settings.file_permissions == "check")
            if made is not None:
                found.append(made)
        if isinstance(each, LdapSource):
            _check_ldap(document, each, ("users", "sources", index), groups)
    _check(document, settings)
    _check_homes(document, settings)
    return tuple(found)


def _check(document: Document, settings: Settings) -> None:
    key: Key = ("users", "sources")
    yaml = [index for index, each in enumerate(settings.users.sources) if isinstance(each, YamlSource)]
    for index in yaml[1:]:
        document.fault((*key, index), "is the second entry with type: yaml", "Remove one of the two.")
    for index, each in enumerate(settings.users.sources):
        for name in ("timeout", "concurrency"):
            if isinstance(each, RemoteSource) and not 1 <= getattr(each, name) <= 100:
                problem = f"{getattr(each, name)} is not between 1 and 100"
                document.fault((*key, index, name), problem, "Write such a number, or remove the key.")


def _check_ldap(document: Document, settings: LdapSource, key: Key, groups: Collection[str]) -> None:
    structure(document, settings.values, UserSettings, (*key, "values"))
    for name, group in settings.groups.items():
        if group not in groups:
            remedy = f"Add it below groups: in users.yaml, or as groups.d/{group}.yaml."
            document.fault((*key, "groups", name), f"there is no group {quoted(group)}", remedy)


def source_warnings(settings: Settings) -> list[ConfigurationWarning]:
    """Return warnings about settings that work, but should be changed."""
    found = []
    for index, each in enumerate(settings.users.sources):
        for url in each.unencrypted if isinstance(each, LdapSource) else ():
            problem = f"passwords go to {url} in plain text"
            found.append(ConfigurationWarning(("users", "sources", index, "tls"), problem, "remove tls: off"))
    return found


def _check_homes(document: Document, settings: Settings) -> None:
    for index, home in enumerate(settings.sandbox.homes):
        if not home.is_dir():
            document.fault(("sandbox", "homes", index), f"{home} is not a directory", f"Create it: install -d {home}")


def _make(document: Document, index: int, settings: RemoteSource, check_modes: bool) -> ConfiguredSource | None:
    key: Key = ("users", "sources", index)
    before = len(document.faults)
    secrets = {path: read_secret(document, key, path, check_modes) for path in settings.secret_files}
    digests = {path: _digest(document, key, path) for path in settings.files}
    if len(document.faults) > before:
        return None
    try:
        module = importlib.import_module(MODULES[settings.type])
        make = cast(Callable[[RemoteSource, Secrets], Source], module.make)
        return ConfiguredSource(index, settings, {**digests, **secrets}, make(settings, secrets))
    except UnusableSettings as error:
        below = [int(part) if part.isdigit() else part for part in error.key.split(".") if part]
        document.fault((*key, *below), error.problem, error.remedy)
        return None


def _digest(document: Document, key: Key, path: Path) -> str:
    """Return what changes when a file changes. A directory of certificates is identified by its time."""
    try:
        if path.is_dir():
            return str(path.stat().st_mtime_ns)
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        document.unreadable(key, path, error)
        return ""


def sandbox_files(settings: Settings) -> Sequence[Path]:
    """Return the files that the sources read."""
    return [path for each in settings.users.sources for path in (*each.files, *each.secret_files)]


def sandbox_directories(settings: Settings) -> Sequence[Path]:
    """Return the directories in which the sources write, and in which homes may lie."""
    return [*(path for each in settings.users.sources for path in each.directories), *settings.sandbox.homes]
