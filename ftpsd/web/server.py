"""Serve HTTP with bounds on connections, time and memory: HttpServer.

Each connection serves one request. It is closed after the answer, or `Bounds.seconds` after it was opened. When too
many are open, the oldest one that has sent no whole request is closed, or if there is none, the oldest one whose client
has read nothing for a second. So clients that send nothing, or read nothing, keep others out for two seconds at most,
and cut off nobody who reads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from itertools import chain
from typing import Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request

from ftpsd.system.presence import PatientCall
from ftpsd.system.reactor import Clock, DelayedCall
from ftpsd.web.unread import Connected, Unread

log = Logger(namespace="ftpsd")


@frozen
class Bounds:
    """What clients may use."""

    connections: int = 16
    #: Seconds from the opening of a connection to its end.
    seconds: float = 10
    #: Seconds for the answer, from the end of the request to that of the connection. None: what is left of `seconds`.
    answer: float | None = None
    #: Bytes of a request's body.
    body: int = 0


@frozen
class Answer:
    """The answer to one request."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


#: Answers a request. An exception is logged, and answered with 500. None: the handler writes the answer itself.
Handler = Callable[["BoundedRequest"], Awaitable[Answer | None]]

NOT_FOUND = Answer(404, b"Not found.\n")
NOT_ALLOWED = Answer(405, b"Only GET and HEAD are served.\n", headers=(("Allow", "GET, HEAD"),))
INTERNAL_ERROR = Answer(500, b"Internal error: see the server's log.\n")

#: Returns the answer to a request that cannot be read, with a status and a sentence.
Refuse = Callable[[int, str], Answer]


def plain_refusal(status: int, detail: str) -> Answer:
    """Return the sentence as text."""
    return Answer(status, f"{detail}\n".encode())


class Transport(Connected, Protocol):
    """A TCP or Unix connection, as far as it is used here."""

    #: Whether it is being closed.
    disconnecting: bool

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def loseWriteConnection(self) -> None:
        """Close this side of the connection when all is sent."""

    def loseConnection(self) -> None:
        """Close the connection when all is sent."""

    def abortConnection(self) -> None:
        """Close the connection now, whatever the client has not read."""


