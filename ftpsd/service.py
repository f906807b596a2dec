"""The composition root: settings to a Twisted service. The only maker of objects, reload included."""

from __future__ import annotations

import itertools
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.python import usage
from twisted.python.failure import Failure

from ftpsd import config
from ftpsd.data import Surroundings
from ftpsd.generation import Generation
from ftpsd.limits import Sessions
from ftpsd.log import log
from ftpsd.ports import Announcer, PortPool
from ftpsd.protocol import FtpsFactory
from ftpsd.replies import Reply
from ftpsd.session import Policy
from ftpsd.settings import ListenSettings, PortRange, Settings
from ftpsd.systemd import Supervisor, inherited_listener
from ftpsd.users import PasswordChecker, Realm, process_umask
from ftpsd.workers import Workers
from ftpsd.yamlfile import Fault, Faulty

#: Seconds between two looks at the interpreter's threads: short, so that a listing that is being
#: made in one thread does not keep the reactor waiting.
SWITCH_INTERVAL = 0.0005


class Options(usage.Options):  # type: ignore[misc]
    """`twistd ftpsd [options]`"""

    synopsis = "[options]"
    longdesc = "An FTPS daemon. See ftpsd(8) and ftpsd.yaml(5)."
    optParameters = [["config", "c", config.DEFAULT, "The configuration file."]]
    optFlags = [["verbose", "v", "Log the commands that only tell something, too."]]


def makeService(options: Options) -> Service:
    """The daemon. What is wrong with its configuration is told line by line, and ends the process."""
    try:
        return FtpsService(options["config"], config.load(options["config"]), bool(options["verbose"]))
    except Faulty as faulty:
        print(faulty, file=sys.stderr)
        raise SystemExit(1) from None


