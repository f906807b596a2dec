"""The composition root: creates all long-lived objects from the settings, at the start and at each reload."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

from twisted.application.service import Service
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import FileLogObserver, ILogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure

from ftpsd.accounts.password_checker import PasswordChecker
from ftpsd.accounts.realm import Realm
from ftpsd.config import load
from ftpsd.config.disk_watch import in_own_thread
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.settings import ListenSettings, PortRange
from ftpsd.control.factory import FtpsFactory
from ftpsd.control.listeners import Listeners
from ftpsd.control.scheduler import Scheduler
from ftpsd.control.services import ControlServices
from ftpsd.data.channel import DataPlane
from ftpsd.data.nat import Announcer
from ftpsd.data.passive_ports import PortPool
from ftpsd.data.shared import Shared
from ftpsd.events.hub import Hub
from ftpsd.events.log import Log
from ftpsd.events.log_budget import LogBudget
from ftpsd.events.log_format import lines
from ftpsd.events.types import ConfigurationLoaded, ConfigurationRefused, DaemonStarted, DaemonStopping
from ftpsd.limits.bans.store import BanStore
from ftpsd.limits.descriptors import raise_descriptor_limit
from ftpsd.limits.ledger import LedgerState, LocalLedger
from ftpsd.limits.session_registry import LocalSessionRegistry, SessionRegistry
from ftpsd.protocol.replies import Reply
from ftpsd.snapshot import Snapshot, policy_of
from ftpsd.storage.local.files import LocalBackend
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.local.root import process_umask
from ftpsd.storage.local.sweeper import Sweeper
from ftpsd.storage.quota import Quotas
from ftpsd.system.periodic import periodic
from ftpsd.system.reactor import Reactor
from ftpsd.system.sandbox import Sandbox
from ftpsd.system.state import Store, directory
from ftpsd.system.systemd import Supervisor
from ftpsd.system.twisted_private import use_monotonic_clock
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Seconds between two looks at the interpreter's threads: short, so that a listing that is being
#: made in one thread does not keep the reactor waiting.
SWITCH_INTERVAL = 0.0005

#: Seconds between two looks at the state file, for bans that `ftpsd bans lift` has lifted.
LOOK_INTERVAL = 0.5


class Options(usage.Options):  # type: ignore[misc]
    """`twistd ftpsd [options]`"""

    synopsis = "[options]"
    longdesc = "An FTPS daemon. See ftpsd(8) and ftpsd.yaml(5)."
    optParameters = [["config", "c", load.DEFAULT, "The configuration file."]]
    optFlags = [["verbose", "v", "Log the commands that only tell something, too."]]


def makeService(options: Options) -> Service:
    """The daemon. What is wrong with its configuration is told line by line, and ends the process."""
    try:
        configuration = load.load(options["config"])
        sandbox = _sandbox(configuration, options["config"], options.parent)
        observer = lines(options.parent) if options.parent else None
        return FtpsService(options["config"], configuration, bool(options["verbose"]), sandbox, observer)
    except InvalidConfiguration as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def _sandbox(configuration: load.Configuration, path: str, twistd: Mapping[str, Any] | None) -> Sandbox:
    settings, tls = configuration.settings, configuration.settings.tls
    files = [Path(path), settings.users.file, tls.certificate, tls.private_key or tls.certificate]
    state = directory(settings.state)
    written = [*configuration.users.homes.parents, *([] if state is None else [os.path.realpath(state)])]
    return Sandbox(settings.sandbox, files, written, twistd)


class FtpsService(Service):
    """The daemon: listeners, workers, and the snapshot that new sessions get."""

    name = "ftpsd"

    def __init__(
        self,
        path: str,
        configuration: load.Configuration,
        verbose: bool = False,
        sandbox: Sandbox | None = None,
        observer: FileLogObserver | None = None,
    ) -> None:
        self._path = os.path.abspath(path)  # twistd changes the directory when it goes to the background
        self._configuration = configuration
        self._sandbox = sandbox
        self._observer = observer
        self._reactor = _installed_reactor()
        self._hub = Hub(self._reactor)
        Log(self._hub, LogBudget(self._reactor), verbose)
        self._workers = WorkerThreads(self._reactor)
        self._store = Store(self._reactor)
        self._counts = LedgerState(self._reactor.seconds)
        self._ban_store = BanStore(self._store, self._counts.bans, time.time, self._hub)
        self._looks = periodic(self._reactor, "looking for lifted bans", self._ban_store.check)
        self._sessions = LocalSessionRegistry()
        #: The running sessions, for administration.
        self.registry: SessionRegistry = self._sessions
        self._services = ControlServices(self._reactor, Scheduler(self._reactor), self._hub, self._sessions)
        self._quotas = Quotas(self._reactor, self._workers, DirectoryMeter())
        self._sweeper = Sweeper(self._reactor, self._workers, self._quotas.changing, time.time)
        self._supervisor = Supervisor(self._reactor, self._sessions.__len__)
        self._pools: dict[PortRange, PortPool] = {}
        self._listeners = Listeners(self._reactor, self._path, self._factory)
        #: Of all snapshots that still have sessions: the address behind NAT changes for all of them.
        self._announcers: WeakSet[Announcer] = WeakSet()
        self._snapshot = self._make_snapshot(configuration)
        self._refresh: LoopingCall | None = None
        self._reading = self._asked_again = False

    # --- making ----------------------------------------------------------------------------------

    def _make_snapshot(self, configuration: load.Configuration) -> Snapshot:
        settings, users = configuration.settings, configuration.users
        ports = settings.passive.ports
        self._workers.patience = settings.timeouts.stalled
        self._announcer = Announcer(settings.passive, self._resolve, configuration.addresses)
        self._announcers.add(self._announcer)
        shared = Shared(
            reactor=self._reactor,
            workers=self._workers,
            ports=self._pools.setdefault(ports, PortPool(ports.low, ports.high)),
            announcer=self._announcer,
            timeouts=settings.timeouts,
            source_port=settings.active.source_port or 0,
            foreign_networks=settings.foreign_networks,
            control_ports=self._listeners.ports,
        )
        users.start(self._workers)
        self._quotas.keep(users.homes.with_quota, users.homes.all)
        ledger = LocalLedger(self._counts, settings.limits, settings.bans)
        realm: Any = Realm(time.time, LocalBackend(self._workers, self._quotas, settings.uploads.fsync), ledger)
        checker: Any = PasswordChecker(users)
        portal = Portal(realm, [checker])
        policy = policy_of(settings)
        shows = users.knows if settings.log.unknown_names == "hide" else lambda name: True
        return Snapshot(settings, portal, configuration.contexts, DataPlane(shared), policy, ledger, time.time, shows)

    def _resolve(self, name: str) -> Any:
        return self._workers.queue("configuration", "login").call(load.resolve, name)

    def _factory(self, settings: ListenSettings) -> FtpsFactory:
        return FtpsFactory(self._services, self._snapshot, settings.tls == "implicit")

    # --- running ---------------------------------------------------------------------------------

    def setServiceParent(self, parent: Any) -> None:
        """twistd's application: it is asked next what observes the log, unless `--logger` says that."""
        super().setServiceParent(parent)
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)

    def privilegedStartService(self) -> None:
        """Binds the listeners, while the process may still bind ports below 1024."""
        super().privilegedStartService()
        try:
            self._listeners.open(self._configuration.settings.listen)
        except InvalidConfiguration as error:
            log.error("{fault}", fault=str(error))
            print(error, file=sys.__stderr__)  # twistd has made sys.stderr a log already
            raise SystemExit(1) from None

    def startService(self) -> None:
        """Start to serve clients."""
        if not self._listeners:
            self.privilegedStartService()
        super().startService()
        sys.setswitchinterval(SWITCH_INTERVAL)
        process_umask()
        raise_descriptor_limit()
        if self._sandbox is not None:
            self._sandbox.enter()  # before there are threads: it holds for those that begin within
        self._workers.start()
        self._store.start(directory(self._configuration.settings.state))
        self._ban_store.restore()
        self._looks.start(LOOK_INTERVAL)
        self._start_refresh()
        self._start_sweeper()
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        self._listeners.serve(self._configuration.settings.listen, self._snapshot)
        self._announcer.warn_if_private()
        self._warn()
        self._supervisor.ready()
        self._hub.publish(DaemonStarted())

    def _warn(self) -> None:
        for warning in load.warnings(self._configuration, time.time()):
            log.warn("{warning}", warning=str(warning))

    def stopService(self) -> Deferred[None]:
        """Drains: no new sessions, time for the transfers that run, then the end. A second signal ends at once."""
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        self._hub.publish(DaemonStopping(self._configuration.settings.timeouts.drain))
        self._supervisor.stopping(self._configuration.settings.timeouts.drain)
        self._counts.sessions.closed = "Server is shutting down: try again later."
        self._listeners.drain()
        self._sessions.dismiss_all(Reply(421, "Server is shutting down. Goodbye."))
        await self._empty_within(self._configuration.settings.timeouts.drain)
        self._sessions.dismiss_all(Reply(421, "Server is shutting down. Transfer interrupted."), immediately=True)
        await self._empty_within(1)
        self._sweeper.stop()
        if self._refresh is not None and self._refresh.running:
            self._refresh.stop()
        await self._listeners.close()
        self._workers.stop()
        if self._looks.running:
            self._looks.stop()
        self._ban_store.stop()
        self._store.stop()
        self._supervisor.stop()

    async def _empty_within(self, seconds: int) -> None:
        over: Deferred[None] = Deferred()

        def end(*_: object) -> None:
            if not over.called:
                over.callback(None)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(end))
        limit = self._reactor.callLater(seconds, end)
        self._sessions.when_empty(end)
        await over
        if limit.active():
            limit.cancel()

    def _start_refresh(self) -> None:
        if self._refresh is not None and self._refresh.running:
            self._refresh.stop()
        self._refresh = None
        if any(announcer.names for announcer in self._announcers):
            self._refresh = periodic(self._reactor, "looking up passive.address", self._look_up)
            self._refresh.start(self._configuration.settings.passive.refresh, now=False)

    def _start_sweeper(self) -> None:
        settings = self._configuration.settings
        users = self._configuration.users
        self._sweeper.start(lambda: users.homes.outermost, settings.uploads.keep_parts, settings.timeouts.stalled)

    def _look_up(self) -> None:
        for announcer in list(self._announcers):
            announcer.refresh()

    # --- reloading -------------------------------------------------------------------------------

    def reload(self) -> Any:
        """Load the configuration again in its own thread. A fault is logged and the old snapshot remains in effect.

        Only one load runs at a time, so that an older load cannot replace a newer one. A request during a load starts
        another load after it.
        """
        self._asked_again = self._reading
        if self._counts.sessions.closed or self._reading:
            return None  # the daemon ends, or it reads
        self._reading = True
        self._supervisor.reloading()
        reading = in_own_thread(self._reactor, partial(load.load, self._path))
        return reading.addCallback(self._use).addErrback(self._stay).addCallback(self._reload_ended)

    def _reload_ended(self, _: None) -> None:
        self._reading = False
        if self._asked_again:
            self.reload()

    def _use(self, configuration: load.Configuration) -> None:
        if self._counts.sessions.closed:
            return
        wanted = configuration.settings.listen
        self._listeners.open(wanted)
        self._configuration = configuration
        self._snapshot = self._make_snapshot(configuration)
        self._listeners.serve(wanted, self._snapshot)
        self._start_refresh()
        self._start_sweeper()
        self._supervisor.ready()
        self._hub.publish(ConfigurationLoaded())
        self._warn()

    def _stay(self, failure: Failure) -> None:
        error = failure.value
        faults = error.faults if isinstance(error, InvalidConfiguration) else [failure.getErrorMessage()]
        self._hub.publish(ConfigurationRefused(tuple(map(str, faults))))
        if self._counts.sessions.closed:
            return
        self._supervisor.ready(f"not reloaded: {faults[0]}")


def _installed_reactor() -> Reactor:
    """Return the reactor, with a clock that no one sets. It is imported late, since importing it installs it."""
    from twisted.internet import reactor

    installed = cast(Reactor, reactor)
    use_monotonic_clock(installed)
    return installed
