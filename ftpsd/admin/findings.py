"""What is wrong with the server, as far as the daemon can see it from its sandbox: FindingsReader.

These are checks of `ftpsd doctor` that start no program and open no connection.
"""

from __future__ import annotations

import os
import pwd
import resource
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from twisted.internet.defer import TimeoutError

from ftpsd.admin.api.problem import Problem
from ftpsd.admin.parts import Parts
from ftpsd.checks import files, host
from ftpsd.checks.findings import Finding
from ftpsd.config.load import Configuration
from ftpsd.config.sections.storage import is_in_store
from ftpsd.system.state import directory

#: Seconds for which an answer is good.
LIFE = 60.0

#: Seconds for the checks. A disk that does not respond takes longer.
PATIENCE = 10.0

#: Homes that are looked at, and directories whose disks are.
MOST = 1000


class FindingsReader:
    """Runs the checks when somebody asks, at most once in LIFE seconds. For the reactor thread."""

    def __init__(self, parts: Parts, path: str) -> None:
        """`path` is that of the configuration file."""
        self._parts = parts
        self._path = path
        self._last: tuple[float, Configuration, list[Finding]] | None = None

    async def read(self) -> list[Finding]:
        """Return the findings. Raises Problem (503) if a disk does not respond."""
        parts, configuration = self._parts, self._parts.configuration()
        now = parts.reactor.seconds()
        if self._last is None or now - self._last[0] >= LIFE or self._last[1] is not configuration:
            checks = parts.workers.queue("findings").call(_check, configuration, self._path)
            try:
                found = await checks.addTimeout(PATIENCE, parts.reactor)  # type: ignore[arg-type]
            except TimeoutError:
                raise Problem(
                    503, f"The checks took more than {PATIENCE:.0f} seconds: a disk may not respond."
                ) from None
            self._last = parts.reactor.seconds(), configuration, found
        return self._last[2]


def _check(configuration: Configuration, path: str) -> list[Finding]:
    """Run all checks. In a worker thread."""
    settings = configuration.settings
    found = files.certificates(settings)
    if configuration.contexts.clients is not None:
        found += files.client_certificates(configuration.contexts.clients)
    found += _homes(configuration)
    found += files.disks(islice(_directories(configuration), MOST))
    found += files.open_files(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return found + files.clock(settings, Path(path), None)


def _homes(configuration: Configuration) -> list[Finding]:
    user, groups = os.geteuid(), frozenset([os.getegid(), *os.getgroups()])
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    found: list[Finding] = []
    table = configuration.users.users
    for each in islice(table.names(), MOST):
        record = table.get(each)
        home = None if record is None else record.settings.home
        if home is not None and not is_in_store(home):
            found += host.home(each, host.places(home), user, groups, name)
    return found


def _directories(configuration: Configuration) -> Iterator[str]:
    yield from configuration.users.homes.parents
    yield from map(str, configuration.settings.sandbox.homes)
    state = directory(configuration.settings.state)
    if state is not None:
        yield str(state)
