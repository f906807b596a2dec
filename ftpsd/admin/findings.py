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

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.admin.api.problem import Problem
from ftpsd.admin.parts import Parts
from ftpsd.checks import files, host
from ftpsd.checks.findings import Finding
from ftpsd.config.load import Configuration
from ftpsd.config.sections.storage import is_in_store
from ftpsd.system.state import directory

log = Logger(namespace="ftpsd")

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
        #: The callers that wait for the running checks; None while no checks run. A check occupies its thread until the
        #: disk responds.
        self._waiting: list[Deferred[None]] | None = None
        #: The time until which an answer is waited for.
        self._deadline = 0.0

    async def read(self) -> list[Finding]:
        """Return the findings. Raises Problem (503) if a disk does not respond; no more checks start until it does."""
        reactor = self._parts.reactor
        while True:
            configuration, now = self._parts.configuration(), reactor.seconds()
            last = self._last
            if last is not None and now - last[0] < LIFE and last[1] is configuration:
                return last[2]
            if self._waiting is None:
                self._begin(configuration)
            await self._end()

    def _begin(self, configuration: Configuration) -> None:
        queue = self._parts.workers.queue("findings")
        self._waiting, self._deadline = [], self._parts.reactor.seconds() + PATIENCE

        def work() -> None:
            result: list[Finding] | Failure
            try:
                result = _check(configuration, self._path)
            except BaseException:
                result = Failure()
            queue.call_in_reactor(self._ended, configuration, result)

        queue.submit(work)  # `call` gives a job up that takes too long, and does not tell when its thread is free

    def _ended(self, configuration: Configuration, result: list[Finding] | Failure) -> None:
        waiting, self._waiting = self._waiting or [], None
        if not isinstance(result, Failure):
            self._last = self._parts.reactor.seconds(), configuration, result
        elif not waiting:
            log.failure("the checks have failed", result)
        for each in waiting:
            each.callback(result if isinstance(result, Failure) else None)

    async def _end(self) -> None:
        """Wait for the checks that run. Raises Problem (503) if they take too long."""
        assert self._waiting is not None
        waiting, left = self._waiting, self._deadline - self._parts.reactor.seconds()
        end: Deferred[None] = Deferred()
        try:
            if left <= 0:
                raise TimeoutError
            waiting.append(end)
            await end.addTimeout(left, self._parts.reactor)  # type: ignore[arg-type]
        except TimeoutError:
            if end in waiting:
                waiting.remove(end)
            raise Problem(503, f"The checks took more than {PATIENCE:.0f} seconds: a disk may not respond.") from None


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
            found += host.home(each, host.own_places(home), user, groups, name)
    return found


def _directories(configuration: Configuration) -> Iterator[str]:
    yield from configuration.users.homes.parents
    yield from map(str, configuration.settings.sandbox.homes)
    state = directory(configuration.settings.state)
    if state is not None:
        yield str(state)
