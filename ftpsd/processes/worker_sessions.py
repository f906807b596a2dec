"""The connections that a worker gets from the supervisor: HandedSessions."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.control.ftp_protocol import FtpsProtocol
from ftpsd.control.incoming.factory import UNDECIDED
from ftpsd.control.tls_layer import ControlConnection
from ftpsd.processes.forks.datagrams import MessageReader
from ftpsd.processes.handover import Connection, adopt, refuse, seconds_left
from ftpsd.processes.ports.handed import DataConnection
from ftpsd.processes.sessions import LocalSessions
from ftpsd.snapshot import Snapshot
from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Turns of the reactor in which the end of a connection that was closed is found: two until messages are read, and the
#: first after them reads what came before the end.
_TURNS = 5

#: Seconds for which the ends of sessions are collected. A message costs more than all else that follows from an end.
#: Nobody is refused meanwhile because of a session that has ended: the supervisor asks before (`Settling`).
_COLLECTED = 0.05


class HandedSessions:
    """Makes sessions of the connections that the supervisor has admitted, and tells it when they have ended."""

    def __init__(
        self,
        reactor: Reactor,
        link: Link,
        sessions: LocalSessions,
        snapshot: Callable[[], Snapshot],
        left: Callable[[socket.socket, int], object],
        no_more: Callable[[], object],
    ) -> None:
        """`snapshot` returns that of new sessions.

        `left` is called when the supervisor leaves this process to the next one: with the connection to that, and the
        seconds for running transfers. `no_more` is called when no connection can come any more.
        """
        self._reactor = reactor
        self._link = link
        self._sessions = sessions
        self._snapshot = snapshot
        self._left = left
        self._no_more = no_more
        #: The addresses of the clients, by the numbers of their sessions.
        self._clients: dict[int, str] = {}
        self._reader: MessageReader | None = None
        #: The sessions whose end the supervisor does not know yet.
        self._ended: list[int] = []

    def start(self, end: socket.socket) -> None:
        """Accept connections from a socket, which is taken over."""
        self._link.serve("process.settle", self._settle)
        self._reader = MessageReader(self._reactor, end, self._accept, self._no_more)

    def accept_all(self) -> None:
        """Accept all connections that the supervisor has sent before."""
        if self._reader is not None and self._reader.end.fileno() >= 0:
            self._reader.read_all()

    def close(self) -> None:
        """Accept no more connections."""
        if self._reader is not None:
            self._reader.close()

    def running(self) -> list[tuple[int, str]]:
        """Return the sessions that have not ended: their numbers, and the addresses of their clients."""
        return [*self._clients.items()]

    def _accept(self, message: object, sockets: list[socket.socket]) -> None:
        if not sockets:
            self._not_received(message)
            return
        left = seconds_left(message)
        if left is not None:
            self._left(sockets[0], left)
        elif isinstance(message, dict):
            arrived = DataConnection.from_message(message)
            self._sessions.data_ports.arrived(arrived.port, sockets[0], arrived.origin)
        else:
            self._begin(Connection.from_message(message), sockets[0])

    def _not_received(self, message: object) -> None:
        """A message has come without its connection, which the kernel has closed."""
        log.error("a connection is lost: {reason}", reason="too many open files in a worker")
        if isinstance(message, list) and seconds_left(message) is None:
            self._clients[message[0]] = ""
            self._session_ended(message[0])

    def _begin(self, connection: Connection, end: socket.socket) -> None:
        """Make a session of a connection. If that fails, only this client has none."""
        self._clients[connection.number] = str(connection.route.client)
        lease = _Lease(lambda: self._session_ended(connection.number))
        try:
            adopt(self._reactor, end, self._session(connection, lease), connection.early)
        except Exception as error:
            if not isinstance(error, OSError):
                log.failure("internal error: a connection cannot become a session")
            elif error.errno in (errno.EMFILE, errno.ENFILE):
                log.error("a connection is refused: {reason}", reason=error.strerror)
            lease.release()
            refuse(end, UNDECIDED)

    def _session(self, connection: Connection, lease: _Lease) -> ControlConnection:
        number, route, implicit = connection.number, connection.route, connection.implicit
        protocol = FtpsProtocol(self._sessions.services, self._snapshot(), number, route, implicit, lease)
        return ControlConnection(self._reactor, protocol)

    def _session_ended(self, number: int) -> None:
        """Tell the supervisor, once for all sessions that end in a moment."""
        if self._clients.pop(number, None) is None:
            return  # it could not begin, and has ended before
        if not self._ended:
            self._reactor.callLater(_COLLECTED, self.tell_ended)
        self._ended.append(number)

    def tell_ended(self) -> None:
        """Tell the supervisor which sessions have ended, if it does not know."""
        ended, self._ended = self._ended, []
        if ended:
            self._link.tell("process.ended", ended)

    def _settle(self) -> Deferred[None]:
        """Tell of all sessions whose clients have gone, and then answer."""
        settled: Deferred[None] = Deferred()
        self._turn(_TURNS, settled)
        return settled

    def _turn(self, turns: int, settled: Deferred[None]) -> None:
        if turns:
            self._reactor.callLater(0, self._turn, turns - 1, settled)
        else:
            self.tell_ended()
            settled.callback(None)


class _Lease:
    """What a session returns when it ends."""

    __slots__ = ("release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self.release = release
