"""Let the reactor wait for the first bytes of a connection: InputWatch."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.system.reactor import Reactor


@implementer(IReadDescriptor)
class InputWatch:
    """Calls `readable` when a connection has something to read, until `close`."""

    def __init__(self, reactor: Reactor, connection: socket.socket, readable: Callable[[], object]) -> None:
        self._reactor = reactor
        self._connection = connection
        self._readable = readable
        reactor.addReader(self)

    def doRead(self) -> None:
        """The connection has something to read."""
        self._readable()

    def close(self) -> None:
        """Let the reactor watch the connection no longer."""
        self._reactor.removeReader(self)

    def fileno(self) -> int:
        """Return the connection's descriptor, for the reactor's poll."""
        return self._connection.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor cannot poll the connection: the next user of it finds out why."""
        self._readable()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "data connection"
