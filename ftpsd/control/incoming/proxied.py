"""Connections from proxies: ProxiedConnection reads the header, CutConnection is for those without a good one."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ftpsd.control.incoming.connection import IncomingConnection
from ftpsd.control.incoming.route import Route
from ftpsd.control.services import ControlServices
from ftpsd.events.session_events import info
from ftpsd.events.types import SessionRejected
from ftpsd.protocol.addresses import Address, Endpoint
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.proxy.header import InvalidHeader, ProxyHeader, parse
from ftpsd.system.presence import PatientCall
from ftpsd.system.reactor import DelayedCall

#: Seconds for the header. A proxy sends it before anything else (proxy-protocol.txt section 2 asks for at least 3).
HEADER_TIMEOUT = 5

#: Makes the protocol of a connection whose way is known; the bytes came behind the header.
Begin = Callable[[Route, bytes], Protocol]


class ProxiedConnection(IncomingConnection):
    """A connection from a proxy, until its header is complete. Then another protocol takes its place.

    `passive` has the networks of the proxies through which passive connections come, or is None.

    One that is closed before its first byte leaves no line in the log: health checks of load balancers do that.
    """

    def __init__(
        self, services: ControlServices, peer: Address, passive: tuple[Network, ...] | None, begin: Begin
    ) -> None:
        self._services = services
        self._peer = peer
        self._passive = passive
        self._begin = begin
        self._data = b""
        self._deadline: DelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header, which the proxy sends first."""
        self._deadline = PatientCall(self._services.reactor, HEADER_TIMEOUT, self._too_late)

    def dataReceived(self, data: bytes) -> None:
        """Collect the header, which may come in pieces."""
        self._data += data
        try:
            header = parse(self._data)
        except InvalidHeader as error:
            self._cut(str(error))
            return
        if header is not None:
            self._stop_deadline()
            self.hand_over(self._begin(self._route(header), self._data[header.length :]))

    def _route(self, header: ProxyHeader) -> Route:
        # HAProxy's health checks with version 1 name the check itself as the client, with its own port.
        own = Endpoint(self._peer, self.transport.getPeer().port)
        if header.source is None or header.destination is None or header.source == own:
            return Route(self._peer, is_check=True)
        return Route(header.source.address, header.destination.address, self._passive)

    def _too_late(self) -> None:
        self._cut(f"no PROXY header within {HEADER_TIMEOUT} seconds")

    def _cut(self, why: str) -> None:
        self._stop_deadline()
        cut(self._services, self._peer, why)
        self.transport.abortConnection()

    def _stop_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The proxy has closed the connection, or we have."""
        if self._deadline is not None and self._deadline.active():
            self._stop_deadline()
            if self._data:
                cut(self._services, self._peer, "the PROXY header is not complete")


class UntrustedConnection(IncomingConnection):
    """A connection from a host that is no trusted proxy: it is cut without a reply."""

    def __init__(self, services: ControlServices, peer: Address) -> None:
        self._services = services
        self._peer = peer

    def connectionMade(self) -> None:
        """Cut the connection."""
        cut(self._services, self._peer, "it is not in proxy_protocol.trusted")
        self.transport.abortConnection()


def cut(services: ControlServices, peer: Address, why: str) -> None:
    """Report a connection that is cut, because it has no header that can be trusted."""
    if services.hub.tally is not None:
        services.hub.tally.rejected["proxy"] += 1
    services.hub.publish(SessionRejected(info(next(services.numbers), peer), f"connection cut: {why}"))
