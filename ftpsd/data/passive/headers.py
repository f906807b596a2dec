"""A connection to a shared port from the host of a proxy, until its header has arrived: HeaderWait."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.data.passive.proxied import HeaderReader
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.proxy.header import InvalidHeader, ProxyHeader
from ftpsd.system.reactor import Reactor


@implementer(IReadDescriptor)
class HeaderWait:
    """Reads the header of one connection. `ended` is called once, with the header, or None if there is no valid one.

    Then the connection is closed, unless it is one of the host itself: it begins with TLS instead of a header.
    """

    def __init__(
        self,
        reactor: Reactor,
        connection: socket.socket,
        proxy: Address,
        ended: Callable[[HeaderWait, ProxyHeader | None], None],
    ) -> None:
        self._reactor = reactor
        self._reader = HeaderReader(connection, proxy)
        self._ended = ended
        self.peer = proxy
        self.connection = connection
        self.since = reactor.seconds()

    def start(self) -> None:
        """Read what is there, and wait for the rest."""
        self._reactor.addReader(self)
        self.doRead()

    def doRead(self) -> None:
        """Bytes have arrived."""
        try:
            header = self._reader.read()
        except InvalidHeader:
            if self.is_direct:
                self._reactor.removeReader(self)
            else:
                self.close()
            self._ended(self, None)
            return
        if header is not None:
            self._reactor.removeReader(self)
            self._ended(self, header)

    @property
    def is_direct(self) -> bool:
        """Whether the connection is one of the host itself."""
        return self._reader.begins_tls

    def close(self) -> None:
        """Close the connection. May be called any number of times."""
        self._reactor.removeReader(self)
        self.connection.close()

    def fileno(self) -> int:
        """Return the connection's descriptor, for the reactor's poll."""
        return self.connection.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor cannot poll the connection, or has polled an old one with the same descriptor."""
        if self.connection.fileno() >= 0:
            self.start()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "shared passive port"
