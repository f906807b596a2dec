"""All shared ports: SharedPorts opens and closes them, SharedRange is what sessions of one snapshot use of them."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from ftpsd.config.settings import PortRange, Settings
from ftpsd.data.passive.peers import ClientPeers
from ftpsd.data.passive.ports import PassivePort, Ready
from ftpsd.data.passive.routing import KnownTickets
from ftpsd.data.passive.shared_port import BACKLOG, SharedPort
from ftpsd.protocol.parsing import Address
from ftpsd.protocol.replies import NoDataConnection
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Returns a socket that listens on another address of a port on which a socket listens already.
OpenBeside = Callable[[socket.socket, str, int, int], socket.socket]

#: Errors of a machine without IPv6.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Ports(Protocol):
    """Where sessions wait for passive data connections: `own.OwnPorts` or `SharedRange`."""

    low: int
    high: int
    #: Whether several sessions wait at the same port.
    is_shared: bool

    @property
    def used(self) -> int:
        """How many ports are in use."""

    def open(self, host: Address, session: ClientPeers, ready: Ready) -> PassivePort:
        """Let a session listen. `ready` is called when somebody connects. Raises Refusal if no port is free."""


class SharedRange:
    """The shared ports of one configuration snapshot. They stay open as long as this object lives."""

    is_shared = True

    def __init__(self, ports: list[SharedPort], hosts: frozenset[str], guess: bool) -> None:
        self.low, self.high = ports[0].number, ports[-1].number
        self.hosts = hosts
        self._ports = ports
        self._guess = guess

    @property
    def used(self) -> int:
        """How many ports are in use."""
        return sum(bool(len(port.places)) for port in self._ports)

    def open(self, host: Address, session: ClientPeers, ready: Ready) -> PassivePort:
        """Let a session wait at the port at which the fewest sessions of its client do."""
        port = min(self._ports, key=lambda port: port.places.count(session))
        if port.find("") is None:
            raise NoDataConnection("no_port", 425, "The passive port is closed: log in again.")
        return port.wait(session, self._guess, ready)


class SharedPorts:
    """The shared ports of all configuration snapshots.

    A port is opened before the snapshot that uses it is made, and closed when no snapshot uses it any more.
    """

    def __init__(self, reactor: Reactor, workers: WorkerThreads, open_beside: OpenBeside) -> None:
        self._reactor = reactor
        self._workers = workers
        self._open_beside = open_beside
        self._known = KnownTickets()
        self._ports: dict[int, SharedPort] = {}
        self._ranges: WeakSet[SharedRange] = WeakSet()

    def open(self, settings: Settings) -> None:
        """Open the shared ports that are not open yet: all of them, or none. Raises CannotListenError."""
        if settings.passive.shared is None:
            return
        hosts = shared_hosts(settings)
        opened: list[tuple[SharedPort, str]] = []
        try:
            for port in self._of(settings.passive.ports):
                for host in hosts:
                    if port.find(host) is None:
                        port.add_socket(host, self._listen(port, host))
                        opened.append((port, host))
        except CannotListenError:
            for port, host in opened:
                port.close_socket(host)
            raise

    def _of(self, ports: PortRange) -> list[SharedPort]:
        numbers = range(ports.low, ports.high + 1)
        for each in numbers:
            if each not in self._ports:
                self._ports[each] = SharedPort(self._reactor, self._workers, each, self._known)
        return [self._ports[each] for each in numbers]

    def _listen(self, port: SharedPort, host: str) -> socket.socket:
        old = port.find("")
        if old is not None:
            return self._open_beside(old.listener, host, port.number, BACKLOG)
        try:
            return _listen(host, port.number)
        except OSError as error:
            if host != "::" or error.errno not in _NO_IPV6:
                raise CannotListenError(host, port.number, error) from None
        try:
            return _listen("0.0.0.0", port.number)
        except OSError as error:
            raise CannotListenError(host, port.number, error) from None

    def range(self, settings: Settings) -> SharedRange:
        """Return the ports for the sessions of a new snapshot. They are open before its first session begins."""
        shared = settings.passive.shared
        ports = self._of(settings.passive.ports)
        for port in ports:
            port.patience = settings.timeouts.data_connect
        guess = shared is not None and shared.ambiguous == "oldest"
        made = SharedRange(ports, frozenset(shared_hosts(settings)), guess)
        self._ranges.add(made)
        return made

    def close_unused(self) -> None:
        """Close the ports and addresses that no snapshot uses."""
        wanted = {
            (port, host) for each in self._ranges for port in range(each.low, each.high + 1) for host in each.hosts
        }
        for number, port in list(self._ports.items()):
            for host in port.hosts:
                if (number, host) not in wanted:
                    log.info("no longer listening on {host} port {port} (shared)", host=host, port=number)
                    port.close_socket(host)
            if not port.hosts:
                self._ports.pop(number).close()

    def close(self) -> None:
        """Close all ports."""
        for port in self._ports.values():
            port.close()
        self._ports.clear()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
    listener.setblocking(False)
    return listener


def shared_hosts(settings: Settings) -> tuple[str, ...]:
    """Return the addresses on which shared ports listen: those of `listen`, or all if PASV announces others."""
    addresses = {ipaddress.ip_address(each.address) for each in settings.listen}
    if settings.passive.announces_others:
        addresses = {ipaddress.ip_address("::" if each.version == 6 else "0.0.0.0") for each in addresses}
    unspecified = [each for each in addresses if each.is_unspecified]
    if any(each.version == 6 for each in unspecified):
        return ("::",)
    return tuple(str(each) for each in addresses if each in unspecified or each.version == 6 or not unspecified)
