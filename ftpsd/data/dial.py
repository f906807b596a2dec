"""Connections that the daemon opens, for active mode (PORT, EPRT)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from twisted.internet.interfaces import IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.protocol.addresses import Endpoint, socket_address
from ftpsd.protocol.replies import NoDataConnection, Refusal
from ftpsd.system.reactor import DelayedCall, Reactor


@implementer(IWriteDescriptor)
class Dialer:
    """Opens a connection, from the next turn of the reactor on, and calls `done` with the socket or the Refusal.

    waiting      for that turn: a connection can fail immediately, before the caller has stored the dialer
    connecting   the reactor watches the socket
    ended        `done` was called, or `close`
    """

    def __init__(
        self,
        reactor: Reactor,
        source: Endpoint,
        target: Endpoint,
        done: Callable[[socket.socket | Refusal], None],
    ) -> None:
        self._reactor = reactor
        self._source, self._target = source, target
        self._done: Callable[[socket.socket | Refusal], None] | None = done
        self._socket: socket.socket | None = None
        self._start: DelayedCall | None = reactor.callLater(0, self._connect)

    def _connect(self) -> None:
        self._start = None
        source, target = self._source, self._target
        family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(socket_address(source.address, source.port))
            problem = self._socket.connect_ex(socket_address(target.address, target.port))
        except OSError as error:  # no descriptor is free, or the source cannot be bound
            problem = error.errno or errno.EIO
        if problem == errno.EINPROGRESS:
            self._reactor.addWriter(self)
        else:
            self._end(problem)

    def doWrite(self) -> None:
        """The connection is open, or has failed."""
        self._reactor.removeWriter(self)
        self._end(self._problem())

    def _problem(self) -> int:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if self._socket is not None else 0

    def _end(self, problem: int) -> None:
        done, self._done = self._done, None
        connection, self._socket = self._socket, None
        if done is None:
            return
        if connection is not None and not problem:
            done(connection)
            return
        if connection is not None:
            connection.close()
        done(NoDataConnection("unreachable", 425, f"Cannot open data connection: {os.strerror(problem)}."))

    def close(self) -> None:
        """Give up. May be called any number of times."""
        self._done = None
        if self._start is not None:
            self._start.cancel()
            self._start = None
        connection, self._socket = self._socket, None
        if connection is not None:
            self._reactor.removeWriter(self)
            connection.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for the reactor's poll."""
        return self._socket.fileno() if self._socket is not None else -1

    def connectionLost(self, reason: Failure) -> None:
        """The reactor cannot poll the socket."""
        self._end(self._problem() or errno.ECONNABORTED)

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "active connection"
