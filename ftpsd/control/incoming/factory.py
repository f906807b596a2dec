"""Make the session of each new connection, or refuse it: FtpsFactory, PendingConnection, RejectedConnection."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.ftp import FTPFactory
from twisted.python.failure import Failure

from ftpsd.config.settings import ListenSettings
from ftpsd.control.ftp_protocol import FtpsProtocol
from ftpsd.control.incoming.connection import IncomingConnection
from ftpsd.control.incoming.proxied import ProxiedConnection, UntrustedConnection
from ftpsd.control.incoming.route import Route
from ftpsd.control.services import ControlServices
from ftpsd.control.tls_layer import ControlConnection
from ftpsd.events.session_events import info
from ftpsd.events.types import SessionRejected
from ftpsd.limits.ledger import SessionLease, SessionRefused
from ftpsd.limits.session_counts import RejectReason
from ftpsd.protocol.addresses import plain_address
from ftpsd.protocol.replies import Reply
from ftpsd.snapshot import Snapshot
from ftpsd.system.presence import PatientCall
from ftpsd.system.reactor import DelayedCall

log = Logger(namespace="ftpsd")

#: The reply to a connection about which the ledger has not decided in time.
UNDECIDED = Reply(421, "Service not available: try again later.")


class FtpsFactory(FTPFactory):
    """Makes the sessions of one listener. A reload sets `snapshot` and `settings` for new sessions."""

    noisy = False

    def __init__(self, services: ControlServices, snapshot: Snapshot, settings: ListenSettings) -> None:
        super().__init__()  # without a portal: it would keep the users of the first snapshot
        self.services = services
        self.snapshot = snapshot
        self.settings = settings

    @property
    def implicit(self) -> bool:
        """Whether the listener expects TLS from the first byte."""
        return self.settings.tls == "implicit"

    def buildProtocol(self, addr: Any) -> Protocol:
        """Return the protocol of a new connection. The ledger decides later whether it becomes a session."""
        peer = plain_address(addr.host, getattr(addr, "scopeID", 0))
        proxy = self.settings.proxy_protocol
        if proxy is None:
            return self.begin(Route(peer))
        if not any(peer in each for each in proxy.trusted):
            return UntrustedConnection(self.services, peer)
        passive = proxy.trusted if self.snapshot.settings.passive.proxy_protocol else None
        return ProxiedConnection(self.services, peer, passive, self.begin)

    def begin(self, route: Route, early: bytes = b"") -> Protocol:
        """Return the protocol of a connection whose route is known. `early` came behind the header of a proxy."""
        return PendingConnection(self, route, early)

    def record_rejection(self, number: int, route: Route, reason: RejectReason, log_text: str) -> None:
        """Count and publish that a connection does not become a session."""
        hub = self.services.hub
        if hub.tally is not None:
            hub.tally.rejected[reason] += 1
        if log_text:
            hub.publish(SessionRejected(info(number, route.client, route.is_check), log_text))

    def session(self, number: int, route: Route, lease: SessionLease) -> ControlConnection:
        """Return the protocol of an admitted session, on top of TLS."""
        protocol = FtpsProtocol(self.services, self.snapshot, number, route, self.implicit, lease)
        return ControlConnection(self.services.reactor, protocol)


class PendingConnection(IncomingConnection):
    """A new connection until the ledger has answered. Then another protocol takes its place on the transport.

    The decision is taken here and not in `buildProtocol`, since the ledger may answer later. `early` has the bytes that
    a proxy has sent behind its header. Nothing is read from the client meanwhile, so its end is not noticed either:
    after `timeouts.login` seconds without a decision it gets 421.
    """

    def __init__(self, factory: FtpsFactory, route: Route, early: bytes = b"") -> None:
        self._factory = factory
        self._route = route
        self._early = early
        self._number = next(factory.services.numbers)
        self._lost = False
        self._deadline: DelayedCall | None = None

    def connectionMade(self) -> None:
        """Ask the ledger."""
        decided: Deferred[None] = Deferred.fromCoroutine(self._decide())
        if not decided.called:
            self.transport.pauseProducing()
            seconds = self._factory.snapshot.settings.timeouts.login
            self._deadline = PatientCall(self._factory.services.reactor, seconds, self._too_late)
            decided.addCallback(self._resume)
        decided.addErrback(self._failed)

    async def _decide(self) -> None:
        try:
            lease = await self._factory.snapshot.ledger.admit_session(self._route.client)
        except SessionRefused as refused:
            self._reject(refused.reason, refused.reply, refused.log_text)
            return
        if self._lost:
            lease.release()
        else:
            self._continue_as(self._factory.session(self._number, self._route, lease))

    def _reject(self, reason: RejectReason, reply: Reply, log_text: str) -> None:
        if not self._lost:
            self._factory.record_rejection(self._number, self._route, reason, log_text)
        self._continue_as(RejectedConnection(reply))

    def _continue_as(self, protocol: Protocol) -> None:
        if not self._lost:
            self.hand_over(protocol, self._early)

    def _too_late(self) -> None:
        self._reject("undecided", UNDECIDED, "Not admitted: the ledger has not decided in time.")
        self._lost = True  # a lease that comes later is returned

    def _resume(self, _: None) -> None:
        self._stop_deadline()
        if not (self._lost or self.transport.disconnecting):
            self.transport.resumeProducing()

    def _stop_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def _failed(self, failure: Failure) -> None:
        self._stop_deadline()
        log.failure("internal error: the connection cannot be admitted", failure)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Handle a connection that is closed before the ledger has decided."""
        self._lost = True


class RejectedConnection(IncomingConnection):
    """A connection that does not become a session: it gets one reply, and nothing else is spent on it."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def connectionMade(self) -> None:
        """Send the reply and close."""
        self.transport.write(self._reply.encode())
        self.transport.loseConnection()
