"""The connection between the supervisor and a worker process: Link.

Each end calls functions of the other end by name. Arguments and results are JSON, in boxes of AMP
(`twisted.protocols.amp`) on a pair of unix sockets. Calls are answered in any order.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from inspect import iscoroutine
from typing import Any, ClassVar, Protocol, cast

from twisted.internet.defer import Deferred, ensureDeferred, fail, maybeDeferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.presence import within
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: Seconds for an answer. Either end answers within milliseconds unless it is stopped or overloaded.
PATIENCE = 5.0

#: The most bytes of one value in an AMP box.
_PIECE = 0xFFFF

#: The most bytes of one message. A worker that was taken over cannot fill the memory of the supervisor.
LARGEST = 32 * 1024 * 1024

#: Answers a call: returns JSON, or an awaitable of it. May raise Refusal, which the caller gets.
Answer = Callable[..., object]


class LinkLost(SessionEnd):
    """The other process has ended, or has not answered in time."""

    def __init__(self, closed: bool) -> None:
        """`closed`: the connection has ended. Else an answer may still come, but nobody waits for it."""
        super().__init__(421, "Service not available: try again later.")
        self.closed = closed


class _Json(amp.Argument):  # type: ignore[misc]
    """A value as JSON. AMP limits a value to 64 KiB, so a longer one is divided."""

    def toBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, object], proto: object) -> None:
        """Add the value to a box."""
        data = json.dumps(objects[name.decode()], separators=(",", ":")).encode()
        for number, start in enumerate(range(0, len(data), _PIECE)):
            strings[b"%s%d" % (name, number)] = data[start : start + _PIECE]

    def fromBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, object], proto: object) -> None:
        """Take the value from a box."""
        pieces: list[bytes] = []
        while (key := b"%s%d" % (name, len(pieces))) in strings:
            pieces.append(strings[key])
        objects[name.decode()] = json.loads(b"".join(pieces))


class _Call(amp.Command):  # type: ignore[misc]
    """A call that is answered: with `[true, result]`, or with `[false, code, lines, whether the session ends]`."""

    commandName = b"c"
    arguments = [(b"n", amp.Unicode()), (b"a", _Json())]
    response = [(b"r", _Json())]


class _Tell(amp.Command):  # type: ignore[misc]
    """A call without an answer."""

    commandName = b"t"
    arguments = [(b"n", amp.Unicode()), (b"a", _Json())]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = []
    requiresAnswer = False


class _Closable(Protocol):
    """A transport, as far as a link uses it."""

    def loseConnection(self) -> None:
        """Close the connection, when all that was written has been sent."""


class Link:
    """One end of a connection between two processes. For the reactor thread.

    It may be connected again when the other end has gone: to the process that takes the other one's place.
    """

    def __init__(self, reactor: Reactor, lost: Callable[[], object] = lambda: None) -> None:
        """`lost` is called when the other end has gone."""
        self._reactor = reactor
        self._lost = lost
        self._answers: dict[str, Answer] = {}
        self._connection: _Connection | None = None

    def serve(self, name: str, answer: Answer) -> None:
        """Let the other end call a function by this name, from now on."""
        self._answers[name] = answer

    def call(self, name: str, *arguments: object, patience: float = PATIENCE) -> Deferred[Any]:
        """Call a function of the other end, and return its result.

        Raises the Refusal that it raises, and LinkLost if it has not answered within `patience` seconds.
        """
        if self._connection is None:
            return fail(LinkLost(closed=True))
        answer: Deferred[Any] = self._connection.callRemote(_Call, n=name, a=arguments)
        return within(answer, self._reactor, patience).addCallbacks(_result, _no_answer)

    def tell(self, name: str, *arguments: object) -> None:
        """Call a function of the other end without waiting for it. Nothing happens if the other end has gone."""
        if self._connection is not None:
            self._connection.callRemote(_Tell, n=name, a=arguments)

    @property
    def transport(self) -> ITransport | None:
        """The transport of the connection; None without one."""
        return None if self._connection is None else self._connection.transport

    def connect(self, end: socket.socket) -> None:
        """Use one of two connected unix sockets, which is taken over. The last connection must have gone."""
        connection = _Connection(self)
        factory = cast(Factory, Factory.forProtocol(lambda: connection))
        factory.noisy = False
        self._reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
        end.close()
        self._connection = connection

    def close(self) -> None:
        """Close the connection, when all that was sent has left this process."""
        if self._connection is not None:
            self._connection.close()

    def run(self, name: str, arguments: list[object]) -> Deferred[object]:
        """Answer a call of the other end."""
        return maybeDeferred(self._run, name, arguments)

    def _run(self, name: str, arguments: list[object]) -> object:
        answer = self._answers[name](*arguments)
        return ensureDeferred(answer) if iscoroutine(answer) else answer

    def connection_lost(self) -> None:
        """The other process has ended, or has closed the connection."""
        self._connection = None
        self._lost()


class _Connection(amp.AMP):  # type: ignore[misc]
    """One connection of a link."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        #: Bytes since the last complete message.
        self._received = 0

    def close(self) -> None:
        """Close the connection, when all that was sent has left this process."""
        cast(_Closable, self.transport).loseConnection()

    @_Call.responder
    def _called(self, n: str, a: list[object]) -> Deferred[dict[str, object]]:
        return self._link.run(n, a).addCallbacks(_response, _refused)

    @_Tell.responder
    def _told(self, n: str, a: list[object]) -> dict[str, object]:
        self._link.run(n, a).addErrback(
            lambda failure: log.failure("internal error in a call of another process", failure)
        )
        return {}

    def makeConnection(self, transport: ITransport) -> None:
        """The connection is there. AMP would log that, and its end."""
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def dataReceived(self, data: bytes) -> None:
        """Receive a piece of a message, or some messages."""
        self._received += len(data)
        if self._received > LARGEST and self.transport is not None:
            log.error("a message from another process is too long: its connection is closed")
            self.transport.abortConnection()
            return
        super().dataReceived(data)

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """A message is complete."""
        self._received = 0
        super().ampBoxReceived(box)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The other process has ended, or has closed the connection."""
        amp.BinaryBoxProtocol.connectionLost(self, reason)
        self.transport = None
        self._link.connection_lost()


class Links(Protocol):
    """The links of the supervisor to its workers, also to those that end as soon as their sessions have ended."""

    @property
    def links(self) -> Mapping[int, Link]:
        """The links to the workers that run, by the index of the worker."""

    def on_start(self, started: Callable[[int, Link], object]) -> object:
        """Call a function with the index and the link of each worker that starts, before it gets connections."""

    def on_end(self, ended: Callable[[int], object]) -> object:
        """Call a function with the index of each worker that has ended, before another worker gets the index."""


def _response(result: object) -> dict[str, object]:
    return {"r": [True, result]}


def _no_answer(failure: Failure) -> None:
    raise LinkLost(closed=failure.check(ConnectionClosed) is not None) from failure.value


def _refused(failure: Failure) -> dict[str, object]:
    if failure.check(Refusal) is None:
        log.failure("internal error in a call of another process", failure)
        return {"r": [False, 451, ["Internal error."], False]}
    error = cast(Refusal, failure.value)
    return {"r": [False, error.reply.code, error.reply.lines, isinstance(error, SessionEnd)]}


def _result(response: dict[str, tuple[bool, object]] | dict[str, tuple[bool, int, list[str], bool]]) -> object:
    answer = response["r"]
    if len(answer) == 2:
        return answer[1]
    _, code, lines, ends = answer
    raise (SessionEnd if ends else Refusal)(code, *lines)
