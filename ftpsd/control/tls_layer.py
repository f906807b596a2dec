"""The control connection's layer of TLS, which can be put on and taken off while it runs.

A Twisted protocol that wraps another one and is its transport. Before `start_tls` bytes pass
through. Twisted's own `startTLS` has no way back, which CCC and REIN need (RFC 4217 sections 5 and
13), and costs more for each line than the line itself.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.system import tls
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

_PIECE = 2**14

#: RFC 5246 section 6.2.3; a longer one is for OpenSSL to refuse.
_LONGEST_RECORD = 2**14 + 2048

#: Seconds for which the client may say close_notify first when TLS is taken off. lftp does, and takes a
#: close_notify that crosses its own for the end of the connection.
_CLIENT_FIRST = 0.25

#: Seconds between two looks for a reset while the socket is not read. The reactor does not see one then.
_LOOK = 0.25


@implementer(ITransport, IHalfCloseableProtocol)
class ControlConnection(Protocol):
    """Between the socket and the FTP protocol.

    `secured` is called after each handshake, `failed` with a sentence when TLS breaks.
    """

    def __init__(
        self,
        reactor: Reactor,
        protocol: Any,
        secured: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._protocol = protocol
        self._secured = secured
        self._failed = failed
        self._tls: SSL.Connection | None = None
        self._handshaking = False
        self._stopping = False
        self._write_plain = False
        self._closing = False
        self._reading = False
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._incoming = b""
        self._input_over = False
        self._paused = False
        self._looking = False

    # --- TLS on and off --------------------------------------------------------------------------

    def start_tls(self, context: SSL.Context) -> None:
        """From now on the peer must speak TLS."""
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self._handshaking = True

    def stop_tls(self) -> None:
        """Exchanges close_notify; after the peer's, bytes pass through again."""
        if self._tls is not None:
            self._reading = False
            self._flush()
            self._stopping = True
            self._reactor.callLater(_CLIENT_FIRST, self._say_close_notify, self._tls)

    def _say_close_notify(self, connection: SSL.Connection) -> None:
        if self._tls is connection and not self._closing:
            self._shut_down(connection)
            self._write_plain = True

    def _end_tls(self) -> None:
        self._tls, self._stopping, self._write_plain = None, False, False

    @property
    def encrypted(self) -> bool:
        """Whether TLS is on, its handshake included."""
        return self._tls is not None

    @property
    def disconnecting(self) -> bool:
        """Whether the end has begun; LineReceiver asks."""
        return self._closing

    @property
    def in_handshake(self) -> bool:
        """Whether a handshake runs."""
        return self._handshaking

    @property
    def tls_version(self) -> str | None:
        """The TLS version, such as "TLSv1.3"; None for plain text, and during a handshake."""
        if self._tls is None or self._handshaking:
            return None
        return self._tls.get_protocol_version_name()

    @property
    def server_name(self) -> str:
        """The name that the client asked for in its handshake (SNI); empty for none."""
        name = self._tls.get_servername() if self._tls is not None else None
        return name.decode("ascii", "replace") if name else ""

    # --- from the socket -------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The socket is open. The Synch signal of Telnet is urgent data: it stays in line (RFC 854)."""
        try:
            self._raw.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            self._raw.setTcpNoDelay(True)
            self._protocol.makeConnection(self)
        except Exception:  # Twisted would log it, and leave the connection open and the session counted
            log.failure("internal error: a session cannot begin")
            self.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the peer. The protocol decides when it works on them, and calls `work`."""
        if self._input_over:
            return
        self._incoming = self._incoming + data if self._incoming else data
        self._protocol.input_came()

    def work(self) -> None:
        """Works on what has come, until the protocol pauses."""
        if self._tls is not None:
            self._reading = True
            try:
                while self._incoming and self._tls is not None and not (self._closing or self._paused):
                    record = self._take_record()
                    if not record:
                        break
                    self._tls.bio_write(record)
                    self._read(self._tls, len(record))
                    if self._incoming:
                        self._protocol.yield_if_late()
            except SSL.Error as error:
                self._break(error)
            finally:
                self._reading = False
                self._flush()
        if self._tls is None and self._incoming and not self._closing:
            data, self._incoming = self._incoming, b""
            self._protocol.dataReceived(data)

    def take_unread(self) -> bytes:
        """Drops what has come and was not worked on."""
        unread, self._incoming = self._incoming, b""
        return unread

    def _take_record(self) -> bytes:
        """The next TLS record (RFC 8446 section 5.1); empty until the whole of it is there.

        OpenSSL gets one at a time, so that what follows the last one is still plain text here (CCC,
        REIN), and no call has to be made just to learn that there is no more.
        """
        incoming = self._incoming
        if incoming[:2] not in tls.RECORD_STARTS:
            if not self._stopping:
                raise tls.NotTls
            self._end_tls()  # the client goes on in plain text without a close_notify
            return b""
        if len(incoming) < tls.HEADER:
            return b""
        end = tls.HEADER + int.from_bytes(incoming[3:5], "big")
        if len(incoming) < end <= tls.HEADER + _LONGEST_RECORD:
            return b""
        record, self._incoming = incoming[:end], incoming[end:]
        return record

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The socket is gone."""
        self._tls = None
        self._protocol.connectionLost(reason)

    def _read(self, connection: SSL.Connection, size: int) -> None:
        """Works on one record of so many bytes; what is in it is shorter."""
        try:
            if self._handshaking:
                connection.do_handshake()
                self._handshaking = False
                self._secured()
            else:
                self._protocol.dataReceived(connection.recv(size))
        except SSL.WantReadError:
            pass  # a record of TLS's own
        except SSL.Error as error:
            if not tls.is_close_notify(connection, error):
                raise
            self._peer_closed()

    def _peer_closed(self) -> None:
        if self._stopping and self._tls is not None:
            self._flush()
            self._shut_down(self._tls)
            self._end_tls()
        elif self._tls is not None:
            self._incoming = b""
            self._end_input()

    # --- the end of the input, and of the connection ---------------------------------------------

    def readConnectionLost(self) -> None:
        """FIN; or a reset, which Twisted's epoll reactor may announce in the same way, and recv() after a FIN hides."""
        if not self._abort_if_reset():
            self._end_input()

    def writeConnectionLost(self) -> None:
        """Is not called: this side closes both directions at once."""

    def _end_input(self) -> None:
        """The client has said all: FIN or close_notify. What it has said before is answered yet."""
        if not (self._input_over or self._closing):
            self._input_over = True
            self._raw.pauseProducing()
            self._look_for_reset_later()
            self._protocol.input_ended()

    def _look_for_reset_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._reactor.callLater(_LOOK, self._look_for_reset)

    def _look_for_reset(self) -> None:
        self._looking = False
        if self._raw.connected and (self._paused or self._input_over) and not self._abort_if_reset():
            self._look_for_reset_later()

    def _abort_if_reset(self) -> bool:
        reset = bool(self._raw.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if reset:
            self._raw.abortConnection()
        return reset

    def _break(self, error: SSL.Error) -> None:
        """An alert that OpenSSL has made for the peer goes out before the end. Once: what was held breaks again."""
        if self._closing:
            return
        if isinstance(error, tls.NotTls) and self._tls is not None:
            self._flush()
            self._send(tls.refuse_garbage(self._tls))
        self._flush_tls()
        self._closing = True
        self._failed(tls.describe(error))
        self._raw.unregisterProducer()
        self._raw.loseConnection()

    # --- to the socket ---------------------------------------------------------------------------

    @property
    def _raw(self) -> Any:
        return self.transport

    def write(self, data: bytes) -> None:
        """Bytes to the peer. Those written while input is worked on go out together after it."""
        if self._closing:
            return
        if self._reading:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > _PIECE:  # so that the transport can say that it is too much
                self._send_held()
        else:
            self._pass_on(data)

    def writeSequence(self, data: Any) -> None:
        """The same for several."""
        self.write(b"".join(data))

    def _send_held(self) -> None:
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._tls is None or self._write_plain:
            self._send(data)
        else:
            self._encrypt(self._tls, data)

    def _send(self, data: bytes) -> None:
        """Puts bytes on the wire at once, as far as they go.

        Twisted's `write` leaves that to the reactor's next turn: three system calls and an event for each
        reply. Only what the socket does not take goes that way.
        """
        raw: Any = self.transport
        if raw.connected and not (raw.dataBuffer or raw._tempDataBuffer):
            sent = raw.writeSomeData(data)
            if isinstance(sent, int) and sent > 0:
                if sent == len(data):
                    return
                data = data[sent:]
        raw.write(data)

    def _flush(self) -> None:
        if self._held:
            self._send_held()
        elif self._tls is not None:
            self._flush_tls()

    def _encrypt(self, connection: SSL.Connection, data: bytes) -> None:
        try:
            connection.send(data)
        except SSL.Error as error:
            self._break(error)
        else:
            self._flush_tls()

    def _flush_tls(self) -> None:
        if self._tls is None:
            return
        try:
            while True:
                data = self._tls.bio_read(_PIECE)
                self._send(data)
                if len(data) < _PIECE:
                    return  # all of it is out
        except SSL.Error:
            pass  # there is nothing

    def _shut_down(self, connection: SSL.Connection) -> None:
        tls.close(connection)
        self._flush_tls()

    def loseConnection(self, *_: Any) -> None:
        """Ends the connection when all is sent, with close_notify under TLS."""
        if self._closing:
            return
        self._reading = False
        self._flush()
        self._raw.unregisterProducer()  # a paused one would keep the connection open for ever
        if self._tls is not None and not self._handshaking:
            self._shut_down(self._tls)
        self._closing = True
        self._raw.loseConnection()

    def abortConnection(self) -> None:
        """Ends the connection now."""
        self._closing = True
        self._raw.abortConnection()

    # --- what passes through ---------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """No more from the peer for now."""
        self._paused = True
        if not self._closing:
            self._raw.pauseProducing()
            self._look_for_reset_later()

    def resumeProducing(self) -> None:
        """Goes on reading."""
        self._paused = False
        if not (self._closing or self._input_over):
            self._raw.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Who writes is told when the peer does not read."""
        self._raw.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Nobody is told any more."""
        self._raw.unregisterProducer()

    def getPeer(self) -> Any:
        """The client's address."""
        return self._raw.getPeer()

    def getHost(self) -> Any:
        """The address that the client reached."""
        return self._raw.getHost()
