"""A port that all sessions share: SharedPort."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable

from twisted.logger import Logger

from ftpsd.data.passive.arrivals import Arrival
from ftpsd.data.passive.peers import ClientPeers, Origin
from ftpsd.data.passive.places import Place, Places
from ftpsd.data.passive.ports import Ready, data_socket
from ftpsd.data.passive.routing import KnownTickets, Router
from ftpsd.protocol.addresses import Address
from ftpsd.system.presence import absent_since
from ftpsd.system.reactor import DelayedCall, Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Seconds between two looks for connections that have waited too long.
SWEEP = 1.0

#: Seconds between two lines in the log about connections for which no session waits.
QUIET = 60.0


class Strangers:
    """Logs connections for which no session waits, but not each of a flood."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._quiet_until = 0.0
        self._unlogged = 0

    def closed(self, port: int, peer: Address) -> None:
        """A connection was closed."""
        now = self._reactor.seconds()
        self._unlogged += 1
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            log.info(
                "shared passive port {port}: {count} connections closed, because no session from their address waited; "
                "the last one was from {peer}",
                port=port,
                count=self._unlogged,
                peer=str(peer),
            )
            self._unlogged = 0


class SharedPort:
    """One port at which all sessions of this process wait for their data connections."""

    def __init__(
        self, reactor: Reactor, workers: WorkerThreads, number: int, known: KnownTickets, look: Callable[[int], object]
    ) -> None:
        """`look` accepts the connections that the kernel has for this port."""
        self.number = number
        #: Seconds for which a connection may wait until it is known whose it is.
        self.patience = 30.0
        self.places = Places()
        self._reactor = reactor
        self._workers = workers
        self._router = Router(workers, self.places, known)
        #: The order of announcements and arrivals.
        self._order = itertools.count()
        self._accept = look
        self._sweep: DelayedCall | None = None
        self._strangers = Strangers(reactor)

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

    def _look(self) -> None:
        """A session begins a transfer: accept the connections that the kernel has, unless its own may be here."""
        if not self._router.arrivals:
            self._accept(self.number)

    def arrived(self, connection: socket.socket, origin: Origin) -> None:
        """Give a new connection to its session, now or when it is known which one that is."""
        number = next(self._order)
        candidates = self.places.of(origin, number)
        if not candidates:
            connection.close()
            self._strangers.closed(self.number, origin[0])
        elif len(candidates) == 1 and not self.places.others_left(origin, candidates[0], number):
            candidates[0].session.arrival = number
            candidates[0].deliver(data_socket(connection))
        else:
            self._schedule_sweep()
            arrival = Arrival(self._reactor, data_socket(connection), origin, number, self._router.judge)
            self._router.add(arrival, candidates)

    def _schedule_sweep(self) -> None:
        if self._sweep is None:
            self._sweep = self._reactor.callLater(SWEEP, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        before = self._reactor.seconds() - self.patience
        self._router.sweep(before - absent_since(self._reactor, before))
        if self._router.arrivals:
            self._schedule_sweep()

    def close(self) -> None:
        """Close the connections that were not given to a session."""
        self._router.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
