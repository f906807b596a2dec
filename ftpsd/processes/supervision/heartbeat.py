"""Find workers that do not respond, and end them: Heartbeat."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from twisted.logger import Logger

from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Seconds between two heartbeats, and how many in a row a worker may miss. Time is not measured: a supervisor that was
#: stopped itself must not take its workers for stuck.
INTERVAL = 2
MOST_MISSED = 5


#: Seconds for a worker to become ready.
START_TIMEOUT = 60


class Heartbeat:
    """Asks all workers at regular intervals whether they respond, once they are ready."""

    def __init__(self, reactor: Reactor, workers: Mapping[int, WorkerProcess]) -> None:
        self._reactor = reactor
        self._workers = workers
        self._task = PeriodicTask(reactor, "the heartbeat of workers", self._beat)

    def start(self) -> None:
        """Begin."""
        self._task.start(INTERVAL, now=False)

    def stop(self) -> None:
        """Ask no longer. May be called any number of times."""
        self._task.stop()

    def _beat(self) -> None:
        for worker in list(self._workers.values()):
            if worker.state != "starting":
                self._ask(worker)
            elif self._reactor.seconds() - worker.started > START_TIMEOUT:
                log.error("{worker} is not ready after {seconds} seconds", worker=worker.name, seconds=START_TIMEOUT)
                worker.send_signal(signal.SIGKILL)

    def _ask(self, worker: WorkerProcess) -> None:
        worker.missed += 1
        if worker.missed > MOST_MISSED:
            if worker.missed == MOST_MISSED + 1:
                log.error("{worker} does not respond, and is killed", worker=worker.name)
            worker.send_signal(signal.SIGKILL)
            return

        def answered(_: object) -> None:
            worker.missed = 0

        worker.link.call("process.ping").addCallbacks(answered, lambda _: None)