class BoundedRequest(Request):
    """One request."""

    channel: BoundedChannel
    #: Ends an answer that has no end of its own; whoever writes such an answer sets it.
    end_stream: Callable[[], object] = staticmethod(lambda: None)

    def process(self) -> None:
        """Answer it."""
        self.channel.is_waiting = False
        if self.channel.factory.bounds.answer is not None:
            self.channel.set_deadline(self.channel.factory.bounds.answer)
        Deferred.fromCoroutine(self._answer())

    async def _answer(self) -> None:
        try:
            answer = await self.channel.factory.handler(self)
        except Exception:
            log.failure("internal error: an HTTP request cannot be answered")
            answer = INTERNAL_ERROR
        if answer is not None and not self.is_gone:
            self._send(answer)

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed the connection, so that nobody gets the answer."""
        return bool(self._disconnected)

    def _send(self, answer: Answer) -> None:
        self.setResponseCode(answer.status)
        headers = (
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Server", "ftpsd"),
            *answer.headers,
        )
        for name, value in headers:
            self.responseHeaders.setRawHeaders(name, [value])
        if self.method != b"HEAD":
            self.write(answer.body)
        self.finish()


def header(request: Request, name: str) -> str:
    """Return a header of a request; empty without one. `getHeader` of Twisted fails if it is not UTF-8."""
    values = request.requestHeaders.getRawHeaders(name.encode()) or ()
    return b", ".join(values).decode("latin-1")


class BoundedChannel(HTTPChannel):
    """One connection."""

    factory: HttpServer
    requestFactory = BoundedRequest
    maxHeaders = 64
    totalHeadersSize = 8192

    def __init__(self) -> None:
        super().__init__()
        #: Whether the client has not sent a whole request.
        self.is_waiting = True
        #: What the client has not read, once all of the answer is written.
        self.unread: Unread | None = None
        #: Closes the connection now, whatever the client has not read.
        self.abort: Callable[[], None]
        self._deadline: DelayedCall | None = None
        self._refused = False

    def connectionMade(self) -> None:
        """Start the deadline."""
        super().connectionMade()
        self.abort = cast(Transport, self.transport).abortConnection
        if self.factory.admit(self):
            self.set_deadline(self.factory.bounds.seconds)
        else:
            self.abort()

    def set_deadline(self, seconds: float | None) -> None:
        """Abort the connection in so many seconds and not before; never with None, for an answer without an end."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None if seconds is None else PatientCall(self.factory.clock, seconds, self.abort)

    def dataReceived(self, data: bytes) -> None:
        """Receive bytes. Twisted would process those that come while the last answer is sent, and fail."""
        if not (self._refused or cast(Transport, self.transport).disconnecting):
            super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Receive the request line or a header."""
        if self._refused:
            return
        if not self.requests and len(line) > self.totalHeadersSize:
            self.lineLengthExceeded(line)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is too long. Twisted would close the connection without an answer."""
        if self.requests:
            self._respondToBadRequestAndDisconnect()
        else:
            self._refuse(414, "The address of the request is too long.")

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Refuse what is no HTTP. Twisted, which calls this, would answer without a body."""
        self._refuse(400, "The request is not valid HTTP, or its headers are too large.")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer a request that was not read to its end, once."""
        if self._refused:
            return
        self._refused = True
        answer = self.factory.refuse(status, detail)
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        transport = cast(Transport, self.transport)
        transport.write("\r\n".join([*head, "", ""]).encode() + answer.body)
        transport.loseWriteConnection()  # if both sides were closed, the client's bytes would cause a reset

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return False: each connection serves one request."""
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def allHeadersReceived(self) -> None:
        """Refuse a body that is too large, or whose size is not known. Twisted would write it to a file."""
        if self.length is None or self.length > self.factory.bounds.body:
            self._refuse(413, f"The body must have a known size of up to {self.factory.bounds.body} bytes.")
            self.length = 1  # whatever comes now goes to rawDataReceived
        else:
            super().allHeadersReceived()

    def requestDone(self, request: Request) -> None:
        """The whole answer is written; the client may not have read it."""
        self.unread = Unread(self.factory.clock, cast(Transport, self.transport))
        super().requestDone(request)

    def rawDataReceived(self, data: bytes) -> None:
        """Receive a body."""
        if not self._refused:
            super().rawDataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is closed."""
        self.set_deadline(None)
        if self.unread is not None:
            self.unread.stop()
        self.factory.forget(self)
        super().connectionLost(reason)


class HttpServer(HTTPFactory):
    """Accepts connections, and lets `handler` answer GET and HEAD, and `refuse` what cannot be read."""

    noisy = False
    protocol: type[BoundedChannel] = BoundedChannel  # type: ignore[assignment]

    def __init__(
        self, clock: Clock, handler: Handler, bounds: Bounds = Bounds(), refuse: Refuse = plain_refusal
    ) -> None:
        super().__init__(reactor=cast(IReactorTime, clock))
        self.timeOut = None  # type: ignore[assignment]  # `Bounds.seconds` is shorter
        self.clock = clock
        self.handler = handler
        self.bounds = bounds
        self.refuse = refuse
        #: The open connections, the oldest one first.
        self._channels: dict[BoundedChannel, None] = {}

    def startFactory(self) -> None:
        """Do nothing: HTTPFactory would start a clock for its log of requests."""

    def stopFactory(self) -> None:
        """Do nothing."""

    def log(self, request: Request) -> None:
        """Log nothing: clients ask every few seconds."""

    def admit(self, channel: BoundedChannel) -> bool:
        """Count a new connection. Return whether there is room for it."""
        if len(self._channels) >= self.bounds.connections:
            waiting = (each for each in self._channels if each.is_waiting)
            stalled = (each for each in self._channels if each.unread is not None and each.unread.is_stalled)
            oldest = next(chain(waiting, stalled), None)
            if oldest is None:
                return False
            self.forget(oldest)
            oldest.abort()
        self._channels[channel] = None
        return True

    def forget(self, channel: BoundedChannel) -> None:
        """Count a connection no longer. May be called any number of times."""
        self._channels.pop(channel, None)

    def close(self) -> None:
        """Close all connections."""
        for channel in list(self._channels):
            channel.abort()


def pages(handlers: dict[bytes, Handler]) -> Handler:
    """Return a handler that answers GET and HEAD of some paths."""

    async def answer(request: BoundedRequest) -> Answer | None:
        handler = handlers.get(request.path)
        if handler is None:
            return NOT_FOUND
        return await handler(request) if request.method in (b"GET", b"HEAD") else NOT_ALLOWED

    return answer
