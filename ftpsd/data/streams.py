"""The bytes of one data connection: plain, TLS that sends, TLS that receives.

Each is used by one transfer, in worker threads, as generators (see `transfer.py`). What goes wrong is
raised as the `Refusal` that the client is told.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
import threading
from collections.abc import Generator
from contextlib import suppress

from OpenSSL import SSL

from ftpsd.data.handshakes import Contest, Handshake, cut
from ftpsd.data.transfer import COPY, READ, WRITE, FileSource, Pause, Steps
from ftpsd.protocol.replies import Refusal
from ftpsd.system import tls

#: Errors that only a socket has; with any other, `sendfile` speaks of the file.
_NETWORK = {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT, errno.EPROTO}
_NETWORK |= {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET}

#: Where `struct tcp_info` has the round trip time, in microseconds (tcpi_rtt in linux/tcp.h).
_RTT = slice(68, 72)

#: How much one `sendfile` may move before another transfer gets its turn.
_SENDFILE = 4 * 1024 * 1024


class PlainStream:
    """PROT C: the socket and nothing else."""

    #: Whether the end of what is received proves that it is whole: TLS's close_notify does.
    proves_end = False

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.moved = 0
        self.opened = False
        self._interrupted = False
        #: Held while the socket is shut down or closed: once closed, its number may be another connection's.
        self._closing = threading.Lock()

    def fileno(self) -> int:
        """The socket's descriptor; -1 once it is closed."""
        return self._socket.fileno()

    def open(self) -> Steps:
        """Nothing to negotiate."""
        self.opened = True
        return
        yield

    def send(self, data: bytes | memoryview) -> Steps:
        """Sends all of it."""
        rest = memoryview(data)
        while rest:
            try:
                count = self._socket.send(rest)
            except BlockingIOError:
                yield WRITE
            except OSError as error:
                raise cut(error) from None
            else:
                self.moved += count
                rest = rest[count:]

    def send_file(self, source: FileSource) -> Steps:
        """Sends a file without its bytes ever being in this process."""
        while wanted := source.left(_SENDFILE):
            try:
                count = os.sendfile(self._socket.fileno(), source.fd, source.offset, wanted)
            except BlockingIOError:
                yield WRITE
                continue
            except OSError as error:  # of the socket or of the file: one call has both
                raise (cut(error) if error.errno in _NETWORK else error) from None
            if not count:
                source.check_end()
                return
            source.offset += count
            self.moved += count
            yield None

    def finish_sending(self) -> Steps:
        """The end of the stream; done when the peer's TCP has all of it."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise cut(error) from None
        yield from _delivered(self._socket)

    def receive(self, buffer: memoryview) -> Generator[int | Pause | None, None, int]:
        """What has arrived, at least a byte; 0 at the end of the stream."""
        count = yield from self._receive_raw(buffer)
        self.moved += count
        return count

    def _receive_raw(self, buffer: memoryview) -> Generator[int | Pause | None, None, int]:
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                yield READ
            except OSError as error:
                raise cut(error) from None
            else:
                if not count and self._interrupted:  # our own shutdown is not the peer's end of the stream
                    raise Refusal(426, "The transfer was interrupted.")
                return count

    def finish_receiving(self) -> Steps:
        """Nothing to say."""
        return
        yield

    def turn(self) -> Generator[int | Pause | None, None, int]:
        """Return how many bytes may be copied in a step: no rate limits it. See `PacedConnection`."""
        return COPY
        yield

    def pay(self, count: int) -> None:
        """Nothing to charge."""

    def interrupt(self) -> None:
        """Wakes the transfer up, from another thread: the socket is shut down."""
        self._interrupted = True
        if self.opened:
            with self._closing, suppress(OSError):  # it is gone already
                self._socket.shutdown(socket.SHUT_RDWR)

    def round_trip(self) -> float:
        """Seconds that TCP's segments take to the peer and back; 0 if the connection is not open."""
        if self.opened:
            with self._closing, suppress(OSError):
                info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.stop)
                return int.from_bytes(info[_RTT], sys.byteorder) / 1e6
        return 0.0

    def close(self) -> None:
        """Any number of times."""
        with self._closing:
            self._socket.close()


class TlsStream(PlainStream):
    """PROT P: the connection that wins the contest."""

    def __init__(self, contest: Contest) -> None:
        super().__init__(contest.socket)
        self._contest = contest
        self._handshake: Handshake  # once it is open
        self._tls: SSL.Connection

    def fileno(self) -> int:
        """What the transfer waits for: the socket, or before it is known, what finds it."""
        return self._socket.fileno() if self.opened else self._contest.fileno()

    def close(self) -> None:
        """Any number of times.

        OpenSSL forgets a session whose connection ends without close_notify, and a client of TLS 1.2 that
        resumes by session ID would be refused from then on. One that was not accepted is to be forgotten.
        """
        if self.opened:
            self._tls.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        super().close()
        self._contest.close()

    def open(self) -> Steps:
        """The handshake, unless it is done already."""
        contest = self._contest
        if contest.winner is None:
            yield from contest.steps()
        assert contest.winner is not None
        self._handshake = contest.winner
        self._socket, self._tls = self._handshake.socket, self._handshake.tls
        yield from self._opened(self._handshake)
        self.opened = True

    def _opened(self, handshake: Handshake) -> Steps:
        yield from self._push(handshake.tickets)

    def _push(self, data: bytes) -> Steps:
        moved = self.moved
        yield from PlainStream.send(self, data)
        self.moved = moved  # these bytes are TLS's own


