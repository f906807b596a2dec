"""The TLS handshake of a data connection, and the choice between several connections to a passive port.

Everything here runs in worker threads, as generators (see `endpoints.py`).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from OpenSSL import SSL

from ftpsd.data.endpoints import PIECE, READ, SMALL, WRITE, Pause, Steps
from ftpsd.protocol.replies import NoDataConnection, Refusal
from ftpsd.system.tls.client_certificates import refusal_of
from ftpsd.system.tls.errors import describe

#: Called with the connection when its handshake has ended. Raises the Refusal of one that is not acceptable.
Check = Callable[[SSL.Connection], None]


class Security(NamedTuple):
    """How a data connection is protected by TLS."""

    context: SSL.Context
    check: Check
    #: Whether the check admits only handshakes that resume a session of the context.
    must_resume: bool = False


def plain_text() -> None:
    """Return how data connections are protected after the end of their session: there are none."""


#: Bytes of a handshake that one call requests. pyOpenSSL allocates and clears as much memory.
_FLIGHT = 8 * 1024

#: Seconds without a byte of the first connection after which others are accepted, too.
SILENT = 0.25

#: Seconds to wait for another connection after one was refused: if none is open, and if some are.
WAIT_ALONE, WAIT_WITH_OTHERS = 0.5, 5.0

#: Connections to one passive port: handshakes at the same time, and in all.
MAX_AT_ONCE, MAX_IN_ALL = 16, 64


def broken(error: OSError | SSL.Error) -> Refusal:
    """Return the reply to a data connection that broke."""
    why = describe(error) if isinstance(error, SSL.Error) else error.strerror or str(error)
    return Refusal(426, f"Data connection failed: {why}.")


class Acceptor(Protocol):
    """A passive port: see `passive.ports.Listener`. The methods may be called in a worker thread."""

    def accept(self) -> socket.socket | None:
        """Return the next connection, or None if there is none now."""

    def fileno(self) -> int:
        """Return the descriptor to poll."""

    def close(self) -> None:
        """Stop listening. May be called any number of times."""


class RecordEnds:
    """Tells whether the bytes of a TLS stream so far end with a record. OpenSSL does not say it."""

    #: The bytes of a header, of which the last two are the length of the rest of the record.
    _HEADER = 5

    def __init__(self) -> None:
        self._left = 0
        #: A header that is not complete.
        self._header = b""

    def add(self, data: memoryview) -> None:
        """Note bytes that have arrived."""
        if self._header:
            data, self._header = memoryview(self._header + data), b""
        at, end = self._left, len(data)
        while at + self._HEADER <= end:
            at += self._HEADER + (data[at + 3] << 8 | data[at + 4])
        if at < end:
            self._header = bytes(data[at:])
        self._left = max(0, at - end)

    @property
    def reached(self) -> bool:
        """Whether the last record is complete."""
        return not self._left and not self._header


class Handshake:
    """The handshake of one connection. It is done in memory, so that nothing is sent before it was checked.

    A full handshake ends with a session ticket (TLS 1.3: after it; TLS 1.2: in its last flight). A client that is
    refused because it did not resume must not get a ticket, or it would resume the next time.
    """

    def __init__(self, connection: socket.socket, security: Security) -> None:
        self.socket = connection
        self.tls = SSL.Connection(security.context, None)
        self.tls.set_accept_state()
        self.incoming = memoryview(bytearray(SMALL))
        #: Whether what has arrived ends with a record; None from when on nobody asks.
        self.ends: RecordEnds | None = RecordEnds()
        #: The tickets of TLS 1.3, not sent yet.
        self.tickets = b""
        #: How many times bytes have arrived.
        self.arrivals = 0
        self._check = security.check

    def steps(self) -> Steps[None]:
        """Do the handshake, which the client begins. Raises Refusal if it fails or is not acceptable."""
        while True:
            yield from self._receive()
            try:
                self.tls.do_handshake()
                break
            except SSL.WantReadError:
                yield from self._send(self.outgoing())
            except SSL.Error as error:
                yield from self._send(self.outgoing())  # the alert
                # No name for the reason: the frames of its traceback would have it.
                text = f"TLS failed on the data connection: {describe(refusal_of(self.tls) or error)}."
                raise NoDataConnection("tls", 522, text) from None
        last_flight = self.outgoing()
        self._check(self.tls)
        if self.tls.get_protocol_version_name() == "TLSv1.3":
            self.tickets = last_flight
        else:
            yield from self._send(last_flight)

    def _receive(self) -> Steps[None]:
        while True:
            try:
                count = self.socket.recv_into(self.incoming)
            except BlockingIOError:
                yield READ
            except OSError as error:
                raise broken(error) from None
            else:
                self.arrivals += 1
                return self.feed(count)

    def _send(self, data: bytes) -> Steps[None]:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                yield WRITE
            except OSError as error:
                raise broken(error) from None

    def feed(self, count: int) -> None:
        """Give OpenSSL the first `count` bytes of `incoming`; 0 is the end of the stream."""
        if count:
            data = self.incoming[:count]
            if self.ends is not None:
                self.ends.add(data)
            self.tls.bio_write(data)  # type: ignore[arg-type]
            if count == len(self.incoming) < PIECE:
                self.incoming = memoryview(bytearray(PIECE))
        else:
            self.tls.bio_shutdown()

    def outgoing(self) -> bytes:
        """Return the bytes that OpenSSL has for the client."""
        pieces = []
        try:
            while True:
                pieces.append(self.tls.bio_read(_FLIGHT))
                if len(pieces[-1]) < _FLIGHT:
                    break
        except SSL.Error:
            pass  # there are none
        return b"".join(pieces)


class _Candidate:
    """A connection whose handshake has not ended."""

    def __init__(self, handshake: Handshake) -> None:
        self.handshake = handshake
        self.steps = handshake.steps()
        self.wanted = READ


class _FirstRefusal:
    """The refusal of the first connection that was refused. It is the result if no other connection is accepted."""

    def __init__(self) -> None:
        self._refusal: Refusal | None = None
        self._since = 0.0

    def note(self, refusal: Refusal) -> None:
        """Note the refusal of a connection."""
        if self._refusal is None:
            self._refusal, self._since = refusal, time.monotonic()

    def reason(self) -> Refusal:
        """Return why no connection was accepted."""
        return self._refusal or NoDataConnection("lost", 425, "Data connection lost: send EPSV or PASV again.")

    def time_left(self, began: float | None, others: bool) -> float | None:
        """Return the seconds to wait for another connection, or None for no limit. Raises the refusal after them.

        `began` is when the client began to wait for the result, if it does; `others` is whether other connections are
        open.
        """
        if began is None or self._refusal is None:
            return None
        # The refused connection may have been the client's: it must get its reply soon.
        left = max(began, self._since) + (WAIT_WITH_OTHERS if others else WAIT_ALONE) - time.monotonic()
        if left <= 0:
            raise self._refusal
        return left


class Handshakes:
    """The handshakes of the connections to one passive port. The first one that is accepted is the client's.

    Others on the client's host, or behind its NAT, may connect first. Usually nobody does: then this is one
    handshake, and no other connection is accepted. Without a port there is one connection only (active mode).

        first only   the first connection; ends when it is accepted, refused, or silent for SILENT seconds
        all          the first and all others, polled together (epoll)
        accepted     one handshake was accepted; all other connections and the port are closed
        failed       the port is exhausted or time is over: the first refusal is the result
    """

    #: See `endpoints.Waitable`: no byte of a file passes.
    moved = 0

    def __init__(self, first: socket.socket, port: Acceptor | None, security: Security, urgent: bool = True) -> None:
        self._port = port
        self._security = security
        self._first = _Candidate(Handshake(first, security))
        self._candidates = {first.fileno(): self._first}
        self._connections = 1
        self._epoll: select.epoll | None = None
        self._refused = _FirstRefusal()
        #: Whether a transfer command waits for the result. Until it comes, the client has unlimited time.
        self.urgent = urgent
        #: The handshake that was accepted.
        self.accepted: Handshake | None = None

    @property
    def socket(self) -> socket.socket:
        """The first connection."""
        return self._first.handshake.socket

    @property
    def is_open(self) -> bool:
        """Whether a handshake was accepted."""
        return self.accepted is not None

    def fileno(self) -> int:
        """Return the descriptor to poll: the first connection, or all of them and the port."""
        return self._epoll.fileno() if self._epoll is not None else self.socket.fileno()

    def interrupt(self) -> None:
        """Do nothing: no step of a handshake blocks, so none needs an interruption."""

    def round_trip(self) -> float:
        """Not known: there may be several connections."""
        return 0.0

    def steps(self) -> Steps[None]:
        """Do handshakes until one is accepted. Raises Refusal if none is."""
        try:
            yield from self._try_first()
            if self.accepted is None:
                yield from self._try_all()
        except BaseException:
            self.close()
            raise
        self._close_others()

    def close(self) -> None:
        """Close all connections, also the accepted one, and the port. May be called any number of times."""
        self._close_others()
        if self.accepted is not None:
            self.accepted.socket.close()

    def _close_others(self) -> None:
        for candidate in self._candidates.values():
            candidate.handshake.socket.close()
        self._candidates.clear()
        for each in (self._port, self._epoll):
            if each is not None:
                each.close()
        self._port = self._epoll = None

    def _advance(self, descriptor: int, candidate: _Candidate) -> bool:
        """Take one step of a handshake. Return whether more follow."""
        try:
            wanted = next(candidate.steps)
        except StopIteration:
            self.accepted = self._candidates.pop(descriptor).handshake
        except Refusal as refusal:
            refusal.__traceback__ = None
            self._drop(descriptor)
            self._refused.note(refusal)
        else:
            candidate.wanted = wanted if isinstance(wanted, int) else READ
            return True
        return False

    def _drop(self, descriptor: int) -> None:
        self._candidates.pop(descriptor).handshake.socket.close()

    def _try_first(self) -> Steps[None]:
        """Return when the first handshake has ended, or is silent while others may have connected."""
        first, arrivals = self._first, -1
        descriptor = self.socket.fileno()
        while self._advance(descriptor, first):
            if first.wanted != READ or self._port is None:
                yield first.wanted
            elif first.handshake.arrivals == arrivals:
                return
            else:
                arrivals = first.handshake.arrivals
                yield Pause(SILENT, wake=True)

    def _try_all(self) -> Steps[None]:
        epoll = self._epoll = select.epoll()
        for descriptor in self._candidates:
            epoll.register(descriptor, READ)
        if self._port is not None:
            epoll.register(self._port.fileno(), READ)
        began = time.monotonic() if self.urgent else None
        while True:
            for descriptor, _ in epoll.poll(0):
                self._continue(epoll, descriptor)
                if self.accepted is not None:
                    return
            if self.urgent and began is None:
                began = time.monotonic()
            if not self._candidates and self._port is None:
                raise self._refused.reason()
            left = self._refused.time_left(began, bool(self._candidates))
            yield READ if left is None else Pause(left, wake=True)

    def _continue(self, epoll: select.epoll, descriptor: int) -> None:
        candidate = self._candidates.get(descriptor)
        if candidate is None:
            self._accept(epoll)
            return
        wanted = candidate.wanted
        if self._advance(descriptor, candidate) and candidate.wanted != wanted:
            epoll.modify(descriptor, candidate.wanted)

    def _accept(self, epoll: select.epoll) -> None:
        """Accept one more connection. If there are too many, the newest silent one is closed, or else the newest.

        So a client remains that connected before many others, or that connected after them and sends something.
        """
        connection = self._port.accept() if self._port is not None else None
        if connection is None:
            return
        if len(self._candidates) >= MAX_AT_ONCE:
            silent = [each for each, candidate in self._candidates.items() if not candidate.handshake.arrivals]
            self._drop((silent or list(self._candidates))[-1])
        self._candidates[connection.fileno()] = _Candidate(Handshake(connection, self._security))
        epoll.register(connection, READ)
        self._connections += 1
        if self._connections >= MAX_IN_ALL and self._port is not None:
            self._port.close()
            self._port = None
