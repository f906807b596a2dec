"""Load the configuration in a worker when the supervisor says so: WorkerLoads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config import load
from ftpsd.config.disk_watch import in_own_thread
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")


class WorkerLoads:
    """Loads the configuration, keeps it until the supervisor wants it to be used, and passes it to `use` then."""

    def __init__(
        self, reactor: Reactor, path: str, link: Link, use: Callable[[load.Configuration], Awaitable[None]]
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._link = link
        self._use = use
        self._loaded: load.Configuration | None = None
        #: The loads that run, and whether the supervisor wants the result of the last one as soon as there is one.
        self._running = 0
        self._wanted = False
        link.serve("process.load", self._load)
        link.serve("process.use", self._use_loaded)

    def _load(self, number: int) -> None:
        """Load the configuration, and tell the supervisor its faults. It may take longer than a call may."""
        self._running += 1
        loading = in_own_thread(self._reactor, lambda: load.load(self._path))
        loading.addCallbacks(self._keep, _faults)
        loading.addCallback(lambda faults: self._ended(faults, number))

    def _keep(self, configuration: load.Configuration) -> list[str]:
        self._loaded = configuration
        return []

    def _ended(self, faults: object, number: int) -> None:
        self._running -= 1
        self._link.tell("process.loaded", number, faults)
        if self._wanted and not self._running:
            self._wanted = False
            Deferred.fromCoroutine(self._use_loaded()).addErrback(_not_used)

    async def _use_loaded(self) -> None:
        if self._running:
            self._wanted = True
        elif self._loaded is not None:
            configuration, self._loaded = self._loaded, None
            await self._use(configuration)


def _not_used(failure: Failure) -> None:
    log.failure("internal error: a configuration that was loaded cannot be used", failure)


def _faults(failure: Failure) -> list[str]:
    error = failure.value
    if isinstance(error, InvalidConfiguration):
        return [*map(str, error.faults)]
    log.failure("internal error: the configuration cannot be loaded", failure)
    return [failure.getErrorMessage()]
