"""Start worker processes, and notice their ends: Launcher."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from twisted.logger import Logger

from ftpsd.processes.forks import datagrams
from ftpsd.processes.forks.spawning import Spawner
from ftpsd.processes.host import StartFailed
from ftpsd.processes.supervision.worker_process import WorkerProcess
from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: The most workers at the same time, those that end with their last session included.
MOST_PROCESSES = 64

#: Seconds for a worker to end after its sessions.
ENDING = 5


class Launcher:
    """All workers that have not ended, and the way to start one."""

    def __init__(self, reactor: Reactor, spawner: Spawner) -> None:
        self._reactor = reactor
        self._spawner = spawner
        self._processes: dict[int, WorkerProcess] = {}
        self._links: dict[int, Link] = {}
        self.processes: Mapping[int, WorkerProcess] = self._processes
        #: The links to the workers, by their indexes.
        self.links: Mapping[int, Link] = self._links
        self._start_callbacks: list[Callable[[int, Link], object]] = []
        self._end_callbacks: list[Callable[[int], object]] = []
        self._ended: Callable[[WorkerProcess, int, int], object] = lambda worker, status, lost: None
        self._when_empty: Callable[[], object] = lambda: None
        #: Whether the spawner has ended.
        self._alone = False

    def on_start(self, call: Callable[[int, Link], object]) -> None:
        """Call back with the index and the link of each worker that starts, before its first call arrives."""
        self._start_callbacks.append(call)

    def on_end(self, call: Callable[[int], object]) -> None:
        """Call back with the index of each worker that has ended. Only then may another one get this index."""
        self._end_callbacks.append(call)

    def start(self, ended: Callable[[WorkerProcess, int, int], object], lost: Callable[[], object]) -> None:
        """Begin. `ended` gets each worker that has ended, its exit status, and how many sessions it had.

        `lost` is called when no worker can be started any more.
        """
        self._ended = ended

        def spawner_lost() -> None:
            self._alone = True
            lost()
            for worker in [each for each in self._processes.values() if each.link.transport is None]:
                worker.await_end(self._reactor, self._orphan_ended)

        self._spawner.start(self._forked, self._not_forked, self._process_ended, spawner_lost)

    def launch(self, with_loaded: bool) -> WorkerProcess:
        """Start a worker, with the configuration that is used, or with the one that the spawner has loaded.

        Raises StartFailed.
        """
        free = [index for index in range(MOST_PROCESSES) if index not in self._processes]
        if not free:
            raise StartFailed(
                f"{MOST_PROCESSES} workers still have sessions: try again when the last session of one has ended"
            )
        index = free[0]
        link = Link(self._reactor, lambda: self._link_lost(worker))
        with ExitStack() as opened:
            try:
                link_end, link_of_worker = map(opened.enter_context, socket.socketpair())
                connections, connections_of_worker = datagrams.pair()
            except OSError as error:
                raise StartFailed(f"no worker can be started: {error.strerror}") from None
            opened.pop_all()
        worker = WorkerProcess(index, link, connections, self._reactor.seconds())
        with link_of_worker, connections_of_worker:
            try:
                self._spawner.spawn(index, with_loaded, [link_of_worker, connections_of_worker])
            except OSError as error:
                worker.ended()
                link_end.close()
                raise StartFailed(f"no worker can be started: {error.strerror}") from None
        self._add(worker, link_end)
        return worker

    def adopt(self, index: int, link_end: socket.socket, connections: socket.socket) -> WorkerProcess:
        """Take over a worker that the last supervisor has left: it drains. The caller asks it for the rest."""

        def link_lost() -> None:
            """Free what it has used as soon as it has ended. No spawner tells when that is."""
            if not worker.is_watched:
                self._reactor.callLater(ENDING, self._orphan_ended, worker)
            else:
                self._reactor.callLater(ENDING, worker.send_signal, signal.SIGKILL)
                worker.await_end(self._reactor, self._orphan_ended)

        link = Link(self._reactor, link_lost)
        worker = WorkerProcess(index, link, connections, self._reactor.seconds())
        worker.state = "draining"
        self._add(worker, link_end)
        return worker

    def _add(self, worker: WorkerProcess, link_end: socket.socket) -> None:
        self._processes[worker.index], self._links[worker.index] = worker, worker.link
        worker.link.connect(link_end)
        for call in self._start_callbacks:
            call(worker.index, worker.link)

    def sessions(self) -> int:
        """Return the number of sessions of all workers."""
        return sum(len(each.leases) for each in self._processes.values())

    def when_empty(self, call: Callable[[], object]) -> None:
        """Call back when the last worker has ended; now if there is none."""
        self._when_empty = call
        if not self._processes:
            call()

    def _link_lost(self, worker: WorkerProcess) -> None:
        """Handle the loss of a worker's link: the worker has ended, is about to end, or has a fault."""
        patience = ENDING if worker.state == "draining" else 0
        self._reactor.callLater(patience, worker.send_signal, signal.SIGKILL)
        if self._alone:
            worker.await_end(self._reactor, self._orphan_ended)

    def _forked(self, index: int, pid: int) -> None:
        self._processes[index].forked(pid)

    def _not_forked(self, index: int, reason: str) -> None:
        worker = self._processes[index]
        worker.failure = reason
        self._remove(worker, 1)

    def _process_ended(self, pid: int, status: int) -> None:
        for worker in [each for each in self._processes.values() if each.pid == pid]:
            self._remove(worker, status)

    def _orphan_ended(self, worker: WorkerProcess) -> None:
        """A worker has closed the link, and ends. It is no child of a spawner, so its exit status is not known."""
        if self._processes.get(worker.index) is worker and not worker.left:
            worker.send_signal(signal.SIGKILL)
            self._remove(worker, 0)

    def _remove(self, worker: WorkerProcess, status: int) -> None:
        del self._processes[worker.index], self._links[worker.index]
        lost = len(worker.leases)
        worker.ended()
        for call in self._end_callbacks:
            call(worker.index)
        self._ended(worker, status, lost)
        if not self._processes:
            self._when_empty()
