"""One request and its answer on a blocking socket, with one deadline and one size limit for all of it."""

from __future__ import annotations

import io
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from ftpsd.accounts.sources.deadline import Deadline


class AnswerTooLong(OSError):
    """The other side has sent more bytes than any answer needs."""


class BoundedSocket:
    """A connected socket with a deadline for all calls together, and a limit of bytes that are received.

    A time-out of the socket itself would begin again with each byte of a slow answer. http.client uses this object as
    its socket. The caller who has made the inner socket closes it.
    """

    def __init__(self, connected: socket.socket, deadline: Deadline, most: int) -> None:
        self._socket = connected
        self._deadline = deadline
        self._left = most

    def sendall(self, data: bytes) -> None:
        """Send all bytes."""
        view = memoryview(data)
        while view:
            self._socket.settimeout(self._deadline.left())
            view = view[self._socket.send(view) :]

    def receive(self) -> bytes:
        """Return some bytes; none at the end of the stream. Raises AnswerTooLong."""
        self._socket.settimeout(self._deadline.left())
        data = self._socket.recv(4096)
        self._left -= len(data)
        if self._left < 0:
            raise AnswerTooLong("the answer is too long")
        return data

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a file from which the bytes can be read."""
        return io.BufferedReader(_Reader(self.receive))

    def close(self) -> None:
        """Do nothing."""


class _Reader(io.RawIOBase):
    """The bytes of a BoundedSocket as a file."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._pending = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the beginning of a buffer; return the number of bytes."""
        view = memoryview(cast(bytearray, buffer))
        data = self._pending or self._receive()
        count = min(len(data), len(view))
        view[:count] = data[:count]
        self._pending = data[count:]
        return count


def connect_unix(path: Path, deadline: Deadline) -> socket.socket:
    """Connect to a Unix socket. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        # With settimeout the socket is non-blocking, and such a one does not wait for a place in a full queue.
        seconds = deadline.left()
        until = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, until)
        connection.connect(os.fspath(path))
    except BlockingIOError:
        connection.close()
        raise TimeoutError("its queue of connections is full") from None
    except BaseException:
        connection.close()
        raise
    return connection


def connect_tcp(host: str, port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first address of a host that accepts. Raises OSError.

    The time is divided among the addresses: one that does not answer leaves time for the others. getaddrinfo has no
    deadline but those of resolv.conf; the caller of the source abandons this thread then.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, (family, kind, protocol, _, address) in enumerate(found):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(deadline.left() / (len(found) - index))
            connection.connect(address)
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError) or index == len(found) - 1:
                raise
        else:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise OSError("the host has no address")