class FtpsService(Service):
    """The daemon: listeners, workers, and the generation that new sessions get."""

    name = "ftpsd"

    def __init__(self, path: str, configuration: config.Configuration, verbose: bool = False) -> None:
        self._path = config.absolute(path)
        self._configuration = configuration
        self._verbose = verbose
        self._reactor = _reactor()
        self._workers = Workers(self._reactor)
        self._sessions = Sessions()
        self._supervisor = Supervisor(self._reactor, self._sessions.__len__)
        self._activated = False
        self._numbers = itertools.count(1)
        self._pools: dict[PortRange, PortPool] = {}
        self._listeners: dict[tuple[str, int], Any] = {}
        self._generation = self._generate(configuration)
        self._refresh: LoopingCall | None = None

    # --- making ----------------------------------------------------------------------------------

    def _generate(self, configuration: config.Configuration) -> Generation:
        settings, users = configuration.settings, configuration.users.users
        ports = settings.passive.ports
        self._announcer = Announcer(settings.passive, self._resolve, configuration.addresses)
        surroundings = Surroundings(
            self._reactor,
            self._workers,
            self._pools.setdefault(ports, PortPool(ports.low, ports.high)),
            self._announcer,
            settings.timeouts,
            settings.active.source_port,
            settings.foreign_data,
            settings.tls.close_notify == "lenient",
        )
        realm: Any = Realm(self._workers, users)
        checker: Any = PasswordChecker(self._workers, users)
        portal = Portal(realm, [checker])
        return Generation(settings, portal, configuration.contexts, surroundings, _policy(settings), self._verbose)

    def _resolve(self, name: str) -> Any:
        return self._workers.call(config.look_up, name)

    def _listen(self, settings: ListenSettings) -> Any:
        factory = FtpsFactory(
            self._reactor, self._generation, settings.tls == "implicit", self._sessions, self._numbers
        )
        inherited = inherited_listener(settings.port)
        if inherited is not None:
            self._activated = True
            return self._reactor.adoptStreamPort(*inherited, factory)
        address = settings.address
        if address == "::" and not _has_ipv6():
            address = "0.0.0.0"
        return self._reactor.listenTCP(settings.port, factory, backlog=1024, interface=address)

    # --- running ---------------------------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Binds the listeners, while the process may still bind ports below 1024."""
        super().privilegedStartService()
        try:
            self._open(self._configuration.settings.listen)
        except Faulty as faulty:
            log.error("{fault}", fault=str(faulty))
            print(faulty, file=sys.__stderr__)  # twistd has made sys.stderr a log already
            raise SystemExit(1) from None

    def startService(self) -> None:
        """Serves."""
        if not self._listeners:
            self.privilegedStartService()
        super().startService()
        sys.setswitchinterval(SWITCH_INTERVAL)
        process_umask()
        self._workers.start()
        self._start_refresh()
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        for port in self._listeners.values():
            kind = "implicit" if port.factory.implicit else "explicit"
            host = port.getHost()
            log.info("listening on {host} port {port}, {tls} TLS", host=host.host, port=host.port, tls=kind)
        self._announcer.warn_if_private()
        self._warn()
        self._supervisor.ready()

    def _warn(self) -> None:
        for warning in config.warnings(self._configuration, self._reactor.seconds()):
            log.warn("{warning}", warning=warning)

    def stopService(self) -> Deferred[None]:
        """Drains: no new sessions, time for the transfers that run, then the end. A second signal ends at once."""
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        self._supervisor.stopping()
        self._sessions.closed = "The server is going down. Try again later."
        if self._activated:
            for port in self._listeners.values():
                port.stopReading()  # systemd holds the attempts for whoever comes next
        self._sessions.dismiss(Reply(421, "The server is going down. Goodbye."))
        await self._empty_within(self._configuration.settings.timeouts.drain)
        self._sessions.dismiss(
            Reply(421, "The server is going down, and the time for transfers is over."), at_once=True
        )
        await self._empty_within(1)
        if self._refresh is not None and self._refresh.running:
            self._refresh.stop()
        for port in self._listeners.values():
            await maybeDeferred(port.stopListening)
        self._listeners.clear()
        self._workers.stop()
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
        if self._announcer.names:
            self._refresh = LoopingCall(self._announcer.refresh)
            self._refresh.clock = self._reactor
            self._refresh.start(self._configuration.settings.passive.refresh, now=False)

    # --- reloading -------------------------------------------------------------------------------

    def reload(self) -> Any:
        """Reads everything again, off the reactor thread: a new generation, or the old one and a log."""
        if self._sessions.closed:
            return None  # the daemon ends
        self._supervisor.reloading()
        reading = self._workers.call(config.load, self._path)
        return reading.addCallback(self._use).addErrback(self._stay)

    def _use(self, configuration: config.Configuration) -> None:
        if self._sessions.closed:
            return
        wanted = {(each.address, each.port): each for each in configuration.settings.listen}
        self._open([each for place, each in wanted.items() if place not in self._listeners])
        self._configuration = configuration
        self._generation = self._generate(configuration)
        for place in self._listeners.keys() - wanted.keys():
            self._listeners.pop(place).stopListening()
        for place, port in self._listeners.items():
            port.factory.generation = self._generation
            port.factory.implicit = wanted[place].tls == "implicit"
        self._start_refresh()
        self._supervisor.ready()
        log.info("reloaded: new sessions get the new configuration")
        self._warn()

    def _open(self, wanted: Sequence[ListenSettings]) -> None:
        """Opens listeners, all or none."""
        opened: dict[tuple[str, int], Any] = {}
        try:
            for settings in wanted:
                opened[settings.address, settings.port] = self._listen(settings)
        except CannotListenError as error:
            for port in opened.values():
                port.stopListening()
            text = f"cannot listen on {error.interface} port {error.port}: {error.socketError}"
            fault = Fault(self._path, 0, "listen", text, "Choose another port, or end who has it.")
            raise Faulty([fault]) from None
        self._listeners.update(opened)

    def _stay(self, failure: Failure) -> None:
        faults = failure.value.faults if isinstance(failure.value, Faulty) else [failure.getErrorMessage()]
        for fault in faults:
            log.error("not reloaded: {fault}", fault=str(fault))
        self._supervisor.ready(f"not reloaded: {faults[0]}")
        log.error("the old configuration stays in use")


def _policy(settings: Settings) -> Policy:
    return Policy(
        login_needs_tls=settings.tls.require.login,
        data_needs_tls=settings.tls.require.data,
        active=settings.active.enabled,
        foreign_data=settings.foreign_data,
        own_ports=frozenset(each.port for each in settings.listen),
        login_failures=settings.limits.login_failures,
        idle=settings.timeouts.idle,
    )


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _reactor() -> Any:
    """The reactor: imported late, since importing it installs it, and here only."""
    from twisted.internet import reactor

    return reactor
