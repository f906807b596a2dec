"""Send the bytes of a control connection, encrypted or plain: Output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL

from ftpsd.control.tls.engine import TlsEngine, TlsState
from ftpsd.system.memory.nothing import do_nothing
from ftpsd.system.tls import errors
from ftpsd.system.twisted_private import NOTHING_UNSENT, unsent

#: Bytes that are read from OpenSSL at a time, and that are held before they are sent.
_PIECE = 2**14


class Output:
    """Encrypt bytes and send them to the socket. Calls `broken` if OpenSSL cannot encrypt."""

    __slots__ = ("_broken", "_held", "_held_bytes", "closed", "engine", "holding", "transport")

    def __init__(self, broken: Callable[[SSL.Error], None]) -> None:
        self._broken = broken
        self._held: list[bytes] = []
        self._held_bytes = 0
        #: Twisted's TCP connection.
        self.transport: Any = None
        #: None for plain text.
        self.engine: TlsEngine | None = None
        #: Whether what is written waits for `flush`, so that the replies to one segment leave together.
        self.holding = False
        #: Whether nothing is sent any more.
        self.closed = False

    def connection_lost(self) -> None:
        """Send nothing more, and call nobody."""
        self.closed = True
        self.engine = None
        self._broken = do_nothing
        self._held.clear()

    def write(self, data: bytes) -> None:
        """Send bytes to the client, now or with the next `flush`."""
        if self.closed:
            return
        if self.holding:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > _PIECE:  # so that the transport can report that the client does not read
                self._write_held()
        else:
            self._pass_on(data)

    def flush(self) -> None:
        """Send what was held, and what OpenSSL has to send on its own."""
        if self._held:
            self._write_held()
        elif self.engine is not None:
            self.send_records()

    def _write_held(self) -> None:
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        engine = self.engine
        if engine is None or engine.state is TlsState.STOP_SENT:
            self.send_plain(data)
            return
        try:
            engine.connection.send(data)
        except SSL.Error as error:
            self._broken(error)
        else:
            self.send_records()

    def send_plain(self, data: bytes) -> None:
        """Send bytes as they are, immediately as far as the socket accepts them.

        Twisted's `write` waits for the next turn of the reactor: three system calls and an event for each reply. Only
        what the socket does not accept is left to it.
        """
        transport = self.transport
        if transport.connected and unsent(transport) == NOTHING_UNSENT:
            sent = transport.writeSomeData(data)
            if isinstance(sent, int) and sent > 0:
                if sent == len(data):
                    return
                data = data[sent:]
        transport.write(data)

    def send_records(self) -> None:
        """Send the records that OpenSSL has ready."""
        if self.engine is None:
            return
        try:
            while True:
                data = self.engine.connection.bio_read(_PIECE)
                self.send_plain(data)
                if len(data) < _PIECE:
                    return  # nothing is left
        except SSL.Error:
            pass  # there is nothing

    def send_close_notify(self) -> None:
        """Say that no more records follow."""
        if self.engine is not None:
            errors.close(self.engine.connection)
            self.send_records()
