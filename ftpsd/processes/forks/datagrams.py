"""Messages with descriptors between two processes: JSON in datagrams of unix sockets (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Callable, Sequence

from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.system.messages.text import encoded
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: The most bytes of a message. Bytes that a client has sent behind a PROXY header are the longest part.
LONGEST = 128 * 1024

#: Where a message is received. Memory of this size, new for each message, would cost more than all else.
_buffer = bytearray(LONGEST)

#: The bytes of the most descriptors of a message.
_ANCILLARY = socket.CMSG_LEN(8 * array.array("i").itemsize)

#: Messages that are read in one turn of the reactor.
_BATCH = 4


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that keep the boundaries of messages."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Send a message. Raises OSError, and BlockingIOError if the other end does not read and `end` does not block."""
    numbers = array.array("i", descriptors)
    end.sendmsg([encoded(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if descriptors else [])


def receive(end: socket.socket) -> tuple[object, list[socket.socket]] | None:
    """Return the next message and its sockets; None at the end. Raises OSError, BlockingIOError if none waits.

    Sockets are missing if this process has no free descriptors: the kernel has closed them then. For one thread.
    """
    length, ancillary, _, _ = end.recvmsg_into([_buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    sockets = [socket.socket(fileno=each) for each in descriptors]
    return (json.loads(_buffer[:length]), sockets) if length else None


class MessageReader:
    """Reads messages in the reactor, until the other end has gone. Takes over the socket.

    Messages are read after all events that were polled together (see `control.incoming.accept.ControlPort`). Twisted's
    epoll reactor finds the owner of an event by the number of its descriptor. A connection in a message that is read
    between these events can get the number of one that was just closed, and would receive its events.
    """

    def __init__(
        self,
        reactor: Reactor,
        end: socket.socket,
        received: Callable[[object, list[socket.socket]], object],
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        """`received` gets each message and its sockets, which it closes. `ended` is called at the end.

        If `received` raises an exception, the log has it, the sockets of that message are closed, and reading goes on.
        """
        end.setblocking(False)
        self.end = end
        self._reactor = reactor
        self._received = received
        self._ended = ended
        self._scheduled = False
        reactor.addReader(self)

    def fileno(self) -> int:
        """Return the number of the file descriptor."""
        return self.end.fileno()

    def logPrefix(self) -> str:
        """Return a name for the reactor's log."""
        return "messages"

    def doRead(self) -> None:
        """There are messages: read them two turns later. Sessions that ended in this turn have said so by then."""
        if not self._scheduled:
            self._scheduled = True
            self._reactor.callLater(0, self._reactor.callLater, 0, self._read_some)

    def _read_some(self) -> None:
        """Read the messages that wait, but a few at a time: sessions must not wait for all of them."""
        self._scheduled = self.end.fileno() >= 0 and self._read(_BATCH)
        if self._scheduled:
            self._reactor.callLater(0, self._read_some)

    def read_all(self) -> None:
        """Process all messages that have arrived. Not for callers amid the events of one turn of the reactor."""
        while self._read(_BATCH):
            pass

    def _read(self, most: int) -> bool:
        """Read up to so many messages. Return whether there may be more."""
        try:
            for _ in range(most):
                found = receive(self.end)
                if found is None:
                    break
                self._process(*found)
                if self.end.fileno() < 0:
                    return False
            else:
                return True
        except BlockingIOError:
            return False
        except OSError:
            pass
        self.close()
        self._ended()
        return False

    def _process(self, message: object, sockets: list[socket.socket]) -> None:
        try:
            self._received(message, sockets)
        except Exception:
            log.failure("internal error: a message of another process cannot be processed")
            for each in sockets:
                each.close()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has removed the descriptor, since polling it failed."""
        self.close()
        self._ended()

    def close(self) -> None:
        """Read nothing more, and close the socket."""
        if self.end.fileno() >= 0:
            self._reactor.removeReader(self)
            self.end.close()
