"""A port that all sessions share: SharedPort."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.data.passive.arrivals import Arrival
from ftpsd.data.passive.headers import HeaderWait
from ftpsd.data.passive.peers import ClientPeers
from ftpsd.data.passive.places import Origin, Place, Places
from ftpsd.data.passive.ports import Ready, client_address, data_socket
from ftpsd.data.passive.routing import KnownTickets, Router
from ftpsd.protocol.parsing import Address
from ftpsd.protocol.proxy.header import ProxyHeader
from ftpsd.system.reactor import DelayedCall, Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Connections that the kernel keeps until they are accepted: of all sessions, so there may be many at once.
BACKLOG = 1024

#: Connections that are accepted in one turn of the reactor.
BATCH = 64

#: Seconds between two looks for connections that have waited too long, and seconds without accepting when no
#: descriptor is free.
SWEEP, REST = 1.0, 0.2

#: Seconds between two lines in the log about connections for which no session waits.
QUIET = 60.0


class SharedPort:
    """One port, on one address or several, at which all sessions wait for their data connections."""

    def __init__(self, reactor: Reactor, workers: WorkerThreads, number: int, known: KnownTickets) -> None:
        self.number = number
        #: Seconds for which a connection may wait until it is known whose it is.
        self.patience = 30.0
        self.places = Places()
        self._reactor = reactor
        self._workers = workers
        self._router = Router(workers, self.places, known)
        #: The order of announcements and arrivals.
        self._order = itertools.count()
        self._headers: set[HeaderWait] = set()
        self._sockets: dict[str, SharedSocket] = {}
        self._sweep: DelayedCall | None = None
        self._quiet_until = 0.0
        self._unlogged = 0

    def add_socket(self, host: str, listener: socket.socket) -> None:
        """Accept connections on one more address."""
        self._sockets[host] = SharedSocket(self._reactor, listener, self._arrived)

    def find(self, host: str) -> SharedSocket | None:
        """Return what listens on one address; for an empty text, on any."""
        return self._sockets.get(host) if host else next(iter(self._sockets.values()), None)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses of the sockets."""
        return tuple(self._sockets)

    def close_socket(self, host: str) -> None:
        """Accept no more connections on an address."""
        self._sockets.pop(host).close()

    def wait(self, session: ClientPeers, guess: bool, ready: Ready) -> Place:
        """Return a place for a session, which waits from now on."""
        place = Place(next(self._order), self.number, session, guess, ready, self._look)
        place.left = self._left
        self.places.add(place)
        return place

    def _left(self, place: Place) -> None:
        self.places.remove(place)
        if self._router.arrivals:
            self._workers.call_in_reactor(self._router.left, place)

    # --- connections ------------------------------------------------------------------------------

    def _look(self) -> None:
        """A session begins a transfer: accept the connections that the kernel has, unless its own may be here."""
        if not self._router.arrivals:
            for each in self._sockets.values():
                each.accept()

    def _arrived(self, connection: socket.socket, peer: Address) -> None:
        if self.places.through_proxy(peer):
            wait = HeaderWait(self._reactor, connection, peer, self._header_ended)
            self._headers.add(wait)
            self._schedule_sweep()
            wait.start()
        else:
            self._route(connection, (peer, False))

    def _header_ended(self, wait: HeaderWait, header: ProxyHeader | None) -> None:
        self._headers.discard(wait)
        if header is not None and header.source is not None:
            self._route(wait.connection, (header.source.address, True))
        else:
            wait.connection.close()

    def _route(self, connection: socket.socket, origin: Origin) -> None:
        number = next(self._order)
        candidates = self.places.of(origin, number)
        if not candidates:
            connection.close()
            self._log_stranger(origin[0])
        elif len(candidates) == 1:
            candidates[0].deliver(data_socket(connection))
        else:
            self._schedule_sweep()
            arrival = Arrival(self._reactor, data_socket(connection), origin, number, self._router.judge)
            self._router.add(arrival, candidates)

    def _log_stranger(self, peer: Address) -> None:
        now = self._reactor.seconds()
        self._unlogged += 1
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            log.info(
                "shared passive port {port}: {count} connections closed, since no session of their address waited; "
                "the last one was from {peer}",
                port=self.number,
                count=self._unlogged,
                peer=str(peer),
            )
            self._unlogged = 0

    def _schedule_sweep(self) -> None:
        if self._sweep is None:
            self._sweep = self._reactor.callLater(SWEEP, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        before = self._reactor.seconds() - self.patience
        self._router.sweep(before)
        for each in [each for each in self._headers if each.since < before]:
            self._headers.discard(each)
            each.close()
        if self._router.arrivals or self._headers:
            self._schedule_sweep()

    def close(self) -> None:
        """Accept no more connections, and close those that were not given to a session."""
        for host in list(self._sockets):
            self.close_socket(host)
        self._router.close()
        for each in self._headers:
            each.close()
        self._headers.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


@implementer(IReadDescriptor)
class SharedSocket:
    """A listening socket of a shared port, which the reactor watches until it is closed."""

    def __init__(
        self, reactor: Reactor, listener: socket.socket, arrived: Callable[[socket.socket, Address], None]
    ) -> None:
        self.listener = listener
        self._reactor = reactor
        self._arrived = arrived
        self._rest: DelayedCall | None = None
        reactor.addReader(self)

    def accept(self) -> None:
        """Accept the connections that the kernel has, but not all of a flood."""
        if self._rest is not None:
            return
        for _ in range(BATCH):
            try:
                connection, address = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No descriptor is free: another attempt now would only spin.
                log.warn("a data connection could not be accepted: {error}", error=error.strerror)
                self._reactor.removeReader(self)
                self._rest = self._reactor.callLater(REST, self._resume)
                return
            self._arrived(connection, client_address(address[0], *address[3:]))

    def _resume(self) -> None:
        self._rest = None
        self._reactor.addReader(self)

    def close(self) -> None:
        """Stop listening."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._reactor.removeReader(self)
        self.listener.close()

    def doRead(self) -> None:
        """Somebody connects."""
        self.accept()

    def fileno(self) -> int:
        """Return the socket's descriptor, for the reactor's poll."""
        return self.listener.fileno()

    def doWrite(self) -> None:
        """Do nothing: an event for a listening socket belongs to an old descriptor (see `ports.Listener`)."""

    def connectionLost(self, reason: Failure) -> None:
        """Continue to watch the socket: the event was that of another descriptor (see `ports.Listener`)."""
        if self.listener.fileno() >= 0 and self._rest is None:
            self._reactor.addReader(self)

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "shared passive port"
