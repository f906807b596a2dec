"""Shared ports in the process of the sessions: SharedPorts, and SharedRange for those of one configuration snapshot."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from twisted.internet.defer import Deferred

from ftpsd.config.settings import Settings
from ftpsd.data.passive.peers import ClientPeers, Origin
from ftpsd.data.passive.ports import PassivePort, Ready
from ftpsd.data.passive.routing import KnownTickets, resumes, security_of
from ftpsd.data.passive.shared_port import SharedPort
from ftpsd.data.passive.shared_sockets import Key, shared_keys
from ftpsd.protocol.addresses import Address
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads


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
    """The shared ports of one configuration snapshot. Their sockets stay open as long as this object lives."""

    is_shared = True

    def __init__(self, ports: list[SharedPort], keys: set[Key], guess: bool) -> None:
        self.low, self.high = ports[0].number, ports[-1].number
        #: The sockets.
        self.keys = keys
        self._ports = ports
        self._guess = guess

    @property
    def used(self) -> int:
        """How many ports are used up: none, since any number of sessions can wait at each."""
        return 0

    def open(self, host: Address, session: ClientPeers, ready: Ready) -> PassivePort:
        """Let a session wait at the port at which the fewest sessions of its client do."""
        port = min(self._ports, key=lambda port: port.places.count(session))
        return port.wait(session, self._guess, ready)


class SharedPorts:
    """The shared ports of all configuration snapshots, and the sessions that wait there."""

    def __init__(self, reactor: Reactor, workers: WorkerThreads) -> None:
        #: Accepts the connections that the kernel has for a port, if its socket is in this process.
        self.look: Callable[[int], object] = lambda port: None
        self._reactor = reactor
        self._workers = workers
        self._known = KnownTickets()
        self._ports: dict[int, SharedPort] = {}
        self._ranges: WeakSet[SharedRange] = WeakSet()

    def range(self, settings: Settings) -> SharedRange:
        """Return the ports for the sessions of a new snapshot."""
        ports = [self._port(each) for each in range(settings.passive.ports.low, settings.passive.ports.high + 1)]
        for port in ports:
            port.patience = settings.timeouts.data_connect
        shared = settings.passive.shared
        made = SharedRange(ports, shared_keys(settings), shared is not None and shared.ambiguous == "oldest")
        self._ranges.add(made)
        return made

    def _port(self, number: int) -> SharedPort:
        if number not in self._ports:
            self._ports[number] = SharedPort(
                self._reactor, self._workers, number, self._known, lambda port: self.look(port)
            )
        return self._ports[number]

    @property
    def keys(self) -> set[Key]:
        """The sockets that some snapshot needs."""
        return {key for each in self._ranges for key in each.keys}

    def arrived(self, port: int, connection: socket.socket, origin: Origin) -> None:
        """Give a new connection to its session."""
        self._port(port).arrived(connection, origin)

    def waits(self, port: int, origin: Origin) -> bool:
        """Return whether a session waits for a connection of this origin, or has lately left without it."""
        return self._port(port).places.expect(origin)

    def resumes(self, port: int, origin: Origin, hello: bytes) -> Deferred[bool]:
        """Return whether a ClientHello of this origin resumes a session that waits."""
        return resumes(self._workers, self._port(port).places.of(origin), self._known, origin, hello)

    def doubt(self, port: int, origin: Origin, wants_tls: bool) -> None:
        """A connection has come that may belong to sessions of several processes, in plain text or with TLS."""
        for place in self._port(port).places.of(origin):
            if (security_of(place) is not None) == wants_tls:
                place.suspect()

    def through_proxy(self, port: int, peer: Address) -> bool:
        """Return whether the connections of a host begin with a header, since it is a proxy of sessions that wait."""
        return self._port(port).places.through_proxy(peer)

    def close(self) -> None:
        """Close the connections that were not given to a session."""
        for port in self._ports.values():
            port.close()
