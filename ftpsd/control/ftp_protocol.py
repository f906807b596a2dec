"""FtpsProtocol: the adapter between Twisted's FTP protocol and a session.

Of `twisted.protocols.ftp.FTP` only the frame is used: lines, portal, factory. None of its `ftp_*` methods is called: a
verb from the client is looked up in TABLE and never reaches `getattr`.

`input_flow` decides when lines are read, `command_runner` runs and answers them, `control_channel` sends replies and is
what commands know of the connection, `login` logs in, `timeouts` has the timer.
"""

from __future__ import annotations

from typing import Any

from twisted.protocols.ftp import FTP
from twisted.python.failure import Failure

from ftpsd.commands import TABLE
from ftpsd.control.certificate_login import CertificateLogin
from ftpsd.control.command_runner import CommandRunner
from ftpsd.control.control_channel import ControlChannel
from ftpsd.control.incoming.route import Route
from ftpsd.control.input_flow import QUEUE_FULL, REPLIES_UNREAD, Backpressure, InputFlow
from ftpsd.control.login import Login, strangers_group
from ftpsd.control.scheduler import CONNECTION_COST, HANDSHAKE_COST
from ftpsd.control.services import ControlServices
from ftpsd.control.session_view import session_view
from ftpsd.control.timeouts import SessionTimeouts
from ftpsd.data.shared import Ends
from ftpsd.events.session_events import SessionEvents, info
from ftpsd.events.types import TlsFailed, WrongProtocol
from ftpsd.limits.ledger import SessionLease
from ftpsd.limits.session_registry import SessionView
from ftpsd.protocol import parsing
from ftpsd.protocol.replies import Reply
from ftpsd.protocol.session import Session
from ftpsd.snapshot import Snapshot


