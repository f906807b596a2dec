"""Connections that we open, for active mode."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from twisted.internet.interfaces import IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.protocol.parsing import Endpoint, socket_address
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import Reactor


@implementer(IWriteDescriptor)
class Dialer:
    """A connection that we open (PORT, EPRT): `done` gets the socket, or the Refusal."""

    def __init__(
        self,
        reactor: Reactor,
        source: Endpoint,
        target: Endpoint,
        done: Callable[[socket.socket | Refusal], None],
    ) -> None:
        family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        self._reactor = reactor
        self._done: Callable[[socket.socket | Refusal], None] | None = done
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(socket_address(source.address, source.port))
            problem = self._socket.connect_ex(socket_address(target.address, target.port))
        except OSError as error:
            problem = error.errno or errno.EIO
        if problem == errno.EINPROGRESS:
            reactor.addWriter(self)
        else:
            self._end(problem)

    def doWrite(self) -> None:
        """The connection stands, or has failed."""
        self._reactor.removeWriter(self)
        self._end(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _end(self, problem: int) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        if problem:
            self._socket.close()
            done(Refusal(425, f"The data connection cannot be opened: {os.strerror(problem)}."))
        else:
            done(self._socket)

    def close(self) -> None:
        """Gives up."""
        if self._done is not None:
            self._done = None
            self._reactor.removeWriter(self)
            self._socket.close()

    def fileno(self) -> int:
        """The socket, for the reactor's poll."""
        return self._socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives up on the socket."""
        problem = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._end(problem or errno.ECONNABORTED)

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "active connection"
