"""One connection of a client that never blocks, with TLS put on at will, which can break off at any byte."""

from __future__ import annotations

import asyncio
import enum
import random
import socket
import ssl
import struct

from benchmarks.client import HOST

#: More than any connection carries.
ENDLESS = 1 << 60


class Cut(Exception):
    """The client breaks off here: as many bytes as it was given have passed."""


class Way(enum.StrEnum):
    """How a client breaks off."""

    FIN = "FIN"
    RST = "RST"
    SILENCE = "silence"


def contexts() -> list[ssl.SSLContext]:
    """For TLS 1.3 and 1.2. The certificate is made for the run, so it is not checked."""
    made = []
    for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        context.set_ecdh_curve("prime256v1")
        made.append(context)
    return made


def addresses(count: int) -> list[str]:
    """Loopback addresses other than the usual one: for as many clients from elsewhere."""
    return [f"127.{random.randrange(1, 255)}.{number >> 8}.{number & 255 or 1}" for number in range(2, 2 + count)]


class Wire:
    """A connection. `allowed` bytes of TCP may pass in both directions together, then Cut is raised."""

    def __init__(self, connection: socket.socket, allowed: int = ENDLESS) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._allowed = allowed
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unread = b""

    @classmethod
    async def connect(cls, port: int, allowed: int = ENDLESS, source: str | None = None, buffer: int = 0) -> Wire:
        """A new connection to the daemon; with `buffer` bytes for what it has received and not read."""
        wire = cls(socket.socket(), allowed)
        try:
            if buffer:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            if source:
                wire.socket.bind((source, 0))
            wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(wire.socket, (HOST, port))
        except BaseException:
            wire.socket.close()
            raise
        return wire

    # --- bytes of TCP ------------------------------------------------------------------------------

    def _spend(self, count: int) -> None:
        self._allowed -= count
        if self._allowed <= 0:
            raise Cut

    async def send_raw(self, data: bytes) -> None:
        """Bytes as they are."""
        data = data[: self._allowed]
        await asyncio.get_running_loop().sock_sendall(self.socket, data)
        self._spend(len(data))

    async def receive_raw(self, at_most: int = 1 << 18) -> bytes:
        """What has come, as it is; empty at the end."""
        data = await asyncio.get_running_loop().sock_recv(self.socket, min(at_most, self._allowed))
        self._spend(len(data))
        return data

    # --- bytes -------------------------------------------------------------------------------------

    @property
    def session(self) -> ssl.SSLSession | None:
        """For the next connection that is to resume this one's TLS session."""
        return self._tls.session if self._tls is not None else None

    async def secure(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        """The handshake."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, session=session)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._exchange()
        await self._flush()

    async def _exchange(self) -> None:
        await self._flush()
        if data := await self.receive_raw():
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self.send_raw(self._outgoing.read())

    async def send(self, data: bytes) -> None:
        """Sends all of it."""
        if self._tls is None:
            await self.send_raw(data)
        elif data:
            for start in range(0, len(data), 1 << 18):
                self._tls.write(data[start : start + (1 << 18)])
                await self._flush()

    async def receive(self) -> bytes:
        """What has come; empty at the end of the stream, which under TLS is the peer's close_notify."""
        if self._tls is None:
            return await self.receive_raw()
        while True:
            try:
                return self._tls.read(1 << 18)
            except ssl.SSLWantReadError:
                await self._exchange()
            except ssl.SSLZeroReturnError:
                return b""

    async def line(self) -> bytes:
        """A line without its end."""
        while b"\n" not in self._unread:
            data = await self.receive()
            if not data:
                raise ConnectionResetError("the server has closed")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.rstrip(b"\r")

    # --- the end -----------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Says that nothing more comes: close_notify under TLS, and FIN."""
        if self._tls is not None:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the peer's is not here yet, and nobody waits for it
            await self._flush()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer has closed since

    def close(self, way: Way = Way.FIN) -> None:
        """Without a word; any number of times."""
        if way == Way.RST and self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
