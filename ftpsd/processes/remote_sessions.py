"""The host of a daemon with worker processes: it accepts connections, and hands those that are admitted to workers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from ftpsd.accounts.chain.shared_logins import SharedLogins
from ftpsd.accounts.one_time.shared_codes import serve_codes
from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.load import Configuration
from ftpsd.config.settings import ListenSettings
from ftpsd.control.incoming.accept import BATCH, ControlPort
from ftpsd.control.incoming.connection import IncomingConnection
from ftpsd.control.incoming.factory import UNDECIDED, FtpsFactory
from ftpsd.control.incoming.route import Route
from ftpsd.control.scheduler import Scheduler
from ftpsd.control.services import ControlServices
from ftpsd.events.linked.log_lines import leave_to_workers
from ftpsd.events.linked.receiver import Receiver
from ftpsd.figures.merged import MergedFigures
from ftpsd.limits.ledger import LocalLedger, SessionLease, SessionRefused, count_session
from ftpsd.limits.linked.serving import serve_ledgers
from ftpsd.limits.merged_registry import MergedSessionRegistry
from ftpsd.limits.session_counts import RejectReason
from ftpsd.limits.session_registry import LocalSessionRegistry
from ftpsd.limits.shared.state import SharedLedgerState
from ftpsd.limits.shared.table import SharedTable, take_over
from ftpsd.processes.forks.spawning import Spawner
from ftpsd.processes.handover import Connection, refuse
from ftpsd.processes.host import HostParts, StartFailed, exit_with_error, worker_count
from ftpsd.processes.ports.remote import RemotePorts
from ftpsd.processes.sandboxes import worker_sandbox
from ftpsd.processes.sessions import local_figures
from ftpsd.processes.supervision import upgrade
from ftpsd.processes.supervision.loading import ConfigurationLoads
from ftpsd.processes.supervision.settling import Settling
from ftpsd.processes.supervisor import Workers
from ftpsd.protocol.addresses import Address, plain_address
from ftpsd.protocol.replies import Reply
from ftpsd.snapshot import Snapshot
from ftpsd.system.landlock import open_no_homes
from ftpsd.system.reactor import Now

log = Logger(namespace="ftpsd")


def supervisor_counts(clock: Now) -> SharedLedgerState:
    """Return the counts of a supervisor: in the table of the last process, if it has left its workers to this one.

    Raises StartFailed.
    """
    descriptor = upgrade.left_table()
    try:
        table = (None if descriptor is None else take_over(descriptor)) or SharedTable.create()
        table.patience.start()
        return SharedLedgerState(clock, table)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "If files are limited in size (LimitFSIZE=, ulimit -f), allow 100 MB, or set workers: 1."
        raise StartFailed(f"the table of all workers cannot be made: {reason}. {remedy}") from None


class RemoteSessions:
    """Serves sessions in worker processes. It accepts the connections itself, so that limits and bans hold for all."""

    def __init__(self, parts: HostParts) -> None:
        self._reactor = parts.reactor
        self._path = parts.path
        assert isinstance(parts.counts, SharedLedgerState)
        self._table = parts.counts.table
        self._spawner = Spawner(parts.reactor, parts.path)
        self.workers = Workers(parts.reactor, self._spawner, lambda reason: exit_with_error(parts.reactor, reason))
        self._counts = parts.counts
        self._settling = settling = Settling(parts.reactor, self.workers.links)
        bans = parts.counts.bans
        serve_ledgers(parts.reactor, self.workers, self._table, bans, lambda: self._ledger, settling.wait)
        self._publish_codes = serve_codes(self.workers, self._table, parts.codes, time.time)
        self.workers.on_end(self._tell_of_end)
        self._loads = ConfigurationLoads(parts.reactor, parts.path, self._spawner, self.workers)
        self._logins = SharedLogins(self.workers, parts.snapshots.recent, parts.snapshots.sources)
        self._receiver = Receiver(parts.reactor, parts.hub, self.workers, parts.log_together)
        self.registry = MergedSessionRegistry(self.workers)
        self.figures = MergedFigures(parts.reactor, local_figures(parts, ()), self.workers)
        none = LocalSessionRegistry(parts.reactor)
        self._services = ControlServices(parts.reactor, Scheduler(parts.reactor), parts.hub, none)
        self.port: type[ControlPort] = HandoverPort
        self.data_ports = RemotePorts(parts.reactor, self.workers)

    def __len__(self) -> int:
        return self.workers.sessions()

    def factory(self, settings: ListenSettings, snapshot: Snapshot) -> FtpsFactory:
        """Return what one listener does with its connections."""
        return HandoverFactory(self._services, snapshot, settings, self.workers, self._settling)

    def fork(self, configuration: Configuration) -> None:
        """Fork the process that will fork workers."""
        self._spawner.fork(configuration, self._table.descriptor)
        self._sandbox = worker_sandbox(configuration, self._path)
        open_no_homes()

    async def start(self, configuration: Configuration) -> None:
        """Start all workers. Raises StartFailed."""
        leave_to_workers()
        self._publish_codes()
        self._make_ledger(configuration)
        self._table.patience.serve(self._reactor)
        self.data_ports.use(configuration.settings)
        count = worker_count(configuration.settings.workers)
        await self.workers.start(count, self._continue)

    def _continue(self, number: int, client: Address) -> SessionLease:
        """Count a session that the last process of the service has admitted. The numbers of new ones are higher."""
        self._services.numbers.skip(number)
        return count_session(self._counts, client)

    async def prepare(self, configuration: Configuration) -> None:
        """Let all workers load the configuration, or start others. Raises InvalidConfiguration with their faults.

        Others are started if their number changes, or if they need files outside of the sandbox of those that run.
        """
        wanted, count = worker_sandbox(configuration, self._path), worker_count(configuration.settings.workers)
        others = count != self.workers.count or not self._sandbox.covers(wanted)
        await self._loads.load(with_workers=not others)
        if others:
            await self._start_others(count)
        self._next_sandbox = wanted if others else None

    async def _start_others(self, count: int) -> None:
        try:
            await self.workers.prepare(count)
        except StartFailed as error:
            remedy = "Look for errors of this worker in the log."
            raise InvalidConfiguration([Fault(self._path, 0, "workers", str(error), remedy)]) from None

    def discard(self) -> None:
        """Forget the last `prepare`: its configuration is not used."""
        self.workers.discard()

    async def use(self, configuration: Configuration) -> None:
        """Let all workers use what they have loaded."""
        self._make_ledger(configuration)
        await self._loads.use(with_workers=self._next_sandbox is None)
        if self._next_sandbox is not None:
            self._sandbox, self._next_sandbox = self._next_sandbox, None
            await self.workers.switch()
        self.data_ports.use(configuration.settings)

    def _tell_of_end(self, _: int) -> None:
        """Let the other workers look after what a worker has left in users' files: this process cannot open them."""
        for link in self.workers.links.values():
            link.tell("files.process_ended")

    def _make_ledger(self, configuration: Configuration) -> None:
        settings = configuration.settings
        #: Decides for all workers.
        self._ledger = LocalLedger(self._counts, settings.limits, settings.bans)

    async def drain(self, seconds: int) -> None:
        """Let all workers end their sessions: idle ones now, the others after their transfer, or after some seconds."""
        await self.workers.drain(seconds)

    def leave(self, listeners: Sequence[socket.socket], seconds: int) -> Deferred[None] | None:
        """Leave all workers to the next process of the service; running transfers get so many seconds."""
        processes = self.workers.processes
        if not upgrade.leave(processes.values(), listeners, self._table.descriptor, seconds):
            return None
        self.workers.stopping = True
        return Deferred.fromCoroutine(upgrade.wait_for_events(self._reactor, processes))

    def stop(self) -> None:
        """End all processes."""
        self.workers.stop()


