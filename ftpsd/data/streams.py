"""Data connections that transfers use: plain text, TLS for downloads, TLS for uploads (see `endpoints.Stream`).

Each is used by one transfer. Its generators run in worker threads, and raise the Refusal that the client is sent.
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
from contextlib import suppress

from OpenSSL import SSL

from ftpsd.data.endpoints import COPY, READ, WRITE, FileSource, Pause, Steps
from ftpsd.data.handshakes import Handshake, Handshakes, broken
from ftpsd.protocol.replies import Refusal
from ftpsd.system.tls import errors
from ftpsd.system.tls.private import decrypt, move_to_socket

#: Errors that only a socket can have. With any other error, `sendfile` has failed at the file.
_NETWORK = {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT, errno.EPROTO}
_NETWORK |= {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET}

#: The position of the round-trip time in `struct tcp_info`, in microseconds (tcpi_rtt in linux/tcp.h).
_RTT = slice(68, 72)

#: Bytes that one `sendfile` may move before another transfer may have the thread.
_SENDFILE = 4 * 1024 * 1024


class PlainStream:
    """PROT C: a socket without TLS."""

    #: Whether the end of the stream proves that all has arrived: the close_notify of TLS does.
    proves_end = False

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.moved = 0
        self.is_open = True
        self._interrupted = False
        #: Whether the bytes may be another session's. Set before the abort, which a step may notice first.
        self.is_mixed_up = False
        #: Held while the socket is shut down or closed: a closed descriptor's number may be another connection's.
        self._closing = threading.Lock()

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 once it is closed."""
        return self._socket.fileno()

    def open(self) -> Steps[None]:
        """Nothing is negotiated."""
        return
        yield

    def send(self, data: bytes | memoryview) -> Steps[None]:
        """Send all of the data."""
        rest = memoryview(data)
        while rest:
            try:
                count = self._socket.send(rest)
            except BlockingIOError:
                yield WRITE
            except OSError as error:
                raise broken(error) from None
            else:
                self.moved += count
                rest = rest[count:]

    def send_file(self, source: FileSource) -> Steps[None]:
        """Send a file with sendfile(2): its bytes never enter this process."""
        while wanted := source.left(_SENDFILE):
            try:
                count = os.sendfile(self._socket.fileno(), source.fd, source.offset, wanted)
            except BlockingIOError:
                yield WRITE
                continue
            except OSError as error:  # of the socket or of the file: the call uses both
                raise (broken(error) if error.errno in _NETWORK else error) from None
            if not count:
                source.check_end()
                return
            source.offset += count
            self.moved += count
            yield None

    def finish_sending(self) -> Steps[None]:
        """End the stream, and wait until the peer's TCP has all of it."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise broken(error) from None
        yield from _delivered(self._socket)

    def receive(self, buffer: memoryview) -> Steps[int]:
        """Receive at least one byte and return the number of bytes, or 0 at the end of the stream."""
        count = yield from self._receive_raw(buffer)
        self.moved += count
        return count

    def _receive_raw(self, buffer: memoryview) -> Steps[int]:
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                yield READ
            except OSError as error:
                raise broken(error) from None
            else:
                if not count and self._interrupted:  # our own shutdown is not the peer's end of the stream
                    raise Refusal(426, "Transfer interrupted.")
                return count

    def finish_receiving(self) -> Steps[None]:
        """Nothing is sent."""
        return
        yield

    def allowance(self) -> Steps[int]:
        """Return how many bytes one step may copy. No rate limits it here; `ThrottledStream` does that."""
        return COPY
        yield

    def charge(self, count: int) -> None:
        """Nothing is counted without a rate limit."""

    def interrupt(self) -> None:
        """Shut the socket down, so that a blocked step returns. May be called from any thread."""
        self._interrupted = True
        if self.is_open:
            with self._closing, suppress(OSError):  # the peer has reset it
                self._socket.shutdown(socket.SHUT_RDWR)

    def round_trip(self) -> float:
        """Return the round-trip time of TCP in seconds; 0 if the connection is not open."""
        if self.is_open:
            with self._closing, suppress(OSError):
                info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.stop)
                return int.from_bytes(info[_RTT], sys.byteorder) / 1e6
        return 0.0

    def close(self) -> None:
        """Close the socket. May be called any number of times."""
        with self._closing:
            self._socket.close()


class TlsStream(PlainStream):
    """PROT P: the connection whose TLS handshake is accepted first."""

    def __init__(self, handshakes: Handshakes) -> None:
        super().__init__(handshakes.socket)
        self.is_open = False
        self._handshakes = handshakes
        # Both are set when it is open.
        self._handshake: Handshake
        self._tls: SSL.Connection

    def fileno(self) -> int:
        """Return the descriptor to poll: the socket, or that of the handshakes until one is accepted."""
        return self._socket.fileno() if self.is_open else self._handshakes.fileno()

    def close(self) -> None:
        """Close the connection. May be called any number of times.

        OpenSSL forgets a session whose connection ends without close_notify. Then a TLS 1.2 client that resumes
        by session ID would be refused from then on. A session that was not accepted is to be forgotten.
        """
        if self.is_open:
            self._tls.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        super().close()
        self._handshakes.close()

    def open(self) -> Steps[None]:
        """Do the handshake, unless it is done already."""
        handshakes = self._handshakes
        if handshakes.accepted is None:
            yield from handshakes.steps()
        assert handshakes.accepted is not None
        self._handshake = handshakes.accepted
        self._socket, self._tls = self._handshake.socket, self._handshake.tls
        yield from self._begin(self._handshake)
        self.is_open = True

    def _begin(self, handshake: Handshake) -> Steps[None]:
        yield from self._send_raw(handshake.tickets)

    def _send_raw(self, data: bytes) -> Steps[None]:
        moved = self.moved
        yield from PlainStream.send(self, data)
        self.moved = moved  # TLS overhead is not counted


class TlsSender(TlsStream):
    """For downloads: after the handshake, OpenSSL writes to the socket itself."""

    def _begin(self, handshake: Handshake) -> Steps[None]:
        # Tickets, a small file, close_notify and FIN leave in one segment. The kernel delays it by 200 ms at most.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        yield from self._send_raw(handshake.tickets)
        move_to_socket(self._tls, self._socket.fileno())

    def send(self, data: bytes | memoryview) -> Steps[None]:
        """Send all of the data. OpenSSL requires that a `send` that must wait is repeated with the same bytes."""
        rest = memoryview(data)
        while rest:
            try:
                count = self._tls.send(rest)
            except SSL.WantWriteError:
                yield WRITE
            except SSL.WantReadError:
                yield READ
            except SSL.Error as error:
                raise broken(error) from None
            else:
                self.moved += count
                rest = rest[count:]

    def send_file(self, source: FileSource) -> Steps[None]:
        """Send a file in pieces."""
        for piece in source:
            yield from self.send(piece)
            yield None

    def finish_sending(self) -> Steps[None]:
        """Send close_notify, end the stream, and wait until the peer's TCP has all of it."""
        while True:
            try:
                self._tls.shutdown()
                break
            except SSL.WantWriteError:
                yield WRITE
            except SSL.Error as error:
                raise broken(error) from None
        yield from super().finish_sending()


