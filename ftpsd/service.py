"""The composition root: makes all long-lived objects, and the Twisted service that starts and stops them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from ftpsd.accounts.last_logins import LastLogins
from ftpsd.accounts.one_time.totp import UsedCodes
from ftpsd.admin.administration import Administration
from ftpsd.admin.parts import Parts
from ftpsd.admin.status import StatusReader
from ftpsd.admin.unix_socket import socket_path
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.control.incoming.listeners import Listeners
from ftpsd.control.lifecycle.reload import Reloader, log_warnings
from ftpsd.data.nat import AddressRefresh
from ftpsd.events.event_files import EventFiles
from ftpsd.events.hub import Hub
from ftpsd.events.log import Log
from ftpsd.events.log_budget import LogBudget
from ftpsd.events.log_format import LineObserver, line_observer
from ftpsd.events.record import Recorder
from ftpsd.events.types import DaemonStarted, DaemonStopping
from ftpsd.limits.bans.store import BanStore
from ftpsd.limits.descriptors import raise_descriptor_limit
from ftpsd.limits.ledger import LedgerState, LocalLedger
from ftpsd.limits.shared.patience import TableBusy, when_free
from ftpsd.metrics.service import MetricsService
from ftpsd.outbox.outbox import Outbox
from ftpsd.outbox.place import journal_directory
from ftpsd.processes.host import HostParts, MakeHost, SessionHost, StartFailed, exit_with_error, worker_count
from ftpsd.processes.ports.sockets import DataSockets
from ftpsd.processes.remote_sessions import RemoteSessions, supervisor_counts
from ftpsd.processes.sandboxes import daemon_sandbox, supervisor_sandbox
from ftpsd.processes.sessions import LocalSessions
from ftpsd.processes.snapshots import SnapshotFactory
from ftpsd.processes.supervision import upgrade
from ftpsd.storage.local.root import process_umask
from ftpsd.system.memory import garbage
from ftpsd.system.part import Part
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.presence import Presence
from ftpsd.system.reactor import Now
from ftpsd.system.sandbox import Sandbox
from ftpsd.system.state import Store, directory
from ftpsd.system.systemd.notifier import Notifier
from ftpsd.system.twisted_private import installed_reactor

log = Logger(namespace="ftpsd")

#: Seconds after which the interpreter switches to another thread: short, so that a listing that is made in a worker
#: thread does not keep the reactor waiting.
SWITCH_INTERVAL = 0.0005

#: Seconds between two checks of the state file for bans that `ftpsd bans lift` has lifted.
LIFTED_INTERVAL = 0.5


class Options(usage.Options):  # type: ignore[misc]
    """`twistd ftpsd [options]`"""

    synopsis = "[options]"
    longdesc = "An FTPS daemon. See ftpsd(8) and ftpsd.yaml(5)."
    optParameters = [["config", "c", load.DEFAULT, "The configuration file."]]
    optFlags = [["verbose", "v", "Log commands that only ask for information, too."]]


def makeService(options: Options) -> FtpsService:
    """Return the daemon. Print the faults of its configuration, or why it cannot start, and exit if there are any."""
    path = os.path.abspath(options["config"])  # twistd changes the directory when it goes to the background
    try:
        configuration = load.load(path)
        make_host, make_counts, make_sandbox = _role(configuration)
        removed = filter(None, [socket_path(configuration.settings.admin)])
        sandbox = make_sandbox(configuration, path, options.parent, removed)
        observer = line_observer(options.parent) if options.parent else None
        return FtpsService(path, configuration, make_host, make_counts, bool(options["verbose"]), sandbox, observer)
    except (InvalidConfiguration, StartFailed) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except TableBusy as error:
        print(f"{error}: end it", file=sys.stderr)
        raise SystemExit(1) from None


def _role(configuration: load.Configuration) -> tuple[MakeHost, Callable[[Now], LedgerState], Callable[..., Sandbox]]:
    """Return what serves the sessions, in this process or in others, what counts them, and what makes the sandbox."""
    if worker_count(configuration.settings.workers) == 1:
        return LocalSessions, LedgerState, daemon_sandbox
    return RemoteSessions, supervisor_counts, supervisor_sandbox


def _written(sandbox: Sandbox | None, host: SessionHost) -> Sequence[str] | None:
    """Return the directories in which sessions may write until a restart; None if a reload starts other workers."""
    return sandbox.written if sandbox is not None and isinstance(host, LocalSessions) else None


class FtpsService(MultiService):
    """The daemon: all its parts, as child services, and the snapshot that new sessions get."""

    name = "ftpsd"

    def __init__(
        self,
        path: str,
        configuration: load.Configuration,
        make_host: MakeHost,
        make_counts: Callable[[Now], LedgerState],
        verbose: bool = False,
        sandbox: Sandbox | None = None,
        observer: LineObserver | None = None,
    ) -> None:
        super().__init__()
        self._path = path
        self._configuration = configuration
        self._sandbox = sandbox
        self._observer = observer
        self._reactor = reactor = installed_reactor()
        self._hub = Hub(reactor)
        Log(self._hub, LogBudget(reactor), verbose)
        self._recorder = recorder = Recorder(time.time, self._hub.durable_ids)
        self._event_files = EventFiles(reactor, self._hub, recorder)
        workers = worker_count(configuration.settings.workers)
        self._outbox = Outbox(reactor, self._hub, recorder, "daemon" if workers == 1 else "supervisor", workers + 1)
        self._counts = make_counts(reactor.seconds)
        self._store = Store(reactor)
        self._bans = BanStore(self._store, self._counts.bans, time.time, self._hub)
        self._codes = UsedCodes(self._store, time.time)
        self._last_logins = LastLogins(
            reactor, self._store, self._hub, time.time, lambda name: self._snapshots.users.may_exist(name)
        )
        self._refresh = AddressRefresh(reactor)
        self._snapshots = SnapshotFactory(
            reactor,
            self._counts,
            partial(LocalLedger, self._counts),
            self._refresh,
            lambda: self._listeners.ports(),
            self._outbox,
            self._codes,
        )
        self._host = host = make_host(
            HostParts(
                reactor,
                path,
                self._hub,
                self._counts,
                self._refresh,
                self._snapshots,
                self._codes,
                nullcontext if observer is None else observer.together,
            )
        )
        self._listeners = Listeners(reactor, path, lambda settings: host.factory(settings, self._snapshot), host.port)
        self._data_sockets = DataSockets(reactor, path, host.data_ports)
        self._notifier = Notifier(reactor, host.__len__)
        self._reloader = Reloader(reactor, path, self._apply, self._hub, self._notifier)
        self._snapshot = self._snapshots.make(configuration)
        parts = self._parts()
        self._status = StatusReader(parts)
        self._administration = Administration(parts, self._status, path)
        self._metrics = MetricsService(path, parts, self._status)
        self._add_parts()

    def _parts(self) -> Parts:
        """Return the objects that administration and metrics use."""
        return Parts(
            reactor=self._reactor,
            hub=self._hub,
            recorder=self._recorder,
            now=time.time,
            registry=self._host.registry,
            counts=self._counts,
            figures=self._host.figures,
            bans=self._bans,
            last_logins=self._last_logins,
            listeners=self._listeners,
            workers=self._snapshots.workers,
            quotas=self._snapshots.quotas,
            stores=self._snapshots.object_stores,
            reloader=self._reloader,
            users=lambda: self._snapshots.users,
            configuration=lambda: self._configuration,
            snapshot=lambda: self._snapshot,
            written=lambda: _written(self._sandbox, self._host),
        )

    def _add_parts(self) -> None:
        """Add the child services in the order in which they start (see `Part`)."""
        store, bans = self._store, self._bans
        lifted = PeriodicTask(self._reactor, "looking for lifted bans", bans.check)
        workers, presence = self._snapshots.workers, Presence(self._reactor)

        def journal() -> Path | None:
            return journal_directory(self._configuration.settings, self._path)

        for part in (
            Part(self._prepare_process, self._notifier.stop),
            Part(presence.start, presence.stop),
            Part(self._write_events, self._event_files.stop),
            Part(lambda: store.start(directory(self._configuration.settings.state)), store.stop),
            Part(bans.restore, bans.stop),
            Part(self._codes.restore),
            Part(lambda: lifted.start(LIFTED_INTERVAL), lifted.stop),
            Part(self._last_logins.start, self._last_logins.stop),
            Part(lambda: self._outbox.start(journal(), workers), self._outbox.stop),
            Part(workers.start, workers.stop),
            Part(self._data_sockets.start, self._data_sockets.close),
            Part(lambda: None, self._snapshots.shared_ports.close),
            Part(self._snapshots.sources.start, self._snapshots.sources.stop),
            Part(self._snapshots.object_stores.start, self._snapshots.object_stores.stop),
            Part(self._outbox.serve, self._outbox.close),
            Part(self._administration.start, self._administration.stop),
            Part(lambda: None, self._metrics.close),
            Part(self._reloader.start),
            Part(self._start_host, self._host.stop),
            Part(lambda: None, self._listeners.close),
        ):
            self.addService(part)

    # --- start -----------------------------------------------------------------------------------

    def setServiceParent(self, parent: Componentized) -> None:
        """Join twistd's application, and let it use our log observer unless `--logger` names another one."""
        super().setServiceParent(parent)
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)

    def privilegedStartService(self) -> None:
        """Bind the listeners, while the process may still bind ports below 1024."""
        super().privilegedStartService()
        settings = self._configuration.settings
        try:
            with self._data_sockets.opening(settings), self._metrics.opening(settings.metrics):
                self._listeners.open(settings.listen)
                self._administration.open(settings.admin)
        except InvalidConfiguration as error:
            log.error("{fault}", fault=str(error))
            print(error, file=sys.__stderr__)  # twistd has redirected sys.stderr to the log
            raise SystemExit(1) from None

    def startService(self) -> None:
        """Start all parts, and report the start when the reactor runs."""
        super().startService()
        garbage.keep_all()
        self._snapshot.data.warn_if_private()
        log_warnings(self._configuration)

    def _prepare_process(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        process_umask()
        raise_descriptor_limit()
        self._host.fork(self._configuration)  # before other threads begin: a forked process has one thread
        if self._sandbox is not None:
            self._sandbox.enter()  # for the same reason: it applies to this thread and those that it starts

    def _start_host(self) -> None:
        starting: Deferred[None] = Deferred.fromCoroutine(self._host.start(self._configuration))
        starting.addCallbacks(self._started, self._not_started)

    def _started(self, _: None) -> None:
        self._serve()
        if isinstance(self._host, LocalSessions):
            upgrade.decline()

        def report() -> None:
            self._notifier.ready()
            self._hub.publish(DaemonStarted())

        self._reactor.callLater(0, report)  # before the reactor runs, SIGTERM would not stop the daemon gracefully

    def _not_started(self, failure: Failure) -> None:
        reason = failure.getErrorMessage()
        if failure.check(StartFailed) is None:
            log.failure("internal error: the daemon cannot start", failure)
            reason = f"the daemon cannot start: {reason}"
        # Later: the reactor may not run yet, and cannot be stopped then.
        self._reactor.callLater(0, exit_with_error, self._reactor, reason)

    # --- start and reload ------------------------------------------------------------------------

    async def _apply(self, configuration: load.Configuration) -> None:
        """Use a new configuration for new sessions.

        Raises InvalidConfiguration if a listener cannot be opened, and TableBusy. The last one is in use then.
        """
        await self._host.prepare(configuration)
        compared = await self._snapshots.compare(configuration)
        if self._reloader.stopped:  # meanwhile
            self._host.discard()
            return
        settings = configuration.settings
        try:
            with self._data_sockets.opening(settings), self._metrics.opening(settings.metrics):
                self._listeners.open(settings.listen)
                snapshot = await when_free(self._reactor, partial(self._snapshots.make, configuration, compared))
        except BaseException:
            self._host.discard()
            self._serve()  # closes what was opened
            raise
        self._configuration, self._snapshot = configuration, snapshot
        await self._host.use(configuration)
        self._serve()
        self._write_events()

    def _serve(self) -> None:
        self._listeners.serve(self._configuration.settings.listen, self._snapshot)
        self._metrics.serve(self._configuration.settings.metrics)
        self._data_sockets.close_unused()

    def _write_events(self) -> None:
        events = self._configuration.settings.events
        self._event_files.use(events.audit, events.xferlog)

    # --- stop ------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        """Stop gracefully: refuse new sessions, let running transfers finish within `timeouts.drain`, then close.

        A second signal stops at once.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        timeouts = self._configuration.settings.timeouts
        wanted = upgrade.is_wanted()
        left = self._host.leave(self._listeners.own(), timeouts.drain_upgrade) if wanted else None
        if left is not None:
            self._listeners.abandon()
            self._reloader.stop()
            await left
            await super().stopService()
            return
        drain = timeouts.drain
        self._hub.publish(DaemonStopping(drain))
        self._notifier.stopping(drain)
        self._reloader.stop()
        self._counts.sessions.closed = "Server is shutting down: try again later."
        self._listeners.drain()
        await self._host.drain(drain)
        await super().stopService()
