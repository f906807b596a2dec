"""The sessions that wait at a shared port: Place, Places."""

from __future__ import annotations

import math
import os
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable

from ftpsd.data.passive.departed import Departed
from ftpsd.data.passive.peers import ClientPeers, Origin
from ftpsd.data.passive.ports import BACKLOG, Ready
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.replies import MixedUp, NoDataConnection

#: Connections that a session keeps until its transfer takes them: as many as the kernel keeps for a port of its own.
MOST = BACKLOG

#: For a session whose connection may have come, but cannot be told from those of others.
_AMBIGUOUS = (
    "Several sessions of your address wait at the same passive port, and the data connection does not tell which one "
    "is its own. Use PROT P with a client that resumes TLS sessions, or one transfer at a time. "
    "(passive.shared: {ambiguous: oldest} would guess.)"
)


class Place:
    """A session that waits at a shared port, from PASV or EPSV on (see `ports.PassivePort`).

    `deliver`, `watch`, `unwatch`, `look` and `suspect` are for the reactor thread, the other methods for any.
    """

    def __init__(self, number: int, port: int, session: ClientPeers, guess: bool, ready: Ready, look: Ready) -> None:
        #: The position in the order of announcements and arrivals.
        self.number = number
        self.port = port
        self.session = session
        #: Whether a connection that does not tell its session may be given to this one, if it waits longest.
        self.guess = guess
        #: Whether a connection was delivered. Others may follow: the first may be that of a stranger on the same host.
        self.served = False
        #: Why there may be no connection for this session.
        self.doubt: NoDataConnection | None = None
        self.closed = False
        #: Accepts what the kernel has.
        self._look = look
        self._ready = ready
        #: Called when the place is given up, in any thread.
        self.left: Callable[[Place], None] = lambda place: None
        self._watched = False
        self._lock = threading.Lock()
        self._connections: deque[socket.socket] = deque()
        self._eventfd = -1

    def watch(self) -> None:
        """Call `ready` for each connection, also for those that are here. May be called any number of times."""
        if not (self._watched or self.closed):
            self._watched = True
            for _ in range(len(self._connections) or (self.doubt is not None)):
                self._tell()

    def unwatch(self) -> None:
        """Call `ready` no more. May be called any number of times."""
        self._watched = False

    def look(self) -> None:
        """Let the port accept what the kernel has, if this session has no connection yet."""
        if not self._connections:
            self._look()

    def deliver(self, connection: socket.socket) -> None:
        """Give the session a connection. It is closed if the session has many already."""
        self.served, self.doubt = True, None
        with self._lock:
            if self.closed or len(self._connections) >= MOST:
                connection.close()
                return
            self._connections.append(connection)
            if self._eventfd >= 0:
                os.eventfd_write(self._eventfd, 1)
        self._tell()

    def suspect(self, mixed: bool = False) -> bool:
        """A connection has come that may be this session's, and cannot be delivered. Return whether that is new.

        `mixed`: since the client mixes up its TLS sessions.
        """
        if self.doubt is not None or self.served or self.closed:
            return False
        self.doubt = MixedUp() if mixed else NoDataConnection("ambiguous", 425, _AMBIGUOUS)
        self._tell()
        return True

    def _tell(self) -> None:
        if self._watched:
            self._ready()

    def accept(self) -> socket.socket | None:
        """Return the next connection, or None if there is none now."""
        with self._lock:
            if self._eventfd >= 0 and len(self._connections) == 1:
                os.eventfd_read(self._eventfd)
            return self._connections.popleft() if self._connections else None

    def fileno(self) -> int:
        """Return a descriptor that is readable while there are connections."""
        with self._lock:
            if self._eventfd < 0 and not self.closed:
                self._eventfd = os.eventfd(1 if self._connections else 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._eventfd

    def close(self) -> None:
        """Give the place up, and close the connections that were not accepted. May be called any number of times."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            for each in self._connections:
                each.close()
            self._connections.clear()
            if self._eventfd >= 0:
                os.close(self._eventfd)
                self._eventfd = -1
        self.left(self)


class Places:
    """The sessions that wait at a shared port, by the hosts whose connections may be theirs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_client: dict[Origin, dict[Place, None]] = {}
        #: Those to which other hosts than the client may connect.
        self._foreign: dict[Place, None] = {}
        #: The networks of the proxies of the sessions that wait, and of how many each.
        self._proxies: Counter[tuple[Network, ...]] = Counter()
        self._departed = Departed()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def add(self, place: Place) -> None:
        """Let a session wait."""
        session = place.session
        with self._lock:
            self._total += 1
            self._by_client.setdefault(session.origin, {})[place] = None
            if session.foreign_networks:
                self._foreign[place] = None
            if session.proxies is not None:
                self._proxies[session.proxies] += 1

    def remove(self, place: Place) -> None:
        """Let a session wait no longer. May be called in any thread."""
        session = place.session
        origin = session.origin
        with self._lock:
            self._total -= 1
            if session.proxies is not None:
                self._proxies[session.proxies] -= 1
                self._proxies += Counter()  # without those of which there are none
            self._foreign.pop(place, None)
            places = self._by_client[origin]
            del places[place]
            if not places:
                del self._by_client[origin]
            self._departed.keep(session)
            if not place.served:
                self._departed.add(session, origin, place.number)

    def others_left(self, origin: Origin, place: Place, before: float) -> bool:
        """Return whether a connection may belong to another session that has left lately, announced before it."""
        with self._lock:
            return self._departed.other(origin, place.session, before)

    def count(self, session: ClientPeers) -> int:
        """Return how many sessions of the same client wait."""
        return len(self._by_client.get(session.origin, ()))

    def of(self, origin: Origin, before: float = math.inf) -> list[Place]:
        """Return the sessions that may expect a connection of this origin, announced before it, in their order.

        Those of the host itself come first: only if there is none, other hosts may be meant (`foreign_data`).
        """
        with self._lock:
            found = list(self._by_client.get(origin, ())) or [
                each for each in self._foreign if each.session.origin[1] == origin[1] and each.session.admits(origin[0])
            ]
        return [each for each in found if each.number < before]

    def expect(self, origin: Origin) -> bool:
        """Return whether a session waits for a connection of this origin, or has lately left without it."""
        with self._lock:
            left = self._departed.any(origin)
        return left or bool(self.of(origin))

    def settle(self, origin: Origin) -> None:
        """Clear the doubts of the sessions of a host, since none of its connections is undecided any more."""
        for place in self.of(origin):
            place.doubt = None

    def through_proxy(self, peer: Address) -> bool:
        """Return whether a host is a proxy of sessions that wait. Then its connections begin with a header."""
        if not self._proxies:
            return False
        with self._lock:
            return any(peer in each for proxies in self._proxies for each in proxies)
