"""The workers of a supervisor: start, replace and end them, and give them connections: Workers."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.control.lifecycle.graceful_stop import CLOSING, until
from ftpsd.limits.ledger import SessionLease
from ftpsd.processes.forks import datagrams
from ftpsd.processes.forks.spawning import GONE, Spawner
from ftpsd.processes.handover import Connection
from ftpsd.processes.heartbeat import Heartbeat
from ftpsd.processes.host import StartFailed
from ftpsd.processes.worker_process import WorkerProcess
from ftpsd.system.link import Link, connect
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Seconds after which a worker that ends is no sign of a crash loop; the longest pause before the next start in one.
STABLE = 60
LONGEST_PAUSE = 60

#: Seconds for the workers to end after their sessions.
ENDING = 5


class _Slot:
    """One of the workers that there should be."""

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        #: Seconds to wait before the next start.
        self.pause = 0


class Workers:
    """All workers that have not ended. For the reactor thread.

    Other parts attach themselves with `on_start` and `on_end`; they never fork or kill.
    """

    def __init__(self, reactor: Reactor, spawner: Spawner, failed: Callable[[str], object]) -> None:
        """`failed` is called with the reason when no worker can be started any more."""
        self._reactor = reactor
        self._spawner = spawner
        self._failed = failed
        self._processes: dict[int, WorkerProcess] = {}
        #: The workers that have not ended, by their indexes, and the links to them.
        self.processes: Mapping[int, WorkerProcess] = self._processes
        self._links: dict[int, Link] = {}
        self.links: Mapping[int, Link] = self._links
        self._slots: list[_Slot] = []
        self._start_callbacks: list[Callable[[int, Link], object]] = []
        self._end_callbacks: list[Callable[[int], object]] = []
        self._heartbeat = Heartbeat(reactor, self._processes)
        self._stopping = False
        #: Fires when all workers are ready; None after that.
        self._starting: Deferred[None] | None = None
        #: How many workers were started in place of one that had failed.
        self.restarts = 0
        self._when_empty: Callable[[], object] = lambda: None

    # --- for other parts -------------------------------------------------------------------------

    def on_start(self, call: Callable[[int, Link], object]) -> None:
        """Call back with the index and the link of each worker that starts, before its first call arrives."""
        self._start_callbacks.append(call)

    def on_end(self, call: Callable[[int], object]) -> None:
        """Call back with the index of each worker that has ended. Only then may another one get this index."""
        self._end_callbacks.append(call)

    def sessions(self) -> int:
        """Return the number of sessions of all workers."""
        return sum(len(each.leases) for each in self._processes.values())

    def hand_over(self, connection: Connection, descriptor: int, lease: SessionLease) -> bool:
        """Give a connection to the worker with the fewest sessions. Return False if none can take it."""
        serving = [each for each in self._processes.values() if each.state == "serving"]
        serving.sort(key=lambda each: len(each.leases))
        return any(each.take(connection, descriptor, lease) for each in serving)

    # --- start -----------------------------------------------------------------------------------

    async def start(self, count: int) -> None:
        """Start the workers. Raises StartFailed if one of them does not become ready."""
        self._spawner.start(lambda index, pid: self._processes[index].forked(pid), self._process_ended, self._lost)
        self._starting = Deferred()
        self._slots = [_Slot() for _ in range(count)]
        for slot in self._slots:
            self._launch(slot)
        self._heartbeat.start()
        await self._starting

    def _launch(self, slot: _Slot) -> None:
        """Start the worker of a slot, unless it has one, or everything ends."""
        if self._stopping or slot.worker is not None:
            return
        index = next(each for each in range(len(self._processes) + 1) if each not in self._processes)
        link = Link(self._reactor, lambda: worker.send_signal(signal.SIGKILL))
        link_end, link_of_worker = socket.socketpair()
        connections, connections_of_worker = datagrams.pair()
        worker = WorkerProcess(index, link, connections, self._reactor.seconds())
        with link_of_worker, connections_of_worker:
            try:
                self._spawner.spawn(index, [link_of_worker, connections_of_worker])
            except OSError:
                return  # `_lost` is called
        slot.worker = self._processes[index] = worker
        self._links[index] = link
        link.serve("process.ready", lambda: self._ready(worker))
        link.serve("process.ended", worker.sessions_ended)
        connect(self._reactor, link_end, link)
        for call in self._start_callbacks:
            call(index, link)

    def _ready(self, worker: WorkerProcess) -> None:
        if worker.state == "starting":
            worker.state = "serving"
        ready = [each.worker is not None and each.worker.state == "serving" for each in self._slots]
        if self._starting is not None and all(ready):
            starting, self._starting = self._starting, None
            starting.callback(None)

    # --- the end of a worker, or of the spawner --------------------------------------------------

    def _process_ended(self, pid: int, status: int) -> None:
        """A process has ended, whatever for."""
        for worker in [each for each in self._processes.values() if each.pid == pid]:
            del self._processes[worker.index], self._links[worker.index]
            lost = len(worker.leases)
            worker.ended()
            for call in self._end_callbacks:
                call(worker.index)
            if not (self._stopping or (worker.state == "draining" and status == 0)):
                how = f"was killed by signal {-status}" if status < 0 else f"has ended with exit status {status}"
                text = f"{worker.name} {how}: {lost} session{'' if lost == 1 else 's'} lost"
                self._handle_failure(worker, text)
        if not self._processes:
            self._when_empty()

    def _handle_failure(self, worker: WorkerProcess, text: str) -> None:
        if self._starting is not None:
            self._fail_start(f"{text}; the daemon cannot start")
            return
        log.error("{text}", text=text)
        for slot in [each for each in self._slots if each.worker is worker]:
            self.restarts += 1
            slot.worker = None
            if self._reactor.seconds() - worker.started >= STABLE:
                slot.pause = 0
            self._reactor.callLater(slot.pause, self._launch, slot)
            slot.pause = min(max(1, 2 * slot.pause), LONGEST_PAUSE)

    def _fail_start(self, text: str) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.errback(StartFailed(text))

    def _lost(self) -> None:
        """The spawner has ended."""
        if self._starting is not None:
            self._fail_start(GONE)
        elif not self._stopping:
            self._failed(GONE)

    # --- stop ------------------------------------------------------------------------------------

    async def drain(self, seconds: int) -> None:
        """Let all workers end: sessions that are idle now, the others after their transfer, or after some seconds.

        SIGTERM or SIGINT ends the wait.
        """
        self._stopping = True
        for worker in self._processes.values():
            worker.state = "draining"
            worker.link.tell("process.drain", seconds)
        await until(self._reactor, self._call_when_empty, seconds + CLOSING + ENDING)
        for worker in self._processes.values():
            worker.send_signal(signal.SIGTERM)  # ends the wait of a worker that drains
        await until(self._reactor, self._call_when_empty, CLOSING + ENDING)

    def _call_when_empty(self, call: Callable[[], object]) -> None:
        self._when_empty = call
        if not self._processes:
            call()

    def stop(self) -> None:
        """End everything at once."""
        self._stopping = True
        self._heartbeat.stop()
        for worker in self._processes.values():
            worker.send_signal(signal.SIGKILL)
        self._spawner.stop()
