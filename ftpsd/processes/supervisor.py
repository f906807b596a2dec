"""The workers of a supervisor: start, replace and end them, and give them connections: Workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from twisted.internet.defer import DeferredList
from twisted.logger import Logger

from ftpsd.control.lifecycle.graceful_stop import CLOSING, until
from ftpsd.limits.ledger import SessionLease
from ftpsd.processes.forks.spawning import GONE, Spawner
from ftpsd.processes.handover import Connection
from ftpsd.processes.supervision import upgrade
from ftpsd.processes.supervision.generation import Generation
from ftpsd.processes.supervision.heartbeat import Heartbeat
from ftpsd.processes.supervision.launcher import ENDING, Launcher
from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.protocol.addresses import Address
from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Seconds in which the end of a worker is noticed.
NOTICED = 2


class Workers:
    """All workers that have not ended. For the reactor thread.

    Other parts attach themselves with `on_start` and `on_end`; they never fork or kill.
    """

    def __init__(self, reactor: Reactor, spawner: Spawner, failed: Callable[[str], object]) -> None:
        """`failed` is called with the reason when no worker can be started any more."""
        self._reactor = reactor
        self._spawner = spawner
        self._failed = failed
        self._launcher = launcher = Launcher(reactor, spawner)
        #: The workers that have not ended, by their indexes, and the links to them.
        self.processes = launcher.processes
        self.links: Mapping[int, Link] = launcher.links
        #: Call back with the index and the link of each worker that starts, before its first call arrives.
        self.on_start = launcher.on_start
        #: Call back with the index of each worker that has ended. Only then may another one get this index.
        self.on_end = launcher.on_end
        #: Returns the number of sessions of all workers.
        self.sessions = launcher.sessions
        self._heartbeat = Heartbeat(reactor, launcher.processes, spawner.seconds_waited)
        #: The workers that get connections, and those that will get them after `switch`.
        self._generation = Generation(reactor, launcher, 0)
        self._next: Generation | None = None
        #: Whether workers that end are not replaced, and whether transfers get no more time.
        self.stopping = self._hurried = False
        #: How many workers were started in place of one that had failed.
        self.restarts = 0
        #: Whether all sessions of a client are given to the same worker. Then it knows all that wait at a shared port.
        self.keep_clients_together = False
        self.on_start(self._serve)

    @property
    def count(self) -> int:
        """How many workers there should be."""
        return self._generation.count

    def hand_over(self, connection: Connection, descriptor: int, lease: SessionLease) -> bool:
        """Give a connection to the worker with the fewest sessions, or to the one that has the client's other sessions.

        Return False if none can take it.
        """
        serving = [each for each in self._generation.workers if each.state == "serving"]
        client = connection.route.client
        if self.keep_clients_together:
            serving.sort(key=lambda each: (0, each.index) if each.clients[client] else (1, len(each.leases)))
        else:
            serving.sort(key=lambda each: len(each.leases))
        for worker in serving:
            if worker.take(connection, descriptor, lease):
                return True
            if worker.deaf:  # it has ended, which the spawner tells soon, or it lives with a fault
                self._reactor.callLater(NOTICED, self._terminated, worker, None)
        return False

    # --- generations -----------------------------------------------------------------------------

    async def start(self, count: int, admit: Callable[[int, Address], SessionLease]) -> None:
        """Start the workers. Raises StartFailed if one of them does not become ready.

        Before that, take over those that the last process of the service has left: `admit` counts each of their
        sessions by its number.
        """
        self._launcher.start(self._ended, self._lost)
        answered = upgrade.adopt(self._reactor, self._launcher, admit)
        self._heartbeat.start()
        self._generation = Generation(self._reactor, self._launcher, count)
        await self._generation.start()
        await answered

    async def prepare(self, count: int) -> None:
        """Start other workers, with what the spawner has loaded, for `switch`. Raises StartFailed."""
        self._next = Generation(self._reactor, self._launcher, count, with_loaded=True)
        try:
            await self._next.start()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """End the workers that were prepared, if there are any."""
        if self._next is not None:
            discarded, self._next = self._next, None
            discarded.stop()
            for worker in discarded.workers:
                self._retire(worker)

    async def switch(self) -> None:
        """Give new connections to the workers that were prepared. The others end with their last session.

        They may not be able to load what has changed, so nobody can log in there any more when this returns. A worker
        that does not answer is for the heartbeat to end.
        """
        if self._next is not None:
            old, self._generation, self._next = self._generation, self._next, None
            self._generation.in_use()
            old.stop()
            answers = [worker.link.call("process.retired") for worker in old.workers]
            for worker in old.workers:
                self._retire(worker)
            await DeferredList(answers, consumeErrors=True)

    # --- one worker ------------------------------------------------------------------------------

    def _serve(self, index: int, link: Link) -> None:
        worker = self._launcher.processes[index]
        link.serve("process.ended", lambda numbers: self._sessions_ended(worker, numbers))
        link.serve("process.terminated", lambda seconds: self._terminated(worker, seconds))
        link.serve("process.deaf", lambda: self._terminated(worker, None))

    def _sessions_ended(self, worker: WorkerProcess, numbers: list[int]) -> None:
        worker.sessions_ended(numbers)
        if worker.state == "draining" and not (worker.leases or self.stopping):
            worker.link.tell("process.drain", 0)

    def _retire(self, worker: WorkerProcess) -> None:
        """Give a worker no connections any more. It ends with its last session."""
        worker.state = "draining"
        self._sessions_ended(worker, [])

    def _terminated(self, worker: WorkerProcess, seconds: int | None) -> None:
        """Start another worker in place of one that no longer gets connections.

        Somebody has sent SIGTERM to it: it ends gracefully within some seconds. Without these, it has a fault, and ends
        with its last session. It may get the second SIGTERM, which ends its wait, before it has begun to wait.
        """
        if seconds is not None:
            worker.state = "draining"
            worker.link.tell("process.drain", seconds, self._hurried or seconds == 0)
        elif worker.state == "serving" and self._launcher.processes.get(worker.index) is worker:
            log.error("{worker} no longer gets connections, and is replaced", worker=worker.name)
            self._retire(worker)
        else:
            return
        self._generation.replace(worker)

    def _ended(self, worker: WorkerProcess, status: int, lost: int) -> None:
        """A worker has ended, whatever for."""
        if self.stopping or (worker.state == "draining" and status == 0):
            return
        how = f"was killed by signal {-status}" if status < 0 else f"has ended with exit status {status}"
        text = f"{worker.name} {how}: {lost} session{'' if lost == 1 else 's'} lost"
        if worker.failure:
            text = f"a worker cannot be started: {worker.failure}"
        log.error("{text}", text=text)
        self.restarts += worker in self._generation.workers
        for generation in filter(None, (self._generation, self._next)):
            generation.ended(worker, text)

    def _lost(self) -> None:
        """The spawner has ended."""
        if not self.stopping:
            self._generation.stop(GONE)
            self.discard()
            self._failed(GONE)

    # --- stop ------------------------------------------------------------------------------------

    async def drain(self, seconds: int) -> None:
        """Let all workers end: sessions that are idle now, the others after their transfer, or after some seconds.

        SIGTERM or SIGINT ends the wait.
        """
        self.stopping = True
        self._generation.stop("the daemon is stopping")
        self.discard()
        for worker in self._launcher.processes.values():
            worker.state = "draining"
            worker.link.tell("process.drain", seconds)
        await until(self._reactor, self._launcher.when_empty, seconds + CLOSING + ENDING)
        self._hurried = True
        for worker in self._launcher.processes.values():
            worker.send_signal(signal.SIGTERM)  # ends the wait of a worker that drains
        await until(self._reactor, self._launcher.when_empty, CLOSING + ENDING)

    def stop(self) -> None:
        """End everything at once."""
        self.stopping = True
        self._heartbeat.stop()
        for worker in self._launcher.processes.values():
            worker.send_signal(signal.SIGKILL)
        self._spawner.stop()
