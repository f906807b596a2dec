"""TLS handshakes that clients begin before they send a transfer command, as aioftp and old Go programs do."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ftpsd.data.handshakes import Handshakes
from ftpsd.data.shared import GONE
from ftpsd.data.transfer import Transfer
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import JobQueue


@implementer(IReadDescriptor)
class InputWatch:
    """Calls `readable` when a connection has something to read, until `close`."""

    def __init__(self, reactor: Reactor, connection: socket.socket, readable: Callable[[], None]) -> None:
        self._reactor = reactor
        self._connection = connection
        self._readable = readable
        reactor.addReader(self)

    def doRead(self) -> None:
        """The connection has something to read."""
        self._readable()

    def close(self) -> None:
        """Let the reactor watch the connection no longer."""
        self._reactor.removeReader(self)

    def fileno(self) -> int:
        """Return the connection's descriptor, for the reactor's poll."""
        return self._connection.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor cannot poll the connection: the next user of it finds out why."""
        self._readable()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "data connection"


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
