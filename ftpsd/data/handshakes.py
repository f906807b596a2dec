"""The TLS handshake of a data connection, and which of several connections to a passive port is the client's.

Everything here runs in worker threads, as generators (see `transfer.py`).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Protocol

from OpenSSL import SSL

from ftpsd.data.transfer import PIECE, READ, SMALL, WRITE, Pause, Steps
from ftpsd.protocol.replies import Refusal
from ftpsd.system import tls

#: Called with a finished handshake; raises the Refusal of one that is not good enough.
Check = Callable[[SSL.Connection], None]

#: Bytes of a handshake that are asked for at once: pyOpenSSL makes and clears as much memory.
_FLIGHT = 8 * 1024

#: Seconds after which other connections are looked at, if the first one is silent.
SILENT = 0.25

#: Seconds after a refusal in which the client may still turn out to be another one: if nobody else is connected,
#: and if somebody is.
ALONE, OTHERS = 0.5, 5.0

#: Connections to a passive port whose handshakes run at once, and in all.
AT_ONCE, MOST = 16, 64


def cut(error: OSError | SSL.Error) -> Refusal:
    """Return the reply to a data connection that broke."""
    why = tls.describe(error) if isinstance(error, SSL.Error) else error.strerror or str(error)
    return Refusal(426, f"The data connection broke: {why}.")


class Acceptor(Protocol):
    """A passive port: see `ports.Listener`."""

    def accept(self) -> socket.socket | None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Handshake:
    """The handshake of one connection. It is done in memory, so that nothing leaves before it was found good.

    A full handshake ends with a ticket (TLS 1.3: behind it; TLS 1.2: in its last flight). A client that is
    refused because it did not resume must not get one: it would resume the next time.
    """

    def __init__(self, connection: socket.socket, context: SSL.Context, check: Check) -> None:
        self.socket = connection
        self.tls = SSL.Connection(context, None)
        self.tls.set_accept_state()
        self.incoming = memoryview(bytearray(SMALL))
        #: The tickets of TLS 1.3, not sent yet.
        self.tickets = b""
        #: How often something has arrived.
        self.heard = 0
        self._check = check

    def steps(self) -> Steps:
        """The handshake; the client begins it. Raises Refusal if it fails, or is not good enough."""
        while True:
            yield from self._receive()
            try:
                self.tls.do_handshake()
                break
            except SSL.WantReadError:
                yield from self._send(self.outgoing())
            except SSL.Error as error:
                yield from self._send(self.outgoing())  # the alert
                raise Refusal(522, f"TLS failed on the data connection: {tls.describe(error)}.") from None
        last_flight = self.outgoing()
        self._check(self.tls)
        if self.tls.get_protocol_version_name() == "TLSv1.3":
            self.tickets = last_flight
        else:
            yield from self._send(last_flight)

    def _receive(self) -> Steps:
        while True:
            try:
                count = self.socket.recv_into(self.incoming)
            except BlockingIOError:
                yield READ
            except OSError as error:
                raise cut(error) from None
            else:
                self.heard += 1
                return self.feed(count)

    def _send(self, data: bytes) -> Steps:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                yield WRITE
            except OSError as error:
                raise cut(error) from None

    def feed(self, count: int) -> None:
        """Give TLS the first bytes of `incoming`; 0 is the end of the stream."""
        if count:
            self.tls.bio_write(self.incoming[:count])  # type: ignore[arg-type]
            if count == len(self.incoming) < PIECE:
                self.incoming = memoryview(bytearray(PIECE))
        else:
            self.tls.bio_shutdown()

    def outgoing(self) -> bytes:
        """Return what TLS has for the client."""
        pieces = []
        try:
            while True:
                pieces.append(self.tls.bio_read(_FLIGHT))
                if len(pieces[-1]) < _FLIGHT:
                    break
        except SSL.Error:
            pass  # there is nothing
        return b"".join(pieces)


class _Candidate:
    """A connection whose handshake runs."""

    def __init__(self, handshake: Handshake) -> None:
        self.handshake = handshake
        self.steps = handshake.steps()
        self.wanted = READ


class Contest:
    """The connections to one passive port: the first whose handshake is accepted is the client's.

    Others on the client's host, or behind its NAT, may connect first. Usually nobody does: then this is one
    handshake, and nothing else is looked at. Without a port there is one connection only (active mode).
    """

    #: No byte of a file goes through (`pump.Polled`).
    moved = 0

    def __init__(
        self, first: socket.socket, port: Acceptor | None, context: SSL.Context, check: Check, urgent: bool = True
    ) -> None:
        self._port = port
        self._context, self._check = context, check
        self._first = _Candidate(Handshake(first, context, check))
        self._candidates = {first.fileno(): self._first}
        self._accepted = 1
        self._epoll: select.epoll | None = None
        self._refusal: Refusal | None = None
        self._refused_at = 0.0
        #: Whether a transfer command waits for the result. Before it, the client may come at any time.
        self.urgent = urgent
        self.winner: Handshake | None = None

    @property
    def socket(self) -> socket.socket:
        """The first connection."""
        return self._first.handshake.socket

    @property
    def opened(self) -> bool:
        """Whether there is a winner."""
        return self.winner is not None

    def fileno(self) -> int:
        """What tells that something may go on: a connection, or all of them and the port."""
        return self._epoll.fileno() if self._epoll is not None else self.socket.fileno()

    def interrupt(self) -> None:
        """Nothing blocks in a handshake: an abort is seen at the next step."""

    def round_trip(self) -> float:
        """Of no connection in particular."""
        return 0.0

    def steps(self) -> Steps:
        """Finds the winner; raises Refusal if there is none in the end."""
        try:
            yield from self._shake_hands_with_the_first()
            if self.winner is None:
                yield from self._shake_hands_with_all()
        except BaseException:
            self.close()
            raise
        self._end()

    def close(self) -> None:
        """Closes everything, also what has won; any number of times."""
        self._end()
        if self.winner is not None:
            self.winner.socket.close()

    def _end(self) -> None:
        for candidate in self._candidates.values():
            candidate.handshake.socket.close()
        self._candidates.clear()
        for each in (self._port, self._epoll):
            if each is not None:
                each.close()
        self._port = self._epoll = None

    def _advance(self, descriptor: int, candidate: _Candidate) -> bool:
        """Takes one step of a handshake; whether it goes on."""
        try:
            wanted = next(candidate.steps)
        except StopIteration:
            self.winner = self._candidates.pop(descriptor).handshake
        except Refusal as refusal:
            refusal.__traceback__ = None
            self._drop(descriptor)
            if self._refusal is None:
                self._refusal, self._refused_at = refusal, time.monotonic()
        else:
            candidate.wanted = wanted if isinstance(wanted, int) else READ
            return True
        return False

    def _drop(self, descriptor: int) -> None:
        self._candidates.pop(descriptor).handshake.socket.close()

    def _shake_hands_with_the_first(self) -> Steps:
        """Until its handshake has ended in some way, or it is silent while others may be there."""
        first, heard = self._first, -1
        descriptor = self.socket.fileno()
        while self._advance(descriptor, first):
            if first.wanted != READ or self._port is None:
                yield first.wanted
            elif first.handshake.heard == heard:
                return
            else:
                heard = first.handshake.heard
                yield Pause(SILENT, wake=True)

    def _shake_hands_with_all(self) -> Steps:
        epoll = self._epoll = select.epoll()
        for descriptor in self._candidates:
            epoll.register(descriptor, READ)
        if self._port is not None:
            epoll.register(self._port.fileno(), READ)
        began = time.monotonic() if self.urgent else None
        while True:
            for descriptor, _ in epoll.poll(0):
                self._go_on(epoll, descriptor)
                if self.winner is not None:
                    return
            if self.urgent and began is None:
                began = time.monotonic()
            left = self._patience(began)
            yield READ if left is None else Pause(left, wake=True)

    def _go_on(self, epoll: select.epoll, descriptor: int) -> None:
        candidate = self._candidates.get(descriptor)
        if candidate is None:
            self._accept(epoll)
            return
        wanted = candidate.wanted
        if self._advance(descriptor, candidate) and candidate.wanted != wanted:
            epoll.modify(descriptor, candidate.wanted)

    def _accept(self, epoll: select.epoll) -> None:
        """One more connection. When there are too many, the newest of the silent ones goes, or else of all.

        So a client is kept that came before a crowd, or that comes behind it and speaks.
        """
        connection = self._port.accept() if self._port is not None else None
        if connection is None:
            return
        if len(self._candidates) >= AT_ONCE:
            silent = [each for each, candidate in self._candidates.items() if not candidate.handshake.heard]
            self._drop((silent or list(self._candidates))[-1])
        self._candidates[connection.fileno()] = _Candidate(Handshake(connection, self._context, self._check))
        epoll.register(connection, READ)
        self._accepted += 1
        if self._accepted >= MOST and self._port is not None:
            self._port.close()
            self._port = None

    def _patience(self, began: float | None) -> float | None:
        """Seconds to wait at most; None for as long as it takes. Raises Refusal when the wait is over."""
        refusal = self._refusal or Refusal(425, "The data connection is gone: send EPSV or PASV again.")
        if not self._candidates and self._port is None:
            raise refusal
        if began is None or self._refusal is None:
            return None
        # It may have been the client that was refused: it is told soon.
        since = max(began, self._refused_at)
        left = since + (OTHERS if self._candidates else ALONE) - time.monotonic()
        if left <= 0:
            raise refusal
        return left
