"""The data connection of passive mode, until a transfer takes it; and TLS handshakes that clients begin before.

aioftp and old Go programs begin TLS before they send a transfer command.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Literal, Protocol

from twisted.python.failure import Failure

from ftpsd.data.handshakes import Handshakes, broken, plain_text
from ftpsd.data.passive.input_watch import InputWatch
from ftpsd.data.passive.peers import ClientPeers
from ftpsd.data.passive.ports import PassivePort
from ftpsd.data.shared import GONE, Protection, Shared
from ftpsd.data.transfer import Transfer
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.job_queue import JobQueue
from ftpsd.system.reactor import Reactor

#: Seconds for a data connection to tell its session at a shared port, if another one has come that did not. Clients
#: that resume TLS sessions begin with TLS at the reply to their transfer command.
DOUBTFUL = 2

#: The state of a TCP connection that neither side has ended (`tcpi_state`, the first byte of `struct tcp_info`).
_ESTABLISHED = 1

#: The states of a `PassiveConnection`.
PassiveState = Literal["closed", "listening", "connected", "early TLS"]

#: A connection that a transfer can use: in plain text, or with TLS, whose handshake may not have begun.
Connected = socket.socket | Handshakes


class EarlyHandshakes:
    """Runs handshakes in worker threads, before a transfer takes the accepted connection.

        running   they need a worker thread, or wait for the client
        ended     they can be taken: one is accepted, or all have failed
        closed    not needed any more: all connections are closed, at the latest when the thread ends its step

    `ended` is called in the reactor thread, with the Refusal if all have failed, unless they were closed before.
    """

    def __init__(
        self, reactor: Reactor, queue: JobQueue, handshakes: Handshakes, ended: Callable[[Refusal | None], None]
    ) -> None:
        self.handshakes = handshakes
        self.running = True
        self._closed = False
        self._ended = ended
        self._transfer = Transfer(reactor, queue, handshakes.steps(), handshakes, ())
        self._transfer.finished.addCallbacks(self._succeeded, self._failed)
        self._transfer.start()

    def expect(self) -> None:
        """A transfer command waits for the result now."""
        self.handshakes.urgent = True
        self._transfer.wake()

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        if self.running:
            self._transfer.abort(GONE)
        else:
            self.handshakes.close()

    def _succeeded(self, _: object) -> None:
        self.running = False
        if self._closed:
            self.handshakes.close()
        else:
            self._ended(None)

    def _failed(self, failure: Failure) -> None:
        self.running = False
        self.handshakes.close()
        if not self._closed:
            self._ended(failure.value if isinstance(failure.value, Refusal) else GONE)


class Waiter(Protocol):
    """Waits for a data connection."""

    @property
    def waiting(self) -> bool:
        """Whether a transfer waits for the connection."""

    def deliver(self) -> None:
        """Take the connection for the transfer that waits."""

    def fail(self, refusal: Refusal) -> None:
        """End the wait of the transfer, and discard what was prepared."""

    def hurry(self, seconds: float, refusal: Refusal) -> None:
        """If a transfer waits, let it wait only for so long, and fail with this refusal."""


class _Nobody:
    """What waits for a data connection when the session has ended: nothing."""

    waiting = False

    def deliver(self) -> None:
        """Do nothing."""

    def fail(self, refusal: Refusal) -> None:
        """Do nothing."""

    def hurry(self, seconds: float, refusal: Refusal) -> None:
        """Do nothing."""


_NOBODY = _Nobody()


class PassiveConnection:
    """The passive port of one session, and the connection that has arrived there.

        closed      nothing is prepared
        listening   `_listener`: PASV, EPSV
        connected   `_connection`, and `_listener`, as long as it is open: other connections may follow the first
        early TLS   `_early`: the client has begun TLS before its transfer command

        from        event                                           to
        closed      listen                                          listening
        listening   a connection arrives                            connected
        connected   the client sends its first TLS bytes, or
                    another connection arrives                      early TLS
        connected   take                                            closed; the transfer has the connection
        early TLS   take, when a handshake is accepted              closed; the transfer has the connection
        any         close                                           closed

    The bytes that a client sends before the transfer command stay in the kernel, those of a TLS handshake excepted.
    `owner` returns the owner of the jobs in worker threads.
    """

    def __init__(
        self, shared: Shared, peers: ClientPeers, protection: Protection, owner: Callable[[], str], waiter: Waiter
    ) -> None:
        self._shared = shared
        self._peers = peers
        self._protection = protection
        self._owner = owner
        self._waiter = waiter
        self._listener: PassivePort | None = None
        self._connection: socket.socket | None = None
        #: Waits for the first bytes on the connection.
        self._input: InputWatch | None = None
        self._early: EarlyHandshakes | None = None
        #: Whether this client has begun TLS early before. Then its port should be watched immediately.
        self.begins_tls = False

    @property
    def state(self) -> PassiveState:
        """The present state (see above)."""
        if self._early is not None:
            return "early TLS"
        if self._connection is not None:
            return "connected"
        return "closed" if self._listener is None else "listening"

    def listen(self, host: Address) -> int:
        """Listen, and return the port. Raises Refusal if none is free."""
        self._listener = self._shared.ports.open(host, self._peers, self._ready)
        return self._listener.port

    def watch(self) -> None:
        """Let the reactor watch the port. Connections of strangers are closed."""
        if self._listener is not None:
            self._listener.watch()

    def close_port(self) -> None:
        """Accept no further connection: others can use the port."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # --- a connection arrives ---------------------------------------------------------------------

    def _ready(self) -> None:
        """The reactor has seen a connection to the port."""
        if self._listener is None:
            return
        if self._connection is not None:
            self._begin_tls()  # a second connection: only one of them is the client's
            return
        self._connection = self._listener.accept()
        if self._connection is None:
            _tell_doubt(self._listener, self._waiter)
            return
        if self._waiter.waiting:
            self._waiter.deliver()
        elif self._protection() is not None:
            self._input = InputWatch(self._shared.reactor, self._connection, self._begin_tls)
        else:
            self._listener.unwatch()

    def _begin_tls(self) -> None:
        """Begin the handshakes before there is a transfer command."""
        protection = self._protection()
        if protection is None or self._connection is None:
            self._unwatch()
            return
        handshakes = Handshakes(*self._take_sockets(), protection, urgent=False)
        queue = self._shared.workers.queue(self._owner())
        self._early = EarlyHandshakes(self._shared.reactor, queue, handshakes, self._early_ended)

    def _early_ended(self, refusal: Refusal | None) -> None:
        if refusal is None:
            self.begins_tls = True
        if self._waiter.waiting and refusal is None:
            self._waiter.deliver()
        elif self._waiter.waiting and refusal is not None:
            self._waiter.fail(refusal)

    # --- a transfer takes it ----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether `take` can be called."""
        return self._connection is not None or (self._early is not None and not self._early.running)

    def accept(self) -> bool:
        """Accept a connection that the reactor has not seen yet. Return whether `take` can be called now."""
        if self._connection is None and self._listener is not None:
            self._listener.look()  # may call `_ready`
        if self._connection is None and self._early is None and self._listener is not None:
            self._connection = self._listener.accept()
        return self.ready

    def expect(self) -> None:
        """A transfer waits from now on."""
        if self._early is not None:
            self._early.expect()
        else:
            self.watch()
            _tell_doubt(self._listener, self._waiter)

    def take(self) -> Connected:
        """Return the connection. Raises Refusal if it is lost."""
        protection = self._protection()
        early, self._early = self._early, None
        if early is not None:
            if protection is None or early.handshakes.accepted is None:
                early.handshakes.close()
                raise GONE  # PROT C was sent since, or the handshakes have failed
            return early.handshakes
        if protection is not None:
            return Handshakes(*self._take_sockets(), protection)
        return _first_open(*self._take_sockets())

    def _take_sockets(self) -> tuple[socket.socket, PassivePort | None]:
        """Return the connection and its port, which belong to the caller now."""
        self._unwatch()
        connection, listener = self._connection, self._listener
        assert connection is not None
        self._connection = self._listener = None
        return connection, listener

    # --- the end ----------------------------------------------------------------------------------

    def close(self, last: bool = False) -> None:
        """Discard everything; for the `last` time, also what the session has given. May be called several times."""
        self._unwatch()
        for each in (self._listener, self._connection, self._early):
            if each is not None:
                each.close()
        self._listener = self._connection = self._early = None
        if last:
            owner = self._owner()
            self._protection, self._owner, self._waiter = plain_text, lambda: owner, _NOBODY

    def _unwatch(self) -> None:
        if self._listener is not None:
            self._listener.unwatch()
        if self._input is not None:
            self._input.close()
            self._input = None


def _tell_doubt(listener: PassivePort | None, waiter: Waiter) -> None:
    if listener is not None and listener.doubt is not None:
        waiter.hurry(DOUBTFUL, listener.doubt)


def _first_open(first: socket.socket, listener: PassivePort | None) -> socket.socket:
    """Close a passive port. Return the first of its connections that has not ended already, or else the last one.

    In plain text, nothing else tells the client from another process on its host. Raises Refusal if all were reset.
    """
    if listener is None:
        return first
    while (ended := _end_of(first)) is not None and (other := listener.accept()) is not None:
        first.close()
        first = other
    listener.close()
    if isinstance(ended, OSError):
        first.close()
        raise broken(ended)
    return first


def _end_of(connection: socket.socket) -> OSError | Literal["FIN"] | None:
    """Return how a connection has ended before its first byte, or None if it has not. An empty upload ends, too.

    The kernel reports an error once: the next call sees the end of the stream.
    """
    if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED:
        return None
    try:
        return None if connection.recv(1, socket.MSG_PEEK) else "FIN"
    except BlockingIOError:
        return None
    except OSError as error:
        return error
