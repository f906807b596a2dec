"""The HTTP server of the package `web`, on a transport in memory and a clock that the test advances."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import ExitStack, suppress

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.http import Request

from ftpsd.web.server import Answer, Bounds, HttpServer, pages

ASKED = b"GET /page HTTP/1.1\r\nHost: here\r\n\r\n"

STILL, _ = socket.socketpair()

#: More than the kernel takes for a client that does not read.
LARGE = b"x" * 40_000_000


class Connection(StringTransport):
    """A TCP connection to the server."""

    aborting = False

    def __init__(self, server: HttpServer) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 12345))
        self.channel = server.buildProtocol(self.getPeer())
        assert self.channel is not None
        self.channel.makeConnection(self)

    def fileno(self) -> int:
        """Return a socket in whose buffer nothing moves."""
        return STILL.fileno()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Set nothing."""

    def loseWriteConnection(self) -> None:
        """Note that this side is closed."""
        self.write(b"<end>")

    def abortConnection(self) -> None:
        """Note that the connection is reset."""
        self.aborting = True

    def send(self, data: bytes) -> bytes:
        """Send bytes; return all that was answered so far."""
        self.channel.dataReceived(data)
        return self.value()

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return bool(self.disconnecting or self.aborting)


class Server:
    """A server whose page is answered when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.answers: list[Deferred[Answer]] = []
        handler = pages({b"/page": self.page, b"/broken": self.broken})
        self.http = HttpServer(self.clock, handler, Bounds(connections=3, seconds=10, body=4))

    async def page(self, request: Request) -> Answer:
        """Wait for the test."""
        self.answers.append(Deferred())
        return await self.answers[-1]

    async def broken(self, request: Request) -> Answer:
        """Fail."""
        raise ZeroDivisionError

    def connect(self) -> Connection:
        """Open a connection."""
        return Connection(self.http)


@pytest.fixture
def server() -> Server:
    """A server."""
    return Server()


def test_a_page(server: Server) -> None:
    """A page is answered with its type and length, then the connection is closed, and HEAD gets no body."""
    connection = server.connect()
    assert connection.send(ASKED) == b""
    server.answers.pop().callback(Answer(200, b"text", "text/x"))
    head, _, body = connection.value().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"text"
    for line in (b"Content-Type: text/x", b"Content-Length: 4", b"Connection: close", b"Cache-Control: no-store"):
        assert line in head.split(b"\r\n")
    assert connection.closed
    other = server.connect()
    other.send(ASKED.replace(b"GET", b"HEAD"))
    server.answers.pop().callback(Answer(200, b"text", "text/x"))
    assert other.value().endswith(b"\r\n\r\n")
    assert b"Content-Length: 4" in other.value()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /elsewhere HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /page HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
        (b"POST /page HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345", b"413"),
        (b"POST /page HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", b"413"),
        (b"POST /page HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
        (b"GET /page HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /page HTTP/1.1\r\n" + b"X: y\r\n" * 66, b"400"),
        (b"GET /page HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n", b"400"),
        (b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\n", b"414"),
        (b"GET /" + b"y" * 20_000, b"414"),
        (b"GET /page HTTP/1.1\r\nX: " + b"y" * 20_000, b"400"),
        (b"GET /page HTTP/1.1\r\nbad header\r\nbad again\r\n\r\n", b"400"),
    ],
    ids=lambda value: value[:50].decode(),
)
def test_what_is_not_answered(server: Server, request_: bytes, code: bytes) -> None:
    """Each request that cannot be served gets a clear answer, and the connection is closed."""
    connection = server.connect()
    answer = connection.send(request_)
    assert answer.startswith(b"HTTP/1.1 " + code)
    assert answer.count(b"HTTP/1.1 ") == 1
    head, _, body = answer.removesuffix(b"<end>").partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head and body.endswith(b".\n")
    assert connection.closed or connection.value().endswith(b"<end>")
    assert connection.send(b"1" * 100_000 + b"\r\n") == connection.value()
    server.clock.advance(10)
    assert connection.closed


def test_nothing_lasts_longer_than_the_deadline(server: Server) -> None:
    """A client that sends nothing or half a request, or does not read the answer, is cut off at the deadline."""
    silent, half, unread = (server.connect() for _ in range(3))
    half.send(ASKED[:20])
    unread.send(ASKED)
    server.answers.pop().callback(Answer(200, b"x" * 100))
    server.clock.advance(9)
    half.send(b"x")
    assert not (silent.aborting or half.aborting or unread.aborting)
    server.clock.advance(1)
    assert silent.aborting
    assert half.aborting
    assert unread.aborting


def test_silent_connections_make_room(server: Server) -> None:
    """Above the limit, the oldest connection without a request is closed, or the new one if there is none."""
    first, second, third = (server.connect() for _ in range(3))
    second.send(ASKED)
    fourth = server.connect()
    assert first.aborting
    assert not (second.aborting or third.aborting or fourth.aborting)
    third.send(ASKED)
    fourth.send(ASKED)
    assert server.connect().aborting
    server.http.close()
    assert second.aborting
    assert third.aborting
    assert fourth.aborting


def test_answers_that_are_not_read_make_room(server: Server) -> None:
    """Clients that do not read their answers keep nobody out. One whose answer is being made is not disturbed."""
    unread = [server.connect() for _ in range(3)]
    for each in unread:
        each.send(ASKED)
    for answer in server.answers[1:]:
        answer.callback(Answer(200, b"x" * 1000))
    server.clock.advance(1)
    other = server.connect()
    assert [each.aborting for each in unread] == [False, True, False]
    other.send(ASKED)
    server.answers[-1].callback(Answer(200, b"served"))
    assert other.value().endswith(b"served")
    server.answers[0].callback(Answer(200, b"served, too"))
    assert unread[0].value().endswith(b"served, too")


def test_an_answer_that_is_read_is_not_cut() -> None:
    """Clients that send nothing, or do not read, take the places of each other, and none of a client that reads."""
    reactor = EPollReactor()

    async def answer(request: Request) -> Answer:
        return Answer(200, LARGE)

    http = HttpServer(reactor, answer, Bounds(connections=4, seconds=60))
    port = reactor.listenTCP(0, http, interface="127.0.0.1")
    with ExitStack() as stack:

        def connect(sends: bytes = b"") -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port.getHost().port)))
            client.sendall(sends)
            client.setblocking(False)
            turn()
            return client

        def turn() -> None:
            for _ in range(5):
                reactor.runUntilCurrent()
                reactor.doPoll(0.01)

        def read(client: socket.socket) -> int:
            turn()
            with suppress(BlockingIOError):
                return len(client.recv(100_000))
            return 0

        try:
            reader = connect(ASKED)
            silent = [connect() for _ in range(8)]
            assert read(reader)
            assert [is_reset(each) for each in silent] == [True] * 5 + [False] * 3
            unread = [connect(ASKED) for _ in range(3)]
            assert all(is_reset(each) for each in silent[5:])
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert read(reader)
            newcomer = connect(ASKED)
            assert read(newcomer)
            assert [is_reset(each) for each in unread] == [True, False, False]
            assert all(read(reader) for _ in range(20))
        finally:
            http.close()
            turn()
            reactor.disconnectAll()
            reactor._poller.close()


def is_reset(client: socket.socket) -> bool:
    """Whether the server has reset a connection: it is told once."""
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


def test_a_client_that_is_gone_gets_no_answer(server: Server) -> None:
    """An answer whose client has closed the connection is dropped."""
    connection = server.connect()
    connection.send(ASKED)
    connection.channel.connectionLost()
    server.answers.pop().callback(Answer(200, b"late"))
    assert connection.value() == b""
    assert not server.clock.getDelayedCalls()
