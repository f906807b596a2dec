"""Load the configuration again, on SIGHUP or when the administrator wants it: Reloader."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.events.hub import Publisher
from ftpsd.events.types import ConfigurationLoaded, ConfigurationRefused
from ftpsd.system.reactor import Reactor
from ftpsd.system.systemd.notifier import Notifier

log = Logger(namespace="ftpsd")


@frozen
class LoadResult:
    """How a load of the configuration ended. `time` is POSIX time."""

    time: float
    #: Empty if the configuration is in effect.
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the configuration is in effect."""
        return not self.faults


#: The result for those who wait while the daemon stops.
STOPPING = LoadResult(0, ("the daemon is stopping",))


class Reloader:
    """Loads the configuration of `path` off the reactor thread, and passes it to `apply`.

    If the configuration has a fault, or `apply` raises InvalidConfiguration, the old one remains in effect. Only one
    load runs at a time, so that the result of an older load never replaces that of a newer one. A request during a load
    starts one more load after it.
    """

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        apply: Callable[[load.Configuration], Awaitable[None]],
        hub: Publisher,
        notifier: Notifier,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._apply = apply
        self._hub = hub
        self._notifier = notifier
        self._loading = self._requested_again = False
        #: Whether the daemon stops.
        self.stopped = False
        #: Those who wait for the load that runs, and for the one after it.
        self._waiting: list[Deferred[LoadResult]] = []
        self._waiting_again: list[Deferred[LoadResult]] = []
        #: The result of the last load, and of the last one that is in effect. The first was that of the start.
        self.last = self.last_good = LoadResult(time.time())

    def start(self) -> None:
        """Reload on SIGHUP from now on."""
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.request))

    def reload(self) -> Deferred[LoadResult]:
        """Load the configuration, and return the result of a load that began after this call."""
        waiting = self._waiting_again if self._loading else self._waiting
        result: Deferred[LoadResult] = Deferred()
        waiting.append(result)
        self.request()
        if self.stopped:
            self.stop()
        return result

    def request(self) -> None:
        """Load the configuration now, or after the load that runs. For the reactor thread."""
        self._requested_again = self._loading
        if self.stopped or self._loading:
            return
        self._loading = True
        self._notifier.reloading()
        loading = load.reload(self._reactor, self._path, warn=True)
        loading.addCallback(self._loaded).addErrback(self._refused).addCallback(self._ended)

    def stop(self) -> None:
        """Ignore requests, and the result of a load that runs. May be called any number of times."""
        self.stopped = True
        self._waiting += self._waiting_again
        self._waiting_again = []
        self._answer_waiting(STOPPING)

    def _loaded(self, configuration: load.Configuration) -> Deferred[None]:
        return Deferred.fromCoroutine(self._use(configuration))

    async def _use(self, configuration: load.Configuration) -> None:
        if not self.stopped:
            await self._apply(configuration)
        if self.stopped:
            return
        self._notifier.ready()
        self.last = self.last_good = LoadResult(time.time(), warnings=tuple(map(str, configuration.warnings)))
        self._hub.publish(ConfigurationLoaded())
        log_warnings(configuration)

    def _refused(self, failure: Failure) -> None:
        error = failure.value
        faults = error.faults if isinstance(error, InvalidConfiguration) else [failure.getErrorMessage()]
        self.last = LoadResult(time.time(), tuple(map(str, faults)))
        self._hub.publish(ConfigurationRefused(self.last.faults))
        if not self.stopped:
            self._notifier.ready(f"not reloaded: {faults[0]}")

    def _ended(self, _: None) -> None:
        self._loading = False
        self._answer_waiting(self.last)
        if self._requested_again:
            self.request()

    def _answer_waiting(self, result: LoadResult) -> None:
        waiting, self._waiting, self._waiting_again = self._waiting, self._waiting_again, []
        for each in waiting:
            each.callback(result)


def log_warnings(configuration: load.Configuration) -> None:
    """Log what the administrator should change in a configuration that is valid."""
    for warning in configuration.warnings:
        log.warn("{warning}", warning=str(warning))
