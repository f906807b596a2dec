"""Find workers that do not respond, and end them: Heartbeat."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.presence import time_left
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Seconds between two heartbeats, and how many in a row a worker may miss. Time is not measured: a supervisor that was
#: stopped itself must not take its workers for stuck.
INTERVAL = 2
MOST_MISSED = 5

#: Seconds for a worker to become ready.
START_TIMEOUT = 60


#: The part of the time for which a worker that misses heartbeats must have waited for a processor to be spared, and how
#: often that happens. It does not respond since the machine is busy. One that loops uses its processor.
BUSY = 0.75
MOST_SPARED = 6


class Heartbeat:
    """Asks all workers at regular intervals whether they respond, once they are ready."""

    def __init__(
        self,
        reactor: Reactor,
        workers: Mapping[int, WorkerProcess],
        seconds_waited: Callable[[int], Deferred[float]],
    ) -> None:
        """`seconds_waited` returns how long a process has waited for a processor since its start."""
        self._reactor = reactor
        self._workers = workers
        self._seconds_waited = seconds_waited
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
            elif time_left(self._reactor, worker.started, START_TIMEOUT) < 0:
                log.error("{worker} is not ready after {seconds} seconds", worker=worker.name, seconds=START_TIMEOUT)
                worker.send_signal(signal.SIGKILL)

    def _ask(self, worker: WorkerProcess) -> None:
        worker.missed += 1
        if worker.missed == 2:
            self._waited(worker).addCallback(self._note, worker)
        elif worker.missed > MOST_MISSED:
            self._waited(worker).addCallback(self._judge, worker, worker.missed == MOST_MISSED + 1)
            return

        def answered(_: object) -> None:
            worker.missed = worker.spared = 0

        worker.link.call("process.ping").addCallbacks(answered, lambda _: None)

    def _waited(self, worker: WorkerProcess) -> Deferred[float]:
        """Return how long it has waited for a processor; 0 if nobody knows."""
        answer = self._seconds_waited(worker.pid)
        return answer.addTimeout(INTERVAL, cast(IReactorTime, self._reactor), lambda *_: 0.0)

    def _note(self, waited: float, worker: WorkerProcess) -> None:
        worker.waited, worker.waited_at = waited or math.inf, self._reactor.seconds()

    def _judge(self, waited: float, worker: WorkerProcess, first: bool) -> None:
        """Kill a worker that does not respond, unless it only waits for a processor. The log has the first attempt."""
        if worker.missed <= MOST_MISSED:
            return  # it has answered meanwhile
        is_busy = waited - worker.waited > BUSY * (self._reactor.seconds() - worker.waited_at)
        if is_busy and worker.spared < MOST_SPARED:
            worker.spared += 1
            worker.missed = 1
            log.warn("{worker} does not respond, since it gets no processor: the machine is busy", worker=worker.name)
        else:
            if first:
                log.error("{worker} does not respond, and is killed", worker=worker.name)
            worker.send_signal(signal.SIGKILL)