class TlsSender(TlsStream):
    """For downloads: behind the handshake OpenSSL writes to the socket itself."""

    def _opened(self, handshake: Handshake) -> Steps:
        # Tickets, a small file, close_notify and FIN in one segment. What is held back waits for 200 ms at most.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        yield from self._push(handshake.tickets)
        tls.move_to_socket(self._tls, self._socket.fileno())

    def send(self, data: bytes | memoryview) -> Steps:
        """Sends all of it. A `send` that must wait has to be repeated with the same bytes."""
        rest = memoryview(data)
        while rest:
            try:
                count = self._tls.send(rest)
            except SSL.WantWriteError:
                yield WRITE
            except SSL.WantReadError:
                yield READ
            except SSL.Error as error:
                raise cut(error) from None
            else:
                self.moved += count
                rest = rest[count:]

    def send_file(self, source: FileSource) -> Steps:
        """Sends a file piece by piece."""
        for piece in source:
            yield from self.send(piece)
            yield None

    def finish_sending(self) -> Steps:
        """close_notify, then the end of the stream."""
        while True:
            try:
                self._tls.shutdown()
                break
            except SSL.WantWriteError:
                yield WRITE
            except SSL.Error as error:
                raise cut(error) from None
        yield from super().finish_sending()


class TlsReceiver(TlsStream):
    """For uploads: TLS in memory, so that the session tickets of TLS 1.3 can be held back.

    OpenSSL sends tickets the moment the handshake ends. lftp, rclone and old curls never read them;
    when such a client closes, its kernel answers the unread bytes with a reset, and the tail of the
    file is lost. So the tickets go out when the client has ended its stream, before our close_notify.
    """

    def __init__(self, contest: Contest, lenient: bool) -> None:
        super().__init__(contest)
        self._lenient = lenient
        self.proves_end = not lenient
        self._ended = False

    def _opened(self, handshake: Handshake) -> Steps:
        # With the tickets held back nothing would carry the acknowledgement of the client's Finished for
        # 40 ms, and a client without TCP_NODELAY (ftplib) sends nothing before it.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return
        yield

    def receive(self, buffer: memoryview) -> Generator[int | Pause | None, None, int]:
        """As much as has arrived and fits; 0 after the peer's close_notify."""
        while True:
            count = self._decrypt(buffer)
            if count or self._ended:
                self.moved += count
                return count
            handshake = self._handshake
            handshake.feed((yield from self._receive_raw(handshake.incoming)))

    def _decrypt(self, buffer: memoryview) -> int:
        count, error = tls.decrypt(self._tls, buffer)
        if error is None or isinstance(error, SSL.WantReadError):
            return count
        if not tls.is_close_notify(self._tls, error):
            if not tls.is_end_of_file(error):
                raise cut(error)
            if not self._lenient:
                raise Refusal(
                    426,
                    "The data connection ended without TLS close_notify: the upload may be cut short. "
                    "(tls.close_notify: lenient accepts it.)",
                )
        self._ended = True
        return count

    def finish_receiving(self) -> Steps:
        """The tickets that were held back, and our close_notify. The peer need not read them."""
        tls.close(self._tls)
        yield from self._push(self._handshake.tickets + self._handshake.outgoing())


def _delivered(connection: socket.socket) -> Steps:
    """Waits until the peer's TCP has acknowledged every byte, or has reset the connection.

    Nothing announces an acknowledgement, so this has to look again; but most clients close when they
    have everything, and their FIN tells at once.
    """
    pause, silent = 0.001, False
    waiting = _unacknowledged(connection)
    while waiting:
        yield Pause(pause, wake=not silent)
        try:
            silent = silent or not connection.recv(65536)
        except BlockingIOError:
            pause = min(pause * 2, 0.05)
        except OSError as error:
            raise cut(error) from None
        if problem := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # a reset behind the FIN
            raise cut(OSError(problem, os.strerror(problem)))
        before, waiting = waiting, _unacknowledged(connection)
        if waiting < before:
            yield None  # progress
        elif silent:
            pause = min(pause * 2, 0.05)
    if problem := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise cut(OSError(problem, os.strerror(problem)))


def _unacknowledged(connection: socket.socket) -> int:
    raw = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", raw)[0])
