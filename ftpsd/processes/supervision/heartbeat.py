"""Find workers that do not respond, and end them: Heartbeat."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.presence import time_left, within
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

#: Seconds for the answer how long a worker has waited. On a busy machine it comes late. A worker of which that is not
#: known is spared as if it had waited.
LONGEST = 10


class Heartbeat:
    """Asks all workers at regular intervals whether they respond, once they are ready."""

    def __init__(
        self,
        reactor: Reactor,
        workers: Mapping[int, WorkerProcess],
        seconds_waited: Callable[[int], Deferred[float | None]],
    ) -> None:
        """`seconds_waited` returns how long a process has waited for a processor since its start; None: not known."""
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
            worker.waited = None
            self._waited(worker).addCallback(self._note, worker)
        elif worker.missed > MOST_MISSED:
            first = worker.missed == MOST_MISSED + 1
            self._waited(worker).addCallback(self._judge, worker, self._reactor.seconds(), first)
            return

        def answered(_: object) -> None:
            worker.missed = worker.spared = 0

        worker.link.call("process.ping").addCallbacks(answered, lambda _: None)

    def _waited(self, worker: WorkerProcess) -> Deferred[float | None]:
        """Return how long it has waited for a processor; None if that is not known in time."""
        return within(self._seconds_waited(worker.pid), self._reactor, LONGEST, lambda *_: None)

    def _note(self, waited: float | None, worker: WorkerProcess) -> None:
        worker.waited, worker.waited_at = waited, self._reactor.seconds()

    def _judge(self, waited: float | None, worker: WorkerProcess, asked: float, first: bool) -> None:
        """Kill a worker that does not respond, unless it only waits for a processor. The log has the first attempt.

        It has waited in at least the time from the first answer to the second question, however late answers come.
        """
        if worker.missed <= MOST_MISSED:
            return  # it has answered meanwhile
        seconds = asked - worker.waited_at
        is_busy, why = True, "and perhaps gets no processor"
        if waited is not None and worker.waited is not None and seconds >= INTERVAL:
            is_busy, why = waited - worker.waited > BUSY * seconds, "since it gets no processor"
        if is_busy and worker.spared < MOST_SPARED:
            worker.spared += 1
            worker.missed = 1
            log.warn("{worker} does not respond, {why}: the machine is busy", worker=worker.name, why=why)
        else:
            if first:
                log.error("{worker} does not respond, and is killed", worker=worker.name)
            worker.send_signal(signal.SIGKILL)