class FtpsProtocol(FTP):
    """One control connection, from the greeting to its end."""

    transport: Any

    # Lines end in CRLF; a bare LF is accepted, since cameras and scripts send it.
    delimiter = b"\n"
    MAX_LENGTH = parsing.MAX_LINE

    def __init__(
        self,
        services: ControlServices,
        snapshot: Snapshot,
        number: int,
        route: Route,
        implicit: bool,
        lease: SessionLease,
    ) -> None:
        self.number = number
        self._services = services
        self._snapshot = snapshot
        self._route = route
        self._implicit = implicit
        self._lease = lease
        self._started = snapshot.now()
        self._greeted = False
        #: Whether `connectionMade` has made all that the session consists of.
        self._begun = False
        self._certificates: CertificateLogin | None = None
        self._events = SessionEvents(services.hub, info(number, route.client, route.is_check), snapshot.shows)
        self._flow = InputFlow(
            self,
            services.reactor,
            strangers_group(services.scheduler, snapshot, route.client),
            self._take_turn,
            snapshot.settings.limits.commands_per_second,
            self._events,
        )
        self._task = self._flow.task
        self.setRawMode()

    # --- begin and end ---------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Begin the session. With implicit TLS the greeting follows the handshake."""
        self._services.registry.add(self)
        self._make_session()
        self._begun = True
        self._events.opened(self._implicit)
        self._timeouts.wait_for_login()
        self.transport.registerProducer(Backpressure(self._flow), True)
        self._task.take_tokens(CONNECTION_COST + (HANDSHAKE_COST if self._implicit else 0))
        if self._implicit:
            self._channel.start_tls()
            self._session.protection = "P"
        else:
            self._task.run(self.greet)

    def _make_session(self) -> None:
        services, snapshot, events = self._services, self._snapshot, self._events
        channel = ControlChannel(self.transport, self._route, self._implicit, snapshot, events, self._drop_unread)
        ends = Ends(channel.client, channel.server, channel.local, self._route.proxies)
        data = snapshot.data.channel(ends, self._data_security, events)
        session = Session(self.number, channel, data, events, snapshot.policy, TABLE)
        timeouts = SessionTimeouts(
            services.reactor, snapshot.settings.timeouts, self._is_busy, self._expire, self.transport.abortConnection
        )
        login = Login(channel, snapshot, services.scheduler, self._task, timeouts, events)
        channel.login, channel.forget_login = login.attempt, login.forget
        channel.identify = None
        clients = snapshot.settings.tls.clients
        if clients is not None:
            certificates = self._certificates = CertificateLogin(channel, login, clients)
            channel.identify, channel.login = certificates.identify, certificates.attempt
        channel.set_idle_timeout = timeouts.set_idle_timeout
        self._channel, self._session, self._timeouts = channel, session, timeouts
        self._runner = CommandRunner(services.reactor, session, channel, self._flow, timeouts, events)
        self._queue = self._runner.queue

    def greet(self) -> None:
        """Send 220, which may have several lines."""
        self._greeted = True
        self._channel.send_reply(Reply(220, *self._snapshot.settings.banner.strip("\n").split("\n")))

    def tls_established(self) -> None:
        """A TLS handshake of the control connection is complete."""
        self._channel.tls_established()
        if self._implicit and not self._greeted:
            self.greet()

    def tls_failed(self, why: str) -> None:
        """Handle a failure of TLS on the control connection."""
        self._events.publish(TlsFailed(self._events.session, why))

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Free all resources of the session: the connection is lost."""
        self._flow.connection_lost()
        try:
            if self._begun:
                self._timeouts.stop()
                self._queue.close()
                self._runner.connection_lost()
                if self._certificates is not None:
                    self._certificates.ended()
                self._events.closed()
        finally:
            self._lease.release()
            self._services.registry.remove(self)

    def input_ended(self) -> None:
        """The client has closed its side of the connection."""
        self._runner.input_ended()

    # --- RunningSession --------------------------------------------------------------------------

    def view(self) -> SessionView:
        """Return what the session does now, for the registry."""
        return session_view(self._started, self._session, self._channel, self._runner)

    def dismiss(self, reply: Reply, immediately: bool) -> None:
        """End the session with a reply, after its transfer or immediately."""
        self._runner.dismiss(reply, immediately)

    # --- lines -----------------------------------------------------------------------------------

    def rawDataReceived(self, data: bytes) -> None:
        """The first bytes have come. A TLS ClientHello means that the client expects implicit TLS."""
        if data[:1] == b"\x16" and self.transport.tls is None:
            self._events.publish(WrongProtocol(self._events.session))
            self.transport.abortConnection()
        else:
            self.setLineMode(data)

    def lineReceived(self, line: bytes) -> None:
        """A line has come, without its LF."""
        if self._channel.ended:
            return
        flow = self._flow
        flow.commands_left -= 1
        if not flow.commands_left:
            flow.refill()
        line = line.removesuffix(b"\r")
        if self._runner.transferring is not None and self._runner.act_immediately(line):
            self.yield_if_late()
            return
        queue = self._queue
        queue.add(line)
        if queue.busy and queue.full:
            flow.pause_reading(QUEUE_FULL)

    def lineLengthExceeded(self, line: bytes) -> None:
        """End the session: no FTP client sends such a line."""
        self._runner.end(Reply(500, "Line too long. Goodbye."))

    def _drop_unread(self) -> bool:
        """Drop what the client has sent after the command that runs. Return whether there was anything."""
        unread = (self._queue.waiting, self.clearLineBuffer(), self.transport.take_unread())
        return any(unread)

    # --- turns -----------------------------------------------------------------------------------

    def input_arrived(self) -> None:
        """Bytes have come. While reading is paused they only wait."""
        if not self._flow.paused:
            self._task.run_input(self.transport.work)

    def yield_if_late(self) -> None:
        """Between two pieces of work: pause if the session has used its turn."""
        self._task.may_continue(self._services.reactor.seconds())

    def _take_turn(self) -> None:
        """The session's turn has come: continue what had to wait."""
        flow = self._flow
        flow.turn_begins()
        if not self._greeted and not self._implicit:
            self.greet()
        if REPLIES_UNREAD not in flow.paused:
            self._queue.resume()
        flow.read_on()
        if not flow.paused and not self._channel.ended:
            self.transport.work()
        self._runner.end_when_answered()

    # --- for the parts of the session ------------------------------------------------------------

    def _data_security(self) -> Any:
        """Return how the next data connection is protected: None for plain text."""
        return self._channel.data_security(self._session.account) if self._session.protection == "P" else None

    def _is_busy(self) -> bool:
        return self._queue.busy

    def _expire(self) -> None:
        # After the login, no command that runs is ended by the timer.
        late = "the login has taken too long" if self._is_busy() else "no command received"
        self._runner.end(Reply(421, f"Timeout: {late}. Goodbye."))
