"""The listening sockets of shared ports: SharedSockets. They may be in another process than the sessions."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Collection

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.config.settings import Settings
from ftpsd.data.passive.headers import HeaderWait
from ftpsd.data.passive.peers import Origin
from ftpsd.data.passive.ports import client_address
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.proxy.header import ProxyHeader
from ftpsd.system.presence import PatientCall
from ftpsd.system.reactor import DelayedCall, Reactor

log = Logger(namespace="ftpsd")

#: Connections that the kernel keeps until they are accepted: of all sessions, so there may be many at once.
BACKLOG = 1024

#: Connections that are accepted in one turn of the reactor.
BATCH = 64

#: Seconds without accepting when no descriptor is free.
REST = 0.2

#: Seconds for a proxy to send its header, which comes before anything of the client.
HEADER_TIMEOUT = 5.0

#: Errors of a machine without IPv6.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

#: Returns a socket that listens on another address of a port on which a socket listens already.
OpenBeside = Callable[[socket.socket, str, int, int], socket.socket]

#: A port and an address on which it is open.
Key = tuple[int, str]

#: Takes a connection, with the number of its port, and who it is from.
Arrived = Callable[[int, socket.socket, Origin], None]


class SharedSockets:
    """Opens and closes the sockets, and accepts their connections. The header of a proxy is read here."""

    def __init__(
        self,
        reactor: Reactor,
        open_beside: OpenBeside,
        arrived: Arrived,
        through_proxy: Callable[[int, Address], bool],
    ) -> None:
        """`through_proxy` returns whether connections of a host to a port begin with the header of a proxy.

        The host may be a client, too: a connection that begins with TLS is its own.
        """
        self._reactor = reactor
        self._open_beside = open_beside
        self._arrived = arrived
        self._through_proxy = through_proxy
        self._sockets: dict[Key, SharedSocket] = {}
        self._headers: dict[HeaderWait, DelayedCall] = {}

    def open(self, settings: Settings) -> None:
        """Open the sockets that are not open yet: all of them, or none. Raises CannotListenError."""
        opened: list[Key] = []
        try:
            for key in shared_keys(settings) - self._sockets.keys():
                self._sockets[key] = SharedSocket(self._reactor, self._listen(*key), key[0], self._accepted)
                opened.append(key)
        except CannotListenError:
            for key in opened:
                self._sockets.pop(key).close()
            raise

    def _listen(self, port: int, host: str) -> socket.socket:
        old = next((each for (number, _), each in self._sockets.items() if number == port), None)
        if old is not None:
            return self._open_beside(old.listener, host, port, BACKLOG)
        try:
            return _listen(host, port)
        except OSError as error:
            if host != "::" or error.errno not in _NO_IPV6:
                raise CannotListenError(host, port, error) from None
        try:
            return _listen("0.0.0.0", port)
        except OSError as error:
            raise CannotListenError(host, port, error) from None

    def keep(self, wanted: Collection[Key]) -> None:
        """Close all other sockets."""
        for key in self._sockets.keys() - wanted:
            log.info("no longer listening on {host} port {port} (shared)", port=key[0], host=key[1])
            self._sockets.pop(key).close()

    def accept(self, port: int) -> None:
        """Accept the connections that the kernel has for a port."""
        for (number, _), each in self._sockets.items():
            if number == port:
                each.accept()

    def _accepted(self, port: int, connection: socket.socket, peer: Address) -> None:
        if self._through_proxy(port, peer):
            wait = HeaderWait(self._reactor, connection, peer, lambda wait, header: self._header(port, wait, header))
            self._headers[wait] = PatientCall(self._reactor, HEADER_TIMEOUT, self._no_header, wait)
            wait.start()
        else:
            self._arrived(port, connection, (peer, False))

    def _header(self, port: int, wait: HeaderWait, header: ProxyHeader | None) -> None:
        self._headers.pop(wait).cancel()
        if header is not None and header.source is not None:
            self._arrived(port, wait.connection, (header.source.address, True))
        elif wait.is_direct:
            self._arrived(port, wait.connection, (wait.peer, False))
        else:
            wait.connection.close()

    def _no_header(self, wait: HeaderWait) -> None:
        del self._headers[wait]
        wait.close()

    def close(self) -> None:
        """Close everything."""
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()
        for wait, timeout in self._headers.items():
            timeout.cancel()
            wait.close()
        self._headers.clear()


@implementer(IReadDescriptor)
class SharedSocket:
    """A listening socket of a shared port, which the reactor watches until it is closed."""

    def __init__(
        self,
        reactor: Reactor,
        listener: socket.socket,
        port: int,
        accepted: Callable[[int, socket.socket, Address], None],
    ) -> None:
        self.listener = listener
        self._reactor = reactor
        self._port = port
        self._accepted = accepted
        self._rest: DelayedCall | None = None
        #: Whether `accept` has taken all connections since the last event.
        self._emptied = False
        reactor.addReader(self)

    def accept(self) -> None:
        """Accept the connections that the kernel has, but not all of a flood."""
        if self._rest is not None:
            return
        for count in range(BATCH):
            try:
                connection, address = self.listener.accept()
            except BlockingIOError:
                self._emptied = count > 0
                return
            except OSError as error:
                # No descriptor is free: another attempt now would only spin.
                log.warn("a data connection could not be accepted: {error}", error=error.strerror)
                self._reactor.removeReader(self)
                self._rest = self._reactor.callLater(REST, self._resume)
                return
            self._accepted(self._port, connection, client_address(address[0], *address[3:]))

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
        """Somebody connects.

        A client connects and sends its command at the same time: then the reactor has both events, and the command
        has come first, and has accepted the connection. If there is another one, the reactor tells again.
        """
        if not self._emptied:
            self.accept()
        self._emptied = False

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


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
    listener.setblocking(False)
    return listener


def shared_keys(settings: Settings) -> set[Key]:
    """Return the shared ports, and the addresses on which they are open: those of `listen`.

    If PASV announces other addresses, the clients may reach the machine by any of its own.
    """
    if settings.passive.shared is None:
        return set()
    addresses = {ipaddress.ip_address(each.address) for each in settings.listen}
    if settings.passive.announces_others:
        addresses = {ipaddress.ip_address("::" if each.version == 6 else "0.0.0.0") for each in addresses}
    unspecified = {each for each in addresses if each.is_unspecified}
    if any(each.version == 6 for each in unspecified):
        addresses = {ipaddress.ip_address("::")}
    elif unspecified:
        addresses = {each for each in addresses if each in unspecified or each.version == 6}
    ports = settings.passive.ports
    return {(port, str(each)) for port in range(ports.low, ports.high + 1) for each in addresses}
