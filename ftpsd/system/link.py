"""The connection between the supervisor and a worker process: Link.

Each end calls functions of the other end by name. Arguments and results are JSON, in boxes of AMP
(`twisted.protocols.amp`) on a pair of unix sockets. Calls are answered in any order.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutine
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred, ensureDeferred, fail, maybeDeferred
from twisted.internet.error import ConnectionAborted, ConnectionClosed
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.messages.text import encoded
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
        answer = self._connection.call(name, arguments)
        return within(answer, self._reactor, patience).addCallbacks(_result, _no_answer)

    def tell(self, name: str, *arguments: object) -> None:
        """Call a function of the other end without waiting for it. Nothing happens if the other end has gone."""
        if self._connection is not None:
            self._connection.tell(name, arguments)

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


class _Connection(amp.BinaryBoxProtocol):  # type: ignore[misc]
    """One connection of a link. It receives its own boxes (`amp.IBoxReceiver`).

    The boxes are those of AMP. Its classes for commands are not used: they take half of the time of a message.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(self)
        self._link = link
        #: Bytes since the last complete message.
        self._received = 0
        #: The calls that are not answered yet, by their numbers, and the last number.
        self._calls: dict[bytes, Deferred[list[object]]] = {}
        self._number = 0
        #: Why the connection has ended.
        self._ended: Failure | None = None

    def close(self) -> None:
        """Close the connection, when all that was sent has left this process."""
        cast(_Closable, self.transport).loseConnection()

    def call(self, name: str, arguments: Sequence[object]) -> Deferred[list[object]]:
        """Call a function of the other end, and return its answer: see `_answer`."""
        if self._ended is not None:
            return fail(self._ended)
        self._number += 1
        number = b"%x" % self._number
        self._send({amp.COMMAND: name.encode(), amp.ASK: number}, arguments)
        answer = self._calls[number] = Deferred()
        return answer

    def tell(self, name: str, arguments: Sequence[object]) -> None:
        """Call a function of the other end without an answer."""
        if self._ended is None:
            self._send({amp.COMMAND: name.encode()}, arguments)

    def _answer(self, number: bytes, answer: list[object]) -> None:
        """Answer a call: with `[true, result]`, or with `[false, code, lines, whether the session ends]`."""
        if self._ended is None:
            self._send({amp.ANSWER: number}, answer)

    def _send(self, head: dict[bytes, bytes], value: object) -> None:
        """Send a message. AMP limits a value of a box to 64 KiB, so a longer one is divided."""
        data = encoded(value)
        for number, start in enumerate(range(0, len(data), _PIECE)):
            head[b"%d" % number] = data[start : start + _PIECE]
        self.sendBox(amp.AmpBox(head))

    # --- what the other end sends ------------------------------------------------------------------

    def startReceivingBoxes(self, sender: object) -> None:
        """The connection is there."""

    def dataReceived(self, data: bytes) -> None:
        """Receive a piece of a message, or some messages."""
        self._received += len(data)
        if self._received > LARGEST:
            self._refuse("is too long")
        if self._ended is None:
            super().dataReceived(data)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Close a descriptor, which no process of this daemon sends. AMP would keep it open."""
        os.close(descriptor)
        self._refuse("has a descriptor")

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """A message is complete."""
        self._received = 0
        if self._ended is not None:
            return
        try:
            value = _value(box)
        except (ValueError, RecursionError):
            self._refuse("cannot be read")
            return
        if amp.ANSWER in box:
            waiting = self._calls.pop(box[amp.ANSWER], None)
            if waiting is not None:
                waiting.callback(value)
        else:
            self._run(box.get(amp.COMMAND, b"").decode("ascii", "replace"), value, box.get(amp.ASK))

    def _run(self, name: str, arguments: list[object], number: bytes | None) -> None:
        result = self._link.run(name, arguments)
        if number is None:
            result.addErrback(lambda failure: log.failure("internal error in a call of another process", failure))
        else:
            result.addCallbacks(lambda result: [True, result], _refused)
            result.addCallback(lambda answer: self._answer(number, cast(list[object], answer)))
            result.addErrback(lambda failure: log.failure("internal error: a call cannot be answered", failure))

    def _refuse(self, why: str) -> None:
        """Cut the connection because of a message that no process of this daemon sends."""
        if self._ended is None and self.transport is not None:
            log.error("a message from another process {why}: its connection is closed", why=why)
            self._fail_calls(Failure(ConnectionAborted()))
            self.transport.abortConnection()

    # --- the end -----------------------------------------------------------------------------------

    def stopReceivingBoxes(self, reason: Failure) -> None:
        """The connection is lost: no call will be answered any more."""
        self._fail_calls(reason)

    def _fail_calls(self, reason: Failure) -> None:
        if self._ended is None:
            self._ended = reason
            calls, self._calls = self._calls, {}
            for each in calls.values():
                each.errback(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The other process has ended, or has closed the connection."""
        super().connectionLost(reason)
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


def _value(box: amp.AmpBox) -> list[object]:
    """Return the list that a box has. Raises ValueError, and RecursionError if the list is too deep."""
    pieces: list[bytes] = []
    while (piece := box.get(b"%d" % len(pieces))) is not None:
        pieces.append(piece)
    value = json.loads(b"".join(pieces).decode("ascii"))
    if type(value) is not list:
        raise ValueError("this is no list")
    return value


def _no_answer(failure: Failure) -> None:
    raise LinkLost(closed=failure.check(ConnectionClosed) is not None) from failure.value


def _refused(failure: Failure) -> list[object]:
    if failure.check(Refusal) is None:
        log.failure("internal error in a call of another process", failure)
        return [False, 451, ["Internal error."], False]
    error = cast(Refusal, failure.value)
    return [False, error.reply.code, error.reply.lines, isinstance(error, SessionEnd)]


def _result(answer: list[object]) -> object:
    if len(answer) == 2:
        return answer[1]
    _, code, lines, ends = cast(tuple[bool, int, list[str], bool], answer)
    raise (SessionEnd if ends else Refusal)(code, *lines)
