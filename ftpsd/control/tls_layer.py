"""The TLS layer of a control connection, which can be turned on and off while the connection lasts: ControlConnection.

It is a Twisted protocol that wraps another one and is its transport. Before `start_tls` bytes pass through. Twisted's
own `startTLS` has no way back, which CCC and REIN need (RFC 4217 sections 5 and 13), and costs more for each line than
the line itself.

Input takes this way: `dataReceived` keeps what has arrived and tells the protocol. When it is the session's turn, the
protocol calls `work`, which passes on plain text, or TLS records one by one until the protocol pauses. Parts:
`tls/records` finds the records, `tls/engine` has the states of TLS, `tls/output` sends, `tls/reset_watch` looks for
resets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any
from typing import Protocol as Interface

from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.control.tls.engine import Event, TlsEngine, TlsState
from ftpsd.control.tls.output import Output
from ftpsd.control.tls.records import next_record
from ftpsd.control.tls.reset_watch import ResetWatch
from ftpsd.system.reactor import Reactor
from ftpsd.system.tls import errors

log = Logger(namespace="ftpsd")

#: Seconds for which the client may send close_notify first when TLS is turned off. lftp does, and takes a close_notify
#: that crosses its own for the end of the connection.
_CLIENT_FIRST = 0.25


class SessionProtocol(Interface):
    """The protocol above TLS."""

    def makeConnection(self, transport: Any) -> None:
        """Begin the session on a connection."""

    def dataReceived(self, data: bytes) -> None:
        """Process plain text."""

    def input_arrived(self) -> None:
        """Handle the arrival of bytes: call `work` when it is the session's turn."""

    def yield_if_late(self) -> None:
        """Between two records: pause if the session has used its turn."""

    def input_ended(self) -> None:
        """The client has closed its side of the connection."""

    def tls_established(self) -> None:
        """A handshake is complete."""

    def tls_failed(self, why: str) -> None:
        """TLS has failed; the connection is closed."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is lost."""


