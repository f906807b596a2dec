"""The workers that get the connections: Generation. A reload that needs another sandbox or number makes a new one."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.processes.host import StartFailed
from ftpsd.processes.supervision.launcher import Launcher
from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Seconds after which a worker that ends is no sign of a crash loop; the longest pause before the next start in one.
STABLE = 60
LONGEST_PAUSE = 60


class _Slot:
    """One of the workers that there should be."""

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        #: Seconds to wait before the next start.
        self.pause = 0


class Generation:
    """Some workers, each of which is replaced when it ends.

    starting  until all are ready. If one ends, or `stop` is called, `start` fails and the generation is stopped
    running   from then on
    stopped   after `stop`: no worker is started any more
    """

    def __init__(self, reactor: Reactor, launcher: Launcher, count: int, with_loaded: bool = False) -> None:
        """`with_loaded`: workers have the configuration that the spawner has loaded, until it is `in_use`."""
        self._reactor = reactor
        self._launcher = launcher
        self._slots = [_Slot() for _ in range(count)]
        self._with_loaded = with_loaded
        #: Fires when all workers are ready; None before and after that.
        self._starting: Deferred[None] | None = None
        self._stopped = False

    @property
    def count(self) -> int:
        """How many workers there should be."""
        return len(self._slots)

    @property
    def workers(self) -> list[WorkerProcess]:
        """The workers that have not ended."""
        return [each.worker for each in self._slots if each.worker is not None]

    async def start(self) -> None:
        """Start the workers, and wait until all are ready. Raises StartFailed if that fails."""
        self._starting = ready = Deferred[None]()
        for slot in self._slots:
            self._launch(slot)
        await ready

    def in_use(self) -> None:
        """The spawner uses what it has loaded, and later workers have the configuration that is used then."""
        self._with_loaded = False

    def stop(self, why: str = "") -> None:
        """Start no worker any more. Those that run are left alone."""
        self._stopped = True
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.errback(StartFailed(why))

    def replace(self, worker: WorkerProcess) -> None:
        """Start another worker in place of one that no longer gets connections."""
        for slot in self._slots:
            if slot.worker is worker:
                slot.worker = None
                self._launch(slot)

    def ended(self, worker: WorkerProcess, text: str) -> None:
        """Start another worker in place of one that has failed: at once, or after a pause if that happens again."""
        for slot in [each for each in self._slots if each.worker is worker]:
            slot.worker = None
            if self._starting is not None:
                self.stop(text)
                return
            if self._reactor.seconds() - worker.started >= STABLE:
                slot.pause = 0
            self._launch_later(slot)

    def _launch_later(self, slot: _Slot) -> None:
        self._reactor.callLater(slot.pause, self._launch, slot)
        slot.pause = min(max(1, 2 * slot.pause), LONGEST_PAUSE)

    def _launch(self, slot: _Slot) -> None:
        if self._stopped or slot.worker is not None:
            return
        try:
            worker = self._launcher.launch(self._with_loaded)
        except StartFailed as error:
            if self._starting is not None:
                self.stop(str(error))
            else:
                log.error("{text}", text=error)
                self._launch_later(slot)
            return
        slot.worker = worker
        worker.link.serve("process.ready", lambda: self._worker_ready(worker))

    def _worker_ready(self, worker: WorkerProcess) -> None:
        if worker.state == "starting":
            worker.state = "serving"
        serving = [each.worker is not None and each.worker.state == "serving" for each in self._slots]
        if all(serving) and self._starting is not None:
            starting, self._starting = self._starting, None
            starting.callback(None)
