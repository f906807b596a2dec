"""A worker process: its objects, from its start to its end: run_worker, WorkerService."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from functools import partial

import twisted.internet
from twisted.application.service import MultiService
from twisted.internet import epollreactor
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.accounts.one_time.shared_codes import SharedCodes
from ftpsd.config import load
from ftpsd.data.nat import AddressRefresh
from ftpsd.events.hub import Hub
from ftpsd.events.record import Recorder
from ftpsd.figures.local import memory_in_use
from ftpsd.limits.homes.layout import SWEEPING
from ftpsd.limits.linked.bans import LinkedBans
from ftpsd.limits.linked.ledger import LinkedLedger
from ftpsd.limits.shared.patience import when_free
from ftpsd.limits.shared.state import SharedLedgerState
from ftpsd.limits.shared.table import SharedTable
from ftpsd.outbox.outbox import Outbox
from ftpsd.outbox.place import journal_directory
from ftpsd.processes.host import HostParts, worker_count
from ftpsd.processes.ports.handed import serve_ports
from ftpsd.processes.reports import Reports
from ftpsd.processes.sandboxes import worker_sandbox
from ftpsd.processes.sessions import LocalSessions
from ftpsd.processes.snapshots import SnapshotFactory
from ftpsd.processes.worker_loads import WorkerLoads
from ftpsd.processes.worker_sessions import HandedSessions
from ftpsd.system.link import Link
from ftpsd.system.part import Part
from ftpsd.system.presence import Presence
from ftpsd.system.reactor import Reactor
from ftpsd.system.twisted_private import installed_reactor

log = Logger(namespace="ftpsd")


def run_worker(
    path: str, table: int, index: int, configuration: load.Configuration, sockets: list[socket.socket]
) -> None:
    """Be a worker until the supervisor ends it, or has gone.

    `table` is the descriptor of the table that all processes share; `sockets` are the link and the one for connections.
    """
    reactor = _new_reactor()
    shared = SharedTable.attach(table, index)
    shared.patience.start()
    service = WorkerService(reactor, path, shared, configuration, *sockets)
    worker_sandbox(configuration, path).enter()  # before other threads begin
    service.startService()
    shared.patience.serve(reactor)
    reactor.run(installSignalHandlers=False)


def _new_reactor() -> Reactor:
    """Install a reactor in this process. The one that it has inherited belongs to the supervisor, epoll and all."""
    inherited = sys.modules.pop("twisted.internet.reactor")
    del twisted.internet.reactor
    _KEPT.append(inherited)
    epollreactor.install()
    return installed_reactor()


#: Objects of the parent whose end would close descriptors.
_KEPT: list[object] = []


class WorkerService(MultiService):
    """All parts of a worker, as child services."""

    def __init__(
        self,
        reactor: Reactor,
        path: str,
        table: SharedTable,
        configuration: load.Configuration,
        link_end: socket.socket,
        connections_end: socket.socket,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._path = path
        #: What is in use, and what shall be.
        self._configuration = self._wanted = configuration
        self._sockets = link_end, connections_end
        self.link = Link(reactor, self._supervisor_lost)
        hub = Hub(reactor)
        counts = SharedLedgerState(reactor.seconds, table)
        make_ledger = partial(LinkedLedger, self.link, LinkedBans(self.link, table, counts.bans), counts)
        codes = SharedCodes(table, time.time, partial(self.link.tell, "accounts.code_used"))
        refresh = AddressRefresh(reactor)
        writers = worker_count(configuration.settings.workers) + 1
        self._outbox = outbox = Outbox(reactor, hub, Recorder(time.time, hub.durable_ids), "worker", writers)
        self._snapshots = SnapshotFactory(
            reactor,
            counts,
            make_ledger,
            refresh,
            lambda: self._control_ports,
            outbox,
            codes,
        )
        self._control_ports = {each.port for each in configuration.settings.listen}
        parts = HostParts(reactor, path, hub, counts, refresh, self._snapshots, codes)
        self._sessions = LocalSessions(parts, memory_in_use, table.places.byte_lock(0, SWEEPING))
        self._reports = Reports(reactor, hub, self.link, self._sessions, self._snapshots)
        self._snapshot = self._snapshots.make(configuration)
        self._handed = HandedSessions(
            reactor, self.link, self._sessions, lambda: self._snapshot, self._left, self._deaf
        )
        self._reports.with_each(self._handed.tell_ended)
        #: The connection to the next supervisor, after this one has left the process to it.
        self._successor: socket.socket | None = None
        serve_ports(self.link, self._snapshots.shared_ports)
        WorkerLoads(reactor, path, self.link, self._use, self._snapshots.retire)
        self._stopping = self._draining = self._was_terminated = False
        #: Seconds for transfers that run when the process ends.
        self._drain_seconds = 0
        self._add_parts()

    def _add_parts(self) -> None:
        """Add the child services in the order in which they start (see `Part`)."""
        threads, presence = self._snapshots.workers, Presence(self._reactor)
        for part in (
            Part(presence.start, presence.stop),
            Part(self._connect),
            Part(self._reports.start),
            Part(lambda: self._outbox.start(journal_directory(self._configuration.settings, self._path), threads)),
            Part(lambda: None, self._outbox.stop),
            Part(threads.start, threads.stop),
            Part(self._snapshots.sources.start, self._snapshots.sources.stop),
            Part(self._snapshots.object_stores.start, self._snapshots.object_stores.stop),
            Part(self._outbox.serve, self._outbox.close),
            Part(lambda: self._sessions.follow(self._configuration), self._sessions.stop),
            Part(lambda: self._reactor.callLater(0, self.link.tell, "process.ready")),
        ):
            self.addService(part)

    # --- start -----------------------------------------------------------------------------------

    def _connect(self) -> None:
        link, (link_end, connections_end) = self.link, self._sockets
        link.serve("process.ping", lambda: True)
        link.serve("process.drain", self._drain)
        link.serve("process.retired", self._snapshots.retire)
        link.serve("files.process_ended", self._process_ended)
        link.serve("process.adopt", lambda: [os.getpid(), self._handed.running()])
        link.connect(link_end)
        self._handed.start(connections_end)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # they go to the supervisor, which tells its workers what to do
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._terminated))

    def _process_ended(self) -> None:
        """Clean up what another worker that has ended left in users' files."""
        self._outbox.reconcile()
        self._snapshots.quotas.count_doubtful()

    async def _use(self, configuration: load.Configuration) -> None:
        """Use another configuration for new sessions. Raises TableBusy."""
        self._wanted = configuration
        self._control_ports |= {each.port for each in configuration.settings.listen}
        compared = await self._snapshots.compare(configuration)

        def make() -> None:
            if configuration is self._wanted:  # else a newer one has come while a lock was held
                self._snapshot = self._snapshots.make(configuration, compared)
                self._configuration = configuration
                self._sessions.follow(configuration)

        await when_free(self._reactor, make)

    # --- stop ------------------------------------------------------------------------------------

    def _terminated(self) -> None:
        """SIGTERM: end when the supervisor gives no more connections to this worker.

        A second one, before the answer, gives transfers no time.
        """
        seconds = 0 if self._was_terminated else self._configuration.settings.timeouts.drain
        self._was_terminated = True
        self.link.tell("process.terminated", seconds)

    def _deaf(self) -> None:
        """No connection can come any more. If that is no part of a stop, another worker must take the place of this."""
        if not self._stopping:
            self.link.tell("process.deaf")

    def _left(self, successor: socket.socket, seconds: int) -> None:
        """The supervisor makes room for the next one, which adopts this worker until its transfers have finished.

        The link is closed when the supervisor has all events until now.
        """
        self._successor = successor
        self._snapshots.retire()
        self._drain(seconds)
        Deferred.fromCoroutine(self._reports.send()).addBoth(lambda _: self._leave_supervisor())

    def _leave_supervisor(self) -> None:
        """Let the link lead to the next supervisor."""
        if self.link.transport is None:
            self._supervisor_lost()
        else:
            self.link.close()

    def _supervisor_lost(self) -> None:
        """The link is closed: it leads to the next supervisor from now on, if there is one."""
        if self._successor is None:
            self._reactor.callLater(0, self._reactor.callLater, 0, self._supervisor_ended)  # as `MessageReader` does
        else:
            successor, self._successor = self._successor, None
            self.link.connect(successor)  # what is sent waits in the socket until the next supervisor reads it

    def _supervisor_ended(self) -> None:
        """The supervisor has ended. Nobody can connect any more; transfers may finish.

        A worker that was stopped meanwhile reads the end of the link before the message that leaves it to a successor.
        """
        self._handed.accept_all()
        if self._successor is not None or self.link.transport is not None:
            return
        drain = self._configuration.settings.timeouts.drain
        if not self._stopping:
            log.error("the supervisor has ended: this worker ends when its transfers have finished")
            self._drain(drain)
        else:  # SIGTERM ends the wait for transfers, which an upgrade lets run for long
            self._reactor.callLater(drain, os.kill, os.getpid(), signal.SIGTERM)

    def _drain(self, seconds: int, hurried: bool = False) -> None:
        """End all sessions, and then the process. The supervisor gives it no more connections.

        It may say so again: the next supervisor does when it hears that a session has ended, before it knows of the
        others. Only with `hurried` that ends the wait for transfers.
        """
        if not self._stopping:
            self._stopping, self._drain_seconds = True, seconds
            self._reactor.callLater(0, self._reactor.callLater, 0, self._begin_stop)  # as `MessageReader` does
        elif hurried and self._draining:
            os.kill(os.getpid(), signal.SIGTERM)  # to the wait
        elif hurried:
            self._drain_seconds = 0

    def _begin_stop(self) -> None:
        self._handed.accept_all()
        self._draining = True
        Deferred.fromCoroutine(self._stop()).addErrback(self._stop_failed)

    async def _stop(self) -> None:
        await self._sessions.drain(self._drain_seconds)
        self._handed.close()
        await self.stopService()
        await self._reports.finish()
        self._reactor.stop()

    def _stop_failed(self, failure: Failure) -> None:
        log.failure("internal error: a worker cannot stop gracefully", failure)
        self._reactor.stop()
