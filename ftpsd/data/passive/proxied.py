"""A passive port behind a proxy: ProxiedListener reads the header of each connection (the PROXY protocol)."""

from __future__ import annotations

import select
import socket

from ftpsd.data.passive.ports import BACKLOG, Listener, Peers, PortPool, Ready, data_socket
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.proxy.header import InvalidHeader, ProxyHeader, parse
from ftpsd.system.reactor import Reactor

#: The first byte of a TLS connection. No header begins with it.
TLS_HANDSHAKE = b"\x16"

#: Bytes for one look at a connection: more than any header without large extensions.
_LOOK = 512


class HeaderReader:
    """Reads the header of one connection, and nothing behind it, which belongs to TLS or to the file."""

    def __init__(self, connection: socket.socket, proxy: Address) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.proxy = proxy
        #: Whether the connection begins with TLS instead of a header. Then nothing of it was read.
        self.begins_tls = False
        self._data = b""

    def read(self) -> ProxyHeader | None:
        """Return the header, or None if it has not arrived. Does not block.

        Raises InvalidHeader, also for a connection that ends before.
        """
        while True:
            try:
                seen = self.connection.recv(_LOOK, socket.MSG_PEEK)
            except BlockingIOError:
                return None
            except OSError:
                seen = b""
            if not seen:
                raise InvalidHeader("the connection ended without a PROXY header")
            self.begins_tls = not self._data and seen.startswith(TLS_HANDSHAKE)
            header = parse(self._data + seen)
            count = len(seen) if header is None else header.length - len(self._data)
            self._data += self.connection.recv(count)
            if header is not None:
                return header


class ProxiedListener(Listener):
    """A passive port whose connections come from proxies, and are admitted by the clients in their headers.

    A connection whose header has not arrived is kept until it has. See `Listener` for the threads that call it.
    """

    def __init__(
        self, reactor: Reactor, pool: PortPool, host: Address, peers: Peers, ready: Ready, proxies: tuple[Network, ...]
    ) -> None:
        # One descriptor for the port and all connections without a header: for the reactor, and for `Handshakes`. It is
        # made first: without a free descriptor, no port is taken.
        self._epoll = select.epoll()
        super().__init__(reactor, pool, host, peers, ready)
        self._epoll.register(self._socket, select.EPOLLIN)
        self._proxies = proxies
        self._waiting: list[HeaderReader] = []
        # The kernel reports a connection when its first bytes are there: then hardly any header has to be waited for.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def accept(self) -> socket.socket | None:
        """Return the next connection from a client that may connect, or None if there is none now."""
        for _ in range(BACKLOG):
            found = self._next()
            if found is None:
                break
            connection, proxy = found
            if any(proxy in each for each in self._proxies):
                self._waiting.append(HeaderReader(connection, proxy))
                self._epoll.register(connection, select.EPOLLIN)
            else:
                self._refuse(connection, proxy)
        admitted = next(filter(None, map(self._admit, list(self._waiting))), None)
        while len(self._waiting) > BACKLOG:
            self._waiting.pop().connection.close()
        return admitted

    def _admit(self, reader: HeaderReader) -> socket.socket | None:
        """Return a connection whose header has arrived, if its client may connect."""
        client, admitted = reader.proxy, False
        try:
            header = reader.read()
        except InvalidHeader:
            pass
        else:
            if header is None:
                return None
            if header.source is not None:
                client, admitted = header.source.address, self._peers.admits(header.source.address)
        self._waiting.remove(reader)
        self._epoll.unregister(reader.connection)
        if admitted:
            return data_socket(reader.connection)
        self._refuse(reader.connection, client)
        return None

    def close(self) -> None:
        """Stop listening, and close the connections without a header. May be called any number of times."""
        super().close()
        self._epoll.close()
        for each in self._waiting:
            each.connection.close()
        self._waiting.clear()
