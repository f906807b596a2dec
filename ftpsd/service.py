"""The composition root: makes all long-lived objects, and the Twisted service that starts and stops them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from twisted.application.service import MultiService
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.logger import FileLogObserver, ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from ftpsd.accounts.anonymous import with_anonymous
from ftpsd.accounts.certificate_checker import CertificateChecker, CertificatePolicy
from ftpsd.accounts.chain.factory import StoreFactory
from ftpsd.accounts.last_logins import LastLogins
from ftpsd.accounts.password_checker import PasswordChecker
from ftpsd.accounts.realm import Realm
from ftpsd.accounts.totp import UsedCodes
from ftpsd.accounts.user_store import UserStore
from ftpsd.admin.administration import Administration
from ftpsd.admin.parts import Parts
from ftpsd.admin.status import StatusReader
from ftpsd.admin.unix_socket import socket_path
from ftpsd.config import load, sources
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.groups import SharedSettings
from ftpsd.config.settings import ListenSettings, PortRange, QuotaSettings, Settings
from ftpsd.config.tls import client_certificates
from ftpsd.control.incoming.factory import FtpsFactory
from ftpsd.control.incoming.listeners import Listeners
from ftpsd.control.lifecycle.graceful_stop import stop_gracefully
from ftpsd.control.lifecycle.reload import Reloader, log_warnings
from ftpsd.control.scheduler import Scheduler
from ftpsd.control.services import ControlServices
from ftpsd.data.channel import DataPlane
from ftpsd.data.nat import AddressRefresh, Announcer
from ftpsd.data.passive.ports import PortPool
from ftpsd.data.shared import Shared
from ftpsd.events.event_files import EventFiles
from ftpsd.events.hub import Hub
from ftpsd.events.log import Log
from ftpsd.events.log_budget import LogBudget
from ftpsd.events.log_format import line_observer
from ftpsd.events.record import Recorder
from ftpsd.events.types import DaemonStarted, DaemonStopping
from ftpsd.limits.bans.store import BanStore
from ftpsd.limits.descriptors import raise_descriptor_limit
from ftpsd.limits.ledger import Ledger, LedgerState, LocalLedger
from ftpsd.limits.session_registry import LocalSessionRegistry, SessionRegistry
from ftpsd.limits.transfer_counts import TransferCounts
from ftpsd.metrics.service import MetricsService
from ftpsd.outbox.outbox import Outbox
from ftpsd.outbox.place import journal_directory
from ftpsd.snapshot import Snapshot, policy_of
from ftpsd.storage.folders.tree import FolderTrees
from ftpsd.storage.local.files import LocalBackend
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.local.root import process_umask
from ftpsd.storage.local.sweeper import Sweeper
from ftpsd.storage.quota import Quotas
from ftpsd.system.aws import boto
from ftpsd.system.part import Part
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Reactor
from ftpsd.system.sandbox import Sandbox
from ftpsd.system.state import Store, directory
from ftpsd.system.systemd import Notifier
from ftpsd.system.twisted_private import installed_reactor
from ftpsd.system.worker_threads import WorkerThreads

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
    """Return the daemon. Print the faults of its configuration and exit if there are any."""
    try:
        configuration = load.load(options["config"])
        sandbox = _sandbox(configuration, options["config"], options.parent)
        observer = line_observer(options.parent) if options.parent else None
        return FtpsService(options["config"], configuration, bool(options["verbose"]), sandbox, observer)
    except InvalidConfiguration as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def _sandbox(configuration: load.Configuration, path: str, twistd: Mapping[str, object] | None) -> Sandbox:
    settings = configuration.settings
    files = [Path(path), settings.users.file, *sources.sandbox_files(settings)]
    files += [directory / "NAME.yaml" for directory in (settings.users.files, settings.users.group_files)]
    files += [file for _, pair in settings.tls.pairs for file in (pair.certificate, pair.key_file)]
    files += [file for _, file in client_certificates.files(settings)]
    if settings.storage:
        secrets = (each.credentials.secret_access_key_file for each in settings.storage.values())
        files += [*map(Path, boto.files()), *filter(None, secrets)]
    events = settings.events
    beside = [each.parent for each in (events.audit, events.xferlog) if each is not None]
    elsewhere = sources.sandbox_directories(settings)
    written = map(os.path.realpath, filter(None, (directory(settings.state), events.directory, *beside, *elsewhere)))
    removed = filter(None, [socket_path(settings.admin)])
    return Sandbox(settings.sandbox, files, [*configuration.users.homes.parents, *written], twistd, removed)


class SnapshotFactory:
    """Makes the configuration snapshot of each load. What sessions of all snapshots share is given to it."""

    def __init__(
        self,
        reactor: Reactor,
        counts: LedgerState,
        refresh: AddressRefresh,
        control_ports: Callable[[], set[int]],
        outbox: Outbox,
        codes: UsedCodes,
    ) -> None:
        self._reactor = reactor
        self._counts = counts
        self._refresh = refresh
        self._control_ports = control_ports
        self._outbox = outbox
        self._codes = codes
        self.workers = WorkerThreads(reactor)
        self._stores = StoreFactory(reactor, self.workers)
        self.sources = self._stores.sources
        self.transfers = TransferCounts(reactor.seconds)
        self.quotas = Quotas(reactor, self.workers, DirectoryMeter(), counts.homes)
        #: Snapshots with the same port range share its ports.
        self._pools: dict[PortRange, PortPool] = {}

    def make(self, configuration: load.Configuration) -> Snapshot:
        """Return the snapshot for new sessions. Work that the users need begins in worker threads."""
        settings = configuration.settings
        #: The users of the last snapshot.
        self.users = self._stores.make(
            settings, configuration.users, configuration.sources, configuration.builder.build
        )
        users = with_anonymous(self.users, configuration.anonymous)
        self.workers.patience = settings.timeouts.stalled
        homes = users.homes  # is computed at each access
        self.quotas.keep(homes.with_quota, homes.all, homes.of_groups)
        ledger = LocalLedger(self._counts, settings.limits, settings.bans)
        return Snapshot(
            settings=settings,
            portal=self._portal(settings, configuration.layers.shared, users, ledger),
            contexts=configuration.contexts,
            data=DataPlane(self._shared(configuration)),
            policy=policy_of(settings),
            ledger=ledger,
            now=time.time,
            shows=users.knows if settings.log.unknown_names == "hide" else lambda name: True,
        )

    def _portal(
        self, settings: Settings, groups: Mapping[str, SharedSettings], users: UserStore, ledger: Ledger
    ) -> Portal:
        quotas = {name: group.quota for name, group in groups.items() if group.quota != QuotaSettings()}
        files = LocalBackend(self.workers, self.quotas, settings.uploads.fsync, self._outbox.use(settings), quotas)
        trees = FolderTrees(files, lambda folder: files, self.workers, self._reactor, time.time())
        realm = cast(IRealm, Realm(time.time, trees, ledger, groups))
        clients = settings.tls.clients
        policy = None if clients is None else CertificatePolicy(users, clients)
        checkers = (
            PasswordChecker(users, self._codes, time.time, policy),
            CertificateChecker(users, self._codes, time.time),
        )
        return Portal(realm, [cast(ICredentialsChecker, each) for each in checkers])

    def _shared(self, configuration: load.Configuration) -> Shared:
        settings = configuration.settings
        ports = settings.passive.ports
        announcer = Announcer(settings.passive, self._resolve, configuration.addresses)
        self._refresh.add(announcer)
        return Shared(
            reactor=self._reactor,
            workers=self.workers,
            ports=self._pools.setdefault(ports, PortPool(ports.low, ports.high)),
            announcer=announcer,
            timeouts=settings.timeouts,
            source_port=settings.active.source_port or 0,
            foreign_networks=settings.foreign_networks,
            control_ports=self._control_ports,
            transfers=self.transfers,
        )

    def _resolve(self, name: str) -> Deferred[str]:
        return self.workers.queue("configuration", "login").call(load.resolve, name)


class FtpsService(MultiService):
    """The daemon: all its parts, as child services, and the snapshot that new sessions get."""

    name = "ftpsd"

    def __init__(
        self,
        path: str,
        configuration: load.Configuration,
        verbose: bool = False,
        sandbox: Sandbox | None = None,
        observer: FileLogObserver | None = None,
    ) -> None:
        super().__init__()
        path = os.path.abspath(path)  # twistd changes the directory when it goes to the background
        self._path = path
        self._configuration = configuration
        self._sandbox = sandbox
        self._observer = observer
        self._reactor = reactor = installed_reactor()
        self._hub = Hub(reactor)
        Log(self._hub, LogBudget(reactor), verbose)
        self._recorder = recorder = Recorder(time.time)
        self._event_files = EventFiles(reactor, self._hub, recorder)
        self._outbox = Outbox(reactor, self._hub, recorder)
        self._counts = LedgerState(reactor.seconds)
        self._store = Store(reactor)
        self._bans = BanStore(self._store, self._counts.bans, time.time, self._hub)
        self._codes = UsedCodes(self._store, time.time)
        self._last_logins = LastLogins(
            reactor, self._store, self._hub, time.time, lambda name: self._snapshots.users.may_exist(name)
        )
        self._sessions = LocalSessionRegistry(reactor)
        #: The running sessions, for administration.
        self.registry: SessionRegistry = self._sessions
        self._notifier = Notifier(reactor, self._sessions.__len__)
        self._services = ControlServices(reactor, Scheduler(reactor), self._hub, self._sessions)
        self._listeners = Listeners(reactor, path, self._factory)
        self._refresh = AddressRefresh(reactor)
        self._snapshots = SnapshotFactory(
            reactor, self._counts, self._refresh, self._listeners.ports, self._outbox, self._codes
        )
        self._sweeper = Sweeper(reactor, self._snapshots.workers, self._snapshots.quotas.changing, time.time)
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
            registry=self.registry,
            counts=self._counts,
            transfers=self._snapshots.transfers,
            bans=self._bans,
            last_logins=self._last_logins,
            listeners=self._listeners,
            workers=self._snapshots.workers,
            quotas=self._snapshots.quotas,
            reloader=self._reloader,
            sources=self._snapshots.sources,
            users=lambda: self._snapshots.users,
            configuration=lambda: self._configuration,
            snapshot=lambda: self._snapshot,
        )

    def _add_parts(self) -> None:
        """Add the child services in the order in which they start (see `Part`)."""
        store, bans = self._store, self._bans
        lifted = PeriodicTask(self._reactor, "looking for lifted bans", bans.check)
        workers = self._snapshots.workers
        for part in (
            Part(self._prepare_process, self._notifier.stop),
            Part(self._write_events, self._event_files.stop),
            Part(lambda: store.start(directory(self._configuration.settings.state)), store.stop),
            Part(bans.restore, bans.stop),
            Part(self._codes.restore),
            Part(lambda: lifted.start(LIFTED_INTERVAL), lifted.stop),
            Part(self._last_logins.start, self._last_logins.stop),
            Part(self._start_outbox, self._outbox.stop),
            Part(workers.start, workers.stop),
            Part(self._snapshots.sources.start, self._snapshots.sources.stop),
            Part(self._outbox.serve, self._outbox.close),
            Part(self._start_refresh, self._refresh.stop),
            Part(self._start_sweeper, self._sweeper.stop),
            Part(self._administration.start, self._administration.stop),
            Part(lambda: None, self._metrics.close),
            Part(self._reloader.start),
            Part(self._serve, self._listeners.close),
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
            with self._metrics.opening(settings.metrics):
                self._listeners.open(settings.listen)
                self._administration.open(settings.admin)
        except InvalidConfiguration as error:
            log.error("{fault}", fault=str(error))
            print(error, file=sys.__stderr__)  # twistd has redirected sys.stderr to the log
            raise SystemExit(1) from None

    def startService(self) -> None:
        """Start all parts, and report the start when the reactor runs."""
        super().startService()
        self._snapshot.data.warn_if_private()
        log_warnings(self._configuration)

        def report() -> None:
            self._notifier.ready()
            self._hub.publish(DaemonStarted())

        self._reactor.callLater(0, report)  # before the reactor runs, SIGTERM would not stop the daemon gracefully

    def _prepare_process(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        process_umask()
        raise_descriptor_limit()
        if self._sandbox is not None:
            self._sandbox.enter()  # before other threads begin: it applies to this thread and those that it starts

    def _factory(self, settings: ListenSettings) -> FtpsFactory:
        return FtpsFactory(self._services, self._snapshot, settings)

    # --- start and reload ------------------------------------------------------------------------

    def _apply(self, configuration: load.Configuration) -> None:
        """Use a new configuration for new sessions. Raises InvalidConfiguration if a listener cannot be opened."""
        with self._metrics.opening(configuration.settings.metrics):
            self._listeners.open(configuration.settings.listen)
        self._configuration = configuration
        self._snapshot = self._snapshots.make(configuration)
        self._serve()
        self._start_refresh()
        self._start_sweeper()
        self._write_events()

    def _serve(self) -> None:
        self._listeners.serve(self._configuration.settings.listen, self._snapshot)
        self._metrics.serve(self._configuration.settings.metrics)

    def _start_outbox(self) -> None:
        place = journal_directory(self._configuration.settings, self._path)
        self._outbox.start(place, self._snapshots.workers)

    def _start_refresh(self) -> None:
        self._refresh.start(self._configuration.settings.passive.refresh)

    def _start_sweeper(self) -> None:
        settings, users = self._configuration.settings, self._snapshots.users
        self._sweeper.start(lambda: users.homes.outermost, settings.uploads.keep_parts, settings.timeouts.stalled)

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
        drain = self._configuration.settings.timeouts.drain
        self._hub.publish(DaemonStopping(drain))
        self._notifier.stopping(drain)
        self._reloader.stop()
        self._counts.sessions.closed = "Server is shutting down: try again later."
        await stop_gracefully(self._reactor, self._listeners, self._sessions, drain)
        await super().stopService()