class TlsReceiver(TlsStream):
    """For uploads: TLS in memory, so that the session tickets of TLS 1.3 can be held back.

    OpenSSL sends tickets when the handshake ends. lftp, rclone and old releases of curl never read them. When
    such a client closes its socket, its kernel resets the connection because of the unread bytes, and the end of
    the file is lost. So the tickets are sent when the client has ended its stream, before the daemon's close_notify.
    """

    def __init__(self, handshakes: Handshakes, lenient: bool) -> None:
        super().__init__(handshakes)
        #: Whether the stream may end without close_notify.
        self._lenient = lenient
        self.proves_end = not lenient
        self._ended = False

    def _begin(self, handshake: Handshake) -> Steps[None]:
        # With the tickets held back, the kernel would acknowledge the client's Finished only after 40 ms, and a
        # client without TCP_NODELAY (ftplib) sends nothing before that.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if not self._lenient:
            handshake.ends = None
        return
        yield

    def receive(self, buffer: memoryview) -> Steps[int]:
        """Receive as much as has arrived and fits; return the number of bytes, or 0 after the peer's close_notify."""
        while True:
            count = self._decrypt(buffer)
            if count or self._ended:
                self.moved += count
                return count
            handshake = self._handshake
            received = yield from self._receive_raw(handshake.incoming)
            if not received and handshake.ends is not None:
                if not handshake.ends.reached:
                    raise Refusal(426, "The data connection ended in the middle of a TLS record: the upload was cut.")
                self._ended = True  # OpenSSL would answer with an alert, and the client with an error
                return 0
            handshake.feed(received)

    def _decrypt(self, buffer: memoryview) -> int:
        count, error = decrypt(self._tls, buffer)
        if error is None or isinstance(error, SSL.WantReadError):
            return count
        if not errors.is_close_notify(self._tls, error):
            if not errors.is_end_of_file(error):
                raise broken(error)
            raise Refusal(
                426,
                "The data connection ended without TLS close_notify: the upload may be cut short. "
                "(tls.close_notify: lenient accepts it.)",
            )
        self._ended = True
        return count

    def finish_receiving(self) -> Steps[None]:
        """Send the tickets that were held back, and close_notify. The peer need not read them."""
        errors.close(self._tls)
        yield from self._send_raw(self._handshake.tickets + self._handshake.outgoing())


def _delivered(connection: socket.socket) -> Steps[None]:
    """Wait until the peer's TCP has acknowledged every byte. Raises Refusal if it resets the connection.

    The kernel does not report acknowledgements, so they are polled. But most clients close the connection when they
    have everything, and their FIN ends the wait immediately.
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
            raise broken(error) from None
        if problem := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # a reset after the FIN
            raise broken(OSError(problem, os.strerror(problem)))
        before, waiting = waiting, _unacknowledged(connection)
        if waiting < before:
            yield None  # progress
        elif silent:
            pause = min(pause * 2, 0.05)
    if problem := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise broken(OSError(problem, os.strerror(problem)))


def _unacknowledged(connection: socket.socket) -> int:
    raw = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", raw)[0])
