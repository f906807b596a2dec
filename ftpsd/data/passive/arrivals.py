"""Connections to a shared port that are not given to a session yet: Arrival, and Arrivals for all of them."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Literal

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.data.passive.peers import ClientPeers, Origin
from ftpsd.data.passive.places import Place
from ftpsd.system.reactor import Reactor
from ftpsd.system.tls.client_hello import LONGEST, ClientHello, NotClientHello, parse

#: Seconds of silence after which a connection is closed first: clients send their transfer command before.
LONG = 1.0

#: What is known of a connection: nothing, the first message of TLS, other bytes, or its end without any.
Kind = Literal["silent", "TLS", "plain", "ended"]


@implementer(IReadDescriptor)
class Arrival:
    """Looks at the first bytes of a connection, without consuming them, until they tell what it is.

    `told` is called in the reactor thread when `kind` is known. A ClientHello may arrive in pieces.
    """

    def __init__(
        self, reactor: Reactor, connection: socket.socket, origin: Origin, number: int, told: Callable[[Arrival], None]
    ) -> None:
        self.connection = connection
        self.origin = origin
        #: The position in the order of announcements and arrivals.
        self.number = number
        self.since = reactor.seconds()
        self.kind: Kind = "silent"
        self.hello = ClientHello((), has_tickets=False)
        #: The bytes of the ClientHello.
        self.data = b""
        #: Whether no session resumes what it offers.
        self.tried = False
        #: Whether a session to which it may belong has gone without a connection.
        self.orphan = False
        self._reactor = reactor
        self._told = told
        self._wanted = 1
        self._watched = False

    def watch(self) -> None:
        """Wait for the first bytes."""
        if not self._watched:
            self._watched = True
            self._reactor.addReader(self)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._reactor.removeReader(self)

    def look(self) -> None:
        """Find out what the connection is from the bytes that are there."""
        try:
            data = self.connection.recv(LONGEST, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        kind = self._kind_of(data)
        if kind is not None:
            self._unwatch()
            self.kind = kind
            self._told(self)

    def _kind_of(self, data: bytes) -> Kind | None:
        if not data:
            return "ended"
        try:
            hello = parse(data)
        except NotClientHello:
            return "plain"
        if isinstance(hello, ClientHello):
            self.hello, self.data = hello, data
            return "TLS"
        if len(data) < self._wanted:
            return "plain"  # the end of the stream: otherwise the kernel would have waited for more bytes
        self._want(hello)
        return None

    def _want(self, count: int) -> None:
        """Let the kernel report the connection when `count` bytes are there, or its end."""
        self._wanted = count
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def release(self) -> socket.socket:
        """Return the connection, whose bytes are all unread. It belongs to the caller now."""
        self._unwatch()
        if self._wanted > 1:
            self._want(1)
        return self.connection

    def close(self) -> None:
        """Close the connection. May be called any number of times."""
        self._unwatch()
        self.connection.close()

    # --- for the reactor --------------------------------------------------------------------------

    def doRead(self) -> None:
        """Bytes have arrived."""
        self.look()

    def fileno(self) -> int:
        """Return the connection's descriptor, for the reactor's poll."""
        return self.connection.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """Watch the connection again: the reactor could not poll it, or polled an old one with the same descriptor."""
        self._watched = False
        self.look()
        if self.kind == "silent" and self.connection.fileno() >= 0:
            self.watch()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "shared passive port"


class Arrivals:
    """The connections that are not given to a session yet, by their origin, in the order of their arrival."""

    def __init__(self) -> None:
        self._by_origin: dict[Origin, dict[Arrival, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_origin)

    def __contains__(self, arrival: Arrival) -> bool:
        return arrival in self._by_origin.get(arrival.origin, ())

    def __iter__(self) -> Iterator[Arrival]:
        return chain.from_iterable(map(list, list(self._by_origin.values())))

    def origins(self, session: ClientPeers | None = None) -> list[Origin]:
        """Return the origins of all connections, or of those that may belong to a session."""
        if session is None:
            return [*self._by_origin]
        if not self._by_origin:
            return []
        if not session.foreign_networks:
            return [session.origin] if session.origin in self._by_origin else []
        proxied = session.origin[1]
        return [each for each in self._by_origin if each[1] == proxied and session.admits(each[0])]

    def of(self, origin: Origin) -> list[Arrival]:
        """Return the connections of one origin."""
        return list(self._by_origin.get(origin, ())) if self._by_origin else []

    def add(self, arrival: Arrival, most: int) -> None:
        """Keep a connection. If its origin has too many, close another one: the oldest that was silent for long.

        If there is none, close a random one of those that have not begun TLS, or else of all: so nobody can predict
        which ones remain in a flood.
        """
        others = self.of(arrival.origin)
        if len(others) >= most:
            silent = [each for each in others if each.kind == "silent" and each.since <= arrival.since - LONG]
            idle = [each for each in others if each.kind != "TLS" or each.tried]
            self.drop(silent[0] if silent else random.choice(idle or others))
        self._by_origin.setdefault(arrival.origin, {})[arrival] = None

    def remove(self, arrival: Arrival) -> None:
        """Keep a connection no longer: it is given to a session. May be called any number of times."""
        waiting = self._by_origin.get(arrival.origin, {})
        waiting.pop(arrival, None)
        if not waiting:
            self._by_origin.pop(arrival.origin, None)

    def drop(self, arrival: Arrival) -> None:
        """Close a connection. May be called any number of times."""
        self.remove(arrival)
        arrival.close()


class Changes:
    """Notes whose connections have to be judged again, and has it done once for all, in another turn of the reactor."""

    def __init__(
        self,
        arrivals: Arrivals,
        call_in_reactor: Callable[[Callable[[], object]], object],
        judge: Callable[[Origin, float, float], object],
    ) -> None:
        """`judge` gets an origin, and the numbers from which on connections have fewer candidates, or are orphans."""
        self._arrivals = arrivals
        self._call_in_reactor = call_in_reactor
        self._judge = judge
        self._changed: dict[Origin, tuple[float, float]] = {}

    def note(self, place: Place, lost: float = math.inf) -> None:
        """A session has its connection, or waits no longer: this matters for connections that came after it.

        Those that came after `lost` may be its own.
        """
        for origin in self._arrivals.origins(place.session):
            if not self._changed:
                self._call_in_reactor(self._judge_all)
            first, first_lost = self._changed.get(origin, (math.inf, math.inf))
            self._changed[origin] = min(first, place.number), min(first_lost, lost)

    def _judge_all(self) -> None:
        changed, self._changed = self._changed, {}
        for origin, (first, lost) in changed.items():
            self._judge(origin, first, lost)
