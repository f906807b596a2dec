"""The pool of passive ports, and a listener on one of them."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.protocol.addresses import Address, plain_address, socket_address
from ftpsd.protocol.replies import NoDataConnection
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Parsing an address takes 10 µs, and a client has many data connections.
client_address = lru_cache(maxsize=1024)(plain_address)

#: Connections to a passive port that the kernel keeps until they are accepted.
BACKLOG = 8


def data_socket(connection: socket.socket) -> socket.socket:
    """Prepare a connected socket for a transfer."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class PortPool:
    """The configured range. A port is in use while it listens, and free again when it is closed."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self._range = range(low, high + 1)
        self._taken: set[int] = set()

    @property
    def used(self) -> int:
        """How many ports are in use."""
        return len(self._taken)

    def listen(self, host: Address) -> tuple[socket.socket, int]:
        """Return a listening socket on a random free port, and the port. Raises Refusal if no port is free."""
        start = int(random.random() * len(self._range))
        for step in range(len(self._range)):
            port = self._range[(start + step) % len(self._range)]
            if port not in self._taken and (listener := _try_to_listen(host, port)):
                self._taken.add(port)
                return listener, port
        raise NoDataConnection("no_port", 425, "All passive ports are in use: try again later.")

    def release(self, port: int) -> None:
        """Return a port to the pool: its listener is closed."""
        self._taken.discard(port)


def _try_to_listen(host: Address, port: int) -> socket.socket | None:
    family = socket.AF_INET if host.version == 4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(socket_address(host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        return None
    return listener


class Peers(Protocol):
    """Decides which hosts may connect to a passive port."""

    def admits(self, peer: Address) -> bool:
        """Return whether a host may connect. May be called in a worker thread."""

    def refused(self, peer: Address) -> None:
        """A connection was closed because its host may not connect. May be called in a worker thread."""


#: Is called when somebody connects.
Ready = Callable[[], object]


class PassivePort(Protocol):
    """The passive port of one session, which may be its own (`Listener`) or shared with others (`places.Place`).

    All methods are for the reactor thread. While `ready` is not wanted, `accept`, `fileno` and `close` may be called in
    another one.
    """

    port: int
    #: Why there may be no connection for this session, although one has come.
    doubt: NoDataConnection | None

    def watch(self) -> None:
        """Call `ready` when somebody connects or has connected. May be called any number of times."""

    def unwatch(self) -> None:
        """Call `ready` no more. May be called any number of times."""

    def look(self) -> None:
        """Find connections that the reactor has not seen yet: `accept` follows."""

    def accept(self) -> socket.socket | None:
        """Return the next connection from a host that may connect, or None if there is none now."""

    def fileno(self) -> int:
        """Return a descriptor that is readable while `accept` has a connection."""

    def close(self) -> None:
        """Stop listening. May be called any number of times."""


@implementer(IReadDescriptor)
class Listener:
    """One passive port. Connections from hosts that may not connect are closed.

    The reactor watches it between `watch` and `unwatch` only, and calls `ready` when somebody connects. While it is not
    watched, `accept` and `close` may be called in another thread: most clients have connected before they send
    the transfer command.
    """

    def __init__(self, reactor: Reactor, pool: PortPool, host: Address, peers: Peers, ready: Ready) -> None:
        self._reactor = reactor
        self._pool = pool
        self._peers = peers
        self._ready = ready
        self._watched = False
        #: Every connection to this port is for this session.
        self.doubt: NoDataConnection | None = None
        self._socket, self.port = pool.listen(host)

    def watch(self) -> None:
        """Let the reactor watch the port. May be called any number of times."""
        if not self._watched and self._socket.fileno() >= 0:
            self._watched = True
            self._reactor.addReader(self)

    def unwatch(self) -> None:
        """Let the reactor watch the port no longer. May be called any number of times."""
        if self._watched:
            self._watched = False
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Somebody connects."""
        self._ready()

    def look(self) -> None:
        """Do nothing: `accept` asks the kernel."""

    def accept(self) -> socket.socket | None:
        """Return the next connection from a host that may connect, or None if there is none now."""
        for _ in range(BACKLOG):
            found = self._next()
            if found is None:
                return None
            connection, peer = found
            if self._peers.admits(peer):
                return data_socket(connection)
            self._refuse(connection, peer)
        return None

    def _next(self) -> tuple[socket.socket, Address] | None:
        """Accept the next connection, whoever it is from."""
        try:
            connection, address = self._socket.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            # No descriptor is free: another attempt now would only spin. The client gets 425 after a timeout.
            log.warn("a data connection could not be accepted: {error}", error=error.strerror)
            self.close()
            return None
        return connection, client_address(address[0], *address[3:])

    def _refuse(self, connection: socket.socket, peer: Address) -> None:
        connection.close()
        self._peers.refused(peer)

    def close(self) -> None:
        """Stop listening. May be called any number of times."""
        if self._socket.fileno() >= 0:
            self.unwatch()
            self._socket.close()
            self._pool.release(self.port)

    def fileno(self) -> int:
        """Return the socket's descriptor, for the reactor's poll."""
        return self._socket.fileno()

    def doWrite(self) -> None:
        """Do nothing: an event for a listening socket belongs to an old descriptor (see `connectionLost`)."""

    def connectionLost(self, reason: Failure) -> None:
        """Continue to watch the socket: a listening socket cannot lose its connection.

        The reactor polls several events together. If it closes a descriptor while it handles them, this socket may get
        the same number, and then the event of the old descriptor arrives here (see `control/incoming/accept.py`).
        """
        if self._watched:
            self._reactor.addReader(self)

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "passive port"
