"""Load the configuration in a worker when the supervisor says so: WorkerLoads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.protocol.replies import Refusal
from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")


class _NotLoaded(Refusal):
    """The configuration had a fault when this worker loaded it."""

    def __init__(self) -> None:
        super().__init__(451, "Server is busy: try again later.")

    def __str__(self) -> str:
        return "it could not be loaded"


class WorkerLoads:
    """Loads the configuration, keeps it until the supervisor wants it to be used, and passes it to `use` then."""

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        link: Link,
        use: Callable[[load.Configuration], Awaitable[None]],
        retire: Callable[[], object],
    ) -> None:
        """`retire` is called if a configuration cannot be used: nobody may log in with the last one any more."""
        self._reactor = reactor
        self._path = path
        self._link = link
        self._use = use
        self._retire = retire
        self._loaded: load.Configuration | None = None
        #: The loads that run, and what waits until there is none.
        self._running = 0
        self._waiting: list[Deferred[None]] = []
        link.serve("process.load", self._load)
        link.serve("process.use", self._use_loaded)

    def _load(self, number: int) -> None:
        """Load the configuration, and tell the supervisor its faults. It may take longer than a call may."""
        self._running += 1
        self._loaded = None
        loading = load.reload(self._reactor, self._path)
        loading.addCallbacks(self._keep, _faults)
        loading.addCallback(lambda faults: self._ended(faults, number))

    def _keep(self, configuration: load.Configuration) -> list[str]:
        self._loaded = configuration
        return []

    def _ended(self, faults: object, number: int) -> None:
        self._running -= 1
        self._link.tell("process.loaded", number, faults)
        while self._waiting and not self._running:
            self._waiting.pop().callback(None)

    async def _use_loaded(self) -> None:
        """Use what was loaded, or what is being loaded. If that fails, let another worker take the place of this one.

        The answer comes when the configuration is in use.
        """
        try:
            while self._running:
                self._waiting.append(Deferred())
                await self._waiting[-1]
            if self._loaded is None:
                raise _NotLoaded
            configuration, self._loaded = self._loaded, None
            await self._use(configuration)
        except Exception as error:
            log.error("this worker cannot use the new configuration: {reason}", reason=str(error))
            self._retire()
            self._link.tell("process.deaf")
            raise


def _faults(failure: Failure) -> list[str]:
    error = failure.value
    if isinstance(error, InvalidConfiguration):
        return [*map(str, error.faults)]
    log.failure("internal error: the configuration cannot be loaded", failure)
    return [failure.getErrorMessage()]
