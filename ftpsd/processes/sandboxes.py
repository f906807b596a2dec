"""The sandbox of each kind of process: which files and directories of a configuration it needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ftpsd.config import sources
from ftpsd.config.load import Configuration
from ftpsd.config.tls import client_certificates
from ftpsd.outbox.place import journal_directory
from ftpsd.system.aws import boto
from ftpsd.system.sandbox import Sandbox
from ftpsd.system.state import directory


def daemon_sandbox(
    configuration: Configuration, path: str, twistd: Mapping[str, object] | None, removed: Iterable[Path]
) -> Sandbox:
    """Return the sandbox of a daemon that is one process; `removed` are removed at the end."""
    written = [*_own_directories(configuration), *_home_directories(configuration)]
    return Sandbox(configuration.settings.sandbox, _files(configuration, path), written, twistd, removed)


def supervisor_sandbox(
    configuration: Configuration, path: str, twistd: Mapping[str, object] | None, removed: Iterable[Path]
) -> Sandbox:
    """Return the sandbox of a supervisor, which needs no file of a user; `removed` are removed at the end."""
    written = _own_directories(configuration)
    return Sandbox(configuration.settings.sandbox, _files(configuration, path), written, twistd, removed)


def worker_sandbox(configuration: Configuration, path: str) -> Sandbox:
    """Return the sandbox of a worker, which writes files of users and the journal of events."""
    written = [*_home_directories(configuration), *_journal(configuration, path)]
    return Sandbox(configuration.settings.sandbox, _files(configuration, path), written, None)


def _journal(configuration: Configuration, path: str) -> list[str]:
    """Return the directory of the journal of events, if rules want any. A sandbox permits only what exists."""
    settings = configuration.settings
    place = journal_directory(settings, path) if settings.events.rules else None
    if place is None:
        return []
    with suppress(OSError):  # the journal logs that it cannot be used
        place.mkdir(mode=0o700, exist_ok=True)
    return [os.path.realpath(place)]


def _files(configuration: Configuration, path: str) -> list[Path]:
    """Return the files that each reload reads."""
    settings = configuration.settings
    files = [Path(path), settings.users.file, *sources.sandbox_files(settings)]
    files += [directory / "NAME.yaml" for directory in (settings.users.files, settings.users.group_files)]
    files += [file for _, pair in settings.tls.pairs for file in (pair.certificate, pair.key_file)]
    files += [file for _, file in client_certificates.files(settings)]
    if settings.storage:
        secrets = (each.credentials.secret_access_key_file for each in settings.storage.values())
        files += [*map(Path, boto.files()), *filter(None, secrets)]
    return files


def _own_directories(configuration: Configuration) -> list[str]:
    """Return the directories of the state, of the files of events, and those in which sources write."""
    settings = configuration.settings
    events = settings.events
    beside = [each.parent for each in (events.audit, events.xferlog) if each is not None]
    elsewhere = [path for each in settings.users.sources for path in each.directories]
    return [*map(os.path.realpath, filter(None, (directory(settings.state), events.directory, *beside, *elsewhere)))]


def _home_directories(configuration: Configuration) -> list[str]:
    """Return the directories that contain homes of users."""
    elsewhere = sources.sandbox_directories(configuration.settings)
    return [*configuration.users.homes.parents, *map(os.path.realpath, elsewhere)]
