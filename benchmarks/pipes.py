"""The client's end of a data connection, plain or TLS, built to cost little.

TLS runs over memory BIOs: OpenSSL on a socket makes two system calls for each record of 16 KiB, this makes one for
each large piece. It also lets the client take the socket back after the handshake to count instead of decrypt, and
say close_notify and FIN in one go however the server answers.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from benchmarks.records import RecordCounter

READ = 1 << 20
WRITE = 256 << 10
_buffer = memoryview(bytearray(READ))
"""Where everything is received: a process has one data connection at a time."""


class Pipe(Protocol):
    """What a task does with a data connection."""

    resumed: bool
    """Whether the TLS session of the control connection was resumed."""
    ended_well: bool
    """Whether the server said it was done: close_notify, or for plain text FIN."""

    def begin(self, sock: socket.socket) -> None:
        """Make the connection ready: with TLS, shake hands."""

    def pieces(self) -> Iterator[memoryview]:
        """All that the server sends, decrypted; a piece is valid until the next."""

    def sizes(self) -> Iterator[int]:
        """How much the server sends, not decrypted; under TLS its session tickets count too."""

    def send(self, data: memoryview) -> None:
        """Send all of `data`."""

    def finish(self) -> None:
        """Say that nothing more is sent, and wait until the server has closed if it has to say something, too."""

    def close(self) -> None:
        """Close, with a close_notify under TLS."""


class PlainPipe:
    """A data connection without TLS."""

    resumed = False
    _sock: socket.socket

    def __init__(self) -> None:
        self.ended_well = False

    def begin(self, sock: socket.socket) -> None:
        """See Pipe."""
        self._sock = sock

    def pieces(self) -> Iterator[memoryview]:
        """See Pipe."""
        while size := self._sock.recv_into(_buffer):
            yield _buffer[:size]
        self.ended_well = True

    def sizes(self) -> Iterator[int]:
        """See Pipe. MSG_TRUNC makes the kernel throw the bytes away instead of copying them."""
        while size := self._sock.recv_into(_buffer, READ, socket.MSG_TRUNC):
            yield size
        self.ended_well = True

    def send(self, data: memoryview) -> None:
        """See Pipe."""
        self._sock.sendall(data)

    def finish(self) -> None:
        """See Pipe. The server has nothing to say, and rclone keeps its end open after the 226."""
        self._sock.close()
        self.ended_well = True

    def close(self) -> None:
        """See Pipe."""
        self._sock.close()


class TlsPipe:
    """A data connection under TLS, resuming the control connection's session."""

    _sock: socket.socket

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        """Make the ClientHello, which nothing has to be known for: the server can work meanwhile."""
        self.resumed = self.ended_well = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, session=session)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()

    def begin(self, sock: socket.socket) -> None:
        """See Pipe."""
        self._sock = sock
        self._flush()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionError("the server closed during the TLS handshake") from None
            else:
                self._flush()
                self.resumed = bool(self._tls.session_reused)
                return

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())

    def _fill(self) -> int:
        size = self._sock.recv_into(_buffer)
        self._incoming.write(_buffer[:size])
        return size

    def pieces(self) -> Iterator[memoryview]:
        """See Pipe."""
        buffer = bytearray(16 << 10)
        view = memoryview(buffer)
        read = cast(Callable[[int, bytearray], int], self._tls.read)  # with a buffer it returns a size
        while True:
            try:
                size = read(len(buffer), buffer)
            except ssl.SSLWantReadError:
                if not self._fill():
                    return
                continue
            if not size:
                self.ended_well = True
                return
            yield view[:size]

    def sizes(self) -> Iterator[int]:
        """See Pipe. Stops at close_notify: a server may wait for ours before it closes."""
        counter = RecordCounter()
        left_over = self._incoming.read()
        if left_over:
            yield counter.feed(memoryview(left_over))
        while not counter.closed:
            size = self._sock.recv_into(_buffer)
            if not size:
                return
            yield counter.feed(_buffer[:size])
        self.ended_well = True

    def send(self, data: memoryview) -> None:
        """See Pipe."""
        for start in range(0, len(data), WRITE):
            self._tls.write(data[start : start + WRITE])
            self._flush()

    def _say_close_notify(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # "want read": the server's own is not waited for here
            self._tls.unwrap()
        self._flush()

    def finish(self) -> None:
        """See Pipe. What the server still sends (tickets, close_notify) is read, so that no reset meets the tail."""
        self._say_close_notify()
        self._sock.shutdown(socket.SHUT_WR)
        while self._sock.recv_into(_buffer):
            pass
        self.ended_well = True
        self._sock.close()

    def close(self) -> None:
        """See Pipe."""
        with contextlib.suppress(OSError):  # the server may have closed both ways already
            self._say_close_notify()
        self._sock.close()