class HandoverFactory(FtpsFactory):
    """Gives the connections of one listener to workers."""

    def __init__(
        self,
        services: ControlServices,
        snapshot: Snapshot,
        settings: ListenSettings,
        workers: Workers,
        settling: Settling,
    ) -> None:
        super().__init__(services, snapshot, settings)
        self._workers = workers
        self._settling = settling

    def begin(self, route: Route, early: bytes = b"") -> Protocol:
        """Return the protocol of a connection from a proxy, whose header is complete."""
        return DepartingConnection(self, route, early)

    def admit(self, descriptor: int, route: Route, early: bytes = b"") -> None:
        """Let the ledger decide about a connection, and give it to a worker. It is closed here in any case.

        It is a bare descriptor, which is passed on as such.
        """
        self._admit(descriptor, Connection(next(self.services.numbers), route, self.implicit, early), may_wait=True)

    def _admit(self, descriptor: int, connection: Connection, may_wait: bool) -> None:
        ledger = cast(LocalLedger, self.snapshot.ledger)  # all ledgers of the supervisor are of this class
        try:
            try:
                lease = ledger.admit(connection.route.client)
            except SessionRefused as refused:
                if may_wait and refused.reason in ("sessions", "sessions_per_address"):
                    self._settling.wait().addCallback(lambda _: self._admit(descriptor, connection, may_wait=False))
                else:
                    self._reject(descriptor, connection, refused.reason, refused.reply, refused.log_text)
            else:
                self._hand_over(descriptor, connection, lease)
        except Exception:
            log.failure("internal error: the connection cannot be admitted")
            os.close(descriptor)  # both above close it last

    def _hand_over(self, descriptor: int, connection: Connection, lease: SessionLease) -> None:
        if self._workers.hand_over(connection, descriptor, lease):
            os.close(descriptor)
        else:
            lease.release()
            self._reject(descriptor, connection, "undecided", UNDECIDED, "Not admitted: no worker is ready.")

    def _reject(
        self, descriptor: int, connection: Connection, reason: RejectReason, reply: Reply, log_text: str
    ) -> None:
        self.record_rejection(connection.number, connection.route, reason, log_text)
        refuse(socket.socket(fileno=descriptor), reply)


class HandoverPort(ControlPort):
    """A listening port whose connections get no transport in this process."""

    def doRead(self) -> None:
        """A client connects: accept it at once if the reactor does not learn of its socket (see `ControlPort`)."""
        if cast(HandoverFactory, self.factory).settings.proxy_protocol is not None:
            super().doRead()
        else:
            self.accept_batch()

    def accept_batch(self) -> bool:
        """Accept up to BATCH connections. Return whether more may wait."""
        factory = cast(HandoverFactory, self.factory)
        if factory.settings.proxy_protocol is not None:
            return super().accept_batch()
        for _ in range(BATCH):
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return False
            except OSError:  # too many open files, and what else Twisted knows a remedy for
                return super().accept_batch()
            factory.admit(connection.detach(), Route(plain_address(address[0], *address[3:])))
        return True


class DepartingConnection(IncomingConnection):
    """A connection whose transport gives up its socket."""

    def __init__(self, factory: HandoverFactory, route: Route, early: bytes) -> None:
        self._factory = factory
        self._route = route
        self._early = early

    def connectionMade(self) -> None:
        """Take the socket from the transport, which the reactor then forgets."""
        self.transport.stopReading()
        self.transport.stopWriting()
        self._factory.admit(self.transport.getHandle().detach(), self._route, self._early)