class _Nobody:
    """What is above TLS when the connection is lost. So the session can be freed without a garbage collection."""

    def makeConnection(self, transport: Any) -> None:
        """Do nothing, like all methods."""

    def dataReceived(self, data: bytes) -> None:
        """Do nothing."""

    def input_arrived(self) -> None:
        """Do nothing."""

    yield_if_late = input_ended = tls_established = input_arrived

    def tls_failed(self, why: str) -> None:
        """Do nothing."""

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing."""


_NOBODY = _Nobody()


@implementer(ITransport, IHalfCloseableProtocol)
class ControlConnection(Protocol):
    """The connection between the socket and the FTP protocol: decrypts input and encrypts output if TLS is on.

    Half of its methods are called by Twisted: it is the protocol of the socket, and the transport of FtpsProtocol.
    """

    transport: Any

    def __init__(self, reactor: Reactor, protocol: SessionProtocol) -> None:
        self._reactor = reactor
        self._protocol = protocol
        #: TLS, from the start of the handshake on; None for plain text.
        self.tls: TlsEngine | None = None
        #: Whether the connection is being closed. LineReceiver reads it.
        self.disconnecting = False
        self._incoming = b""
        self._input_ended = False
        self._paused = False
        self._output = Output(self._fail)
        self._reset_watch = ResetWatch(reactor, lambda: self._paused or self._input_ended)
        self.write = self._output.write

    # --- TLS on and off --------------------------------------------------------------------------

    def start_tls(self, context: SSL.Context) -> None:
        """Expect a TLS handshake from now on."""
        self.tls = self._output.engine = TlsEngine(context)

    def stop_tls(self) -> None:
        """Exchange close_notify. After that of the client the connection is plain text again."""
        if self.tls is not None:
            self._output.holding = False
            self._output.flush()
            self.tls.state = TlsState.STOPPING
            self._reactor.callLater(_CLIENT_FIRST, self._send_close_notify, self.tls)

    def _send_close_notify(self, engine: TlsEngine) -> None:
        if self.tls is engine and not self.disconnecting:
            self._output.send_close_notify()
            engine.state = TlsState.STOP_SENT

    def _end_tls(self) -> None:
        self.tls = self._output.engine = None

    # --- from the socket -------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The connection is open. The Synch signal of Telnet is urgent data: it stays in line (RFC 854)."""
        self._output.transport = self._reset_watch.transport = self.transport
        try:
            self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            self.transport.setTcpNoDelay(True)
            self._protocol.makeConnection(self)
        except Exception:  # Twisted would log it, and leave the connection open and the session counted
            log.failure("internal error: the session cannot start")
            self.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Keep bytes from the client. The protocol decides when they are processed, and calls `work`."""
        if self._input_ended:
            return
        self._incoming = self._incoming + data if self._incoming else data
        self._protocol.input_arrived()

    def work(self) -> None:
        """Process what has arrived, until the protocol pauses."""
        if self.tls is not None:
            self._output.holding = True
            try:
                while self._incoming and (engine := self.tls) is not None and not (self.disconnecting or self._paused):
                    record = next_record(self._incoming)
                    if not record:
                        break
                    self._incoming = self._incoming[len(record) :]
                    received = engine.read(record)
                    if isinstance(received, bytes):
                        self._protocol.dataReceived(received)
                    else:
                        self._handle(received)
                    if self._incoming:
                        self._protocol.yield_if_late()
            except SSL.Error as error:
                self._fail(error)
            finally:
                self._output.holding = False
                self._output.flush()
        if self.tls is None and self._incoming and not self.disconnecting:
            data, self._incoming = self._incoming, b""
            self._protocol.dataReceived(data)

    def _handle(self, event: Event) -> None:
        """A record without application data has come."""
        if event is Event.SECURED:
            self._protocol.tls_established()
        elif event is Event.CLOSED and self.tls is not None:
            if self.tls.stopping:
                self._output.flush()
                self._output.send_close_notify()
                self._end_tls()
            else:
                self._incoming = b""
                self._end_input()

    def take_unread(self) -> bytes:
        """Drop what has arrived and was not processed, and return it."""
        unread, self._incoming = self._incoming, b""
        return unread

    # --- the end of the input, and of the connection ---------------------------------------------

    def readConnectionLost(self) -> None:
        """FIN; or a reset, which Twisted's epoll reactor may report in the same way, and recv() after a FIN hides."""
        if not self._reset_watch.abort_if_reset():
            self._end_input()

    def writeConnectionLost(self) -> None:
        """Is not called: this side closes both directions at once."""

    def _end_input(self) -> None:
        """The client sends nothing more (FIN or close_notify). What it has sent before is still answered."""
        if not (self._input_ended or self.disconnecting):
            self._input_ended = True
            self.transport.pauseProducing()
            self._reset_watch.start()
            self._protocol.input_ended()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is lost."""
        protocol, self._protocol = self._protocol, _NOBODY
        self.tls = None
        self._output.connection_lost()
        self._reset_watch.stop()
        protocol.connectionLost(reason)

    def _fail(self, error: SSL.Error) -> None:
        """Send the alert that OpenSSL has made for the client, then close. Only once: what was held fails again."""
        if self.disconnecting:
            return
        if isinstance(error, errors.NotTls) and self.tls is not None:
            if self.tls.stopping:  # the client continues in plain text without close_notify
                self._end_tls()
                return
            self._output.flush()
            self._output.send_plain(errors.refuse_garbage(self.tls.connection))
        self._output.send_records()
        self._begin_close()
        self._protocol.tls_failed(errors.describe(error))
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _begin_close(self) -> None:
        self.disconnecting = self._output.closed = True

    # --- ITransport ------------------------------------------------------------------------------

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send several pieces."""
        self.write(b"".join(data))

    def loseConnection(self, *_: object) -> None:
        """Close the connection when all is sent, with close_notify under TLS."""
        if self.disconnecting:
            return
        self._output.holding = False
        self._output.flush()
        self.transport.unregisterProducer()  # a paused one would keep the connection open for ever
        if self.tls is not None and self.tls.state is not TlsState.HANDSHAKE:
            self._output.send_close_notify()
        self._begin_close()
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        """Close the connection now."""
        self._begin_close()
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """Read nothing more for now."""
        self._paused = True
        if not self.disconnecting:
            self.transport.pauseProducing()
            self._reset_watch.start()

    def resumeProducing(self) -> None:
        """Read again."""
        self._paused = False
        if not (self.disconnecting or self._input_ended):
            self.transport.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause a producer while the client does not read."""
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Pause no producer any more."""
        self.transport.unregisterProducer()

    def getPeer(self) -> Any:
        """Return the client's address."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """Return the address that the client has reached."""
        return self.transport.getHost()
