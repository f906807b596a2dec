"""A proxy before an S3 server that spoils chosen requests: it cuts, delays, corrupts, and answers errors.

    with FaultyProxy(server.port) as proxy:
        proxy.spoil("PUT", "partNumber=2", Cut(request_after=100_000))
        ...
        assert [each.method for each in proxy.requests] == [...]

A rule spoils the next request that matches it, or the next `times` of them.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import unquote

#: Seconds after which a socket of the proxy gives up.
PATIENCE = 60.0

_PIECE = 65536


@dataclass(frozen=True)
class Request:
    """A request that has reached the proxy."""

    method: str
    #: The path with the query, without percent encoding.
    target: str
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True)
class Answer:
    """Answer an error instead of the server, after `after` bytes of the request's body. None: after all of them.

    Status 200 has the error inside, as CompleteMultipartUpload and CopyObject may.
    """

    status: int
    code: str
    after: int | None = None
    message: str = ""


@dataclass(frozen=True)
class Cut:
    """Cut the connection after some bytes of the body of the request, or of the response (0: before its first line)."""

    request_after: int | None = None
    response_after: int | None = None


@dataclass(frozen=True)
class Delay:
    """Wait before the request goes on, or between pieces of its body or of the response's."""

    seconds: float = 0.0
    #: Bytes of the request that are taken each second; None: as fast as they come.
    request_rate: int | None = None
    #: Bytes of the response for each second; None: as fast as they come.
    rate: int | None = None


@dataclass(frozen=True)
class Hang:
    """Send the request to nobody, and answer nothing, until the proxy is closed or `release` is called."""

    #: Bytes of the response that are sent before it hangs; None: the request goes nowhere.
    response_after: int | None = None


@dataclass(frozen=True)
class Corrupt:
    """Flip all bits of one byte of the body of the request or of the response."""

    request_at: int | None = None
    response_at: int | None = None


@dataclass(frozen=True)
class Rewrite:
    """Replace what matches in the head and in the body of the response, as a store does that answers differently.

    With `request`, what matches is removed from the head of the request.
    """

    pattern: bytes
    replacement: bytes
    request: bytes | None = None


Fault = Answer | Cut | Delay | Hang | Corrupt | Rewrite


@dataclass
class _Rule:
    method: str
    pattern: re.Pattern[str]
    fault: Fault
    times: int
    skip: int

    def matches(self, request: Request) -> bool:
        return self.times > 0 and self.method == request.method and bool(self.pattern.search(request.target))


class _Ended(Exception):
    """The connection has ended, or must end."""


class FaultyProxy:
    """The proxy. Each connection has a thread. With `tls`, its clients use HTTPS."""

    def __init__(self, upstream: int, tls: ssl.SSLContext | None = None) -> None:
        self._upstream = upstream
        self._tls = tls
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._open: set[socket.socket] = set()
        #: All requests that came, in their order.
        self.requests: list[Request] = []
        #: The faults that have happened.
        self.spoiled: list[Fault] = []
        self._closed = False
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def spoil(self, method: str, pattern: str, fault: Fault, times: int = 1, skip: int = 0) -> None:
        """Spoil requests whose method is this one and whose target matches, after `skip` good ones."""
        with self._lock:
            self._rules.append(_Rule(method, re.compile(pattern), fault, times, skip))

    def heal(self) -> None:
        """Forget all rules, and let go what hangs."""
        with self._lock:
            self._rules.clear()
        self.release()

    def release(self) -> None:
        """Cut all connections that hang."""
        self._released.set()
        self._released = threading.Event()

    def stop(self) -> None:
        """Refuse connections, and cut all that are open: the server is unreachable."""
        self._closed = True
        self.release()
        # A thread that waits in accept(2) keeps the socket open: this wakes it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def start(self) -> None:
        """Listen again on the same port."""
        self._closed = False
        self._listener = self._listen(self.port)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _listen(self, port: int) -> socket.socket:
        """Listen. The buffers are small, so that a sender soon notices that nothing is read."""
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        return listener

    def cut_all(self) -> None:
        """Cut all open connections."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @property
    def connected(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if self._closed:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:  # the client does not trust the certificate
                return
        with self._lock:
            self._open.add(connection)
        try:
            exchange = _Exchange(self, connection)
            while exchange.serve():
                pass
        except (OSError, _Ended, ValueError):
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    # --- for exchanges -----------------------------------------------------------------------------

    def take_fault(self, request: Request) -> Fault | None:
        """Note a request, and return how it is spoiled."""
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if rule.matches(request):
                    if rule.skip:
                        rule.skip -= 1
                        continue
                    rule.times -= 1
                    self.spoiled.append(rule.fault)
                    return rule.fault
        return None

    def connect(self) -> socket.socket:
        """Connect to the server."""
        return socket.create_connection(("127.0.0.1", self._upstream), PATIENCE)

    def hang(self) -> None:
        """Wait until the proxy lets go, then end the connection."""
        self._released.wait(PATIENCE)
        raise _Ended


@dataclass
class _Head:
    """The head of a message."""

    first: str
    headers: dict[str, str]
    raw: bytes

    @property
    def length(self) -> int | None:
        """The length of the body; None if it is not known."""
        if "chunked" in self.headers.get("transfer-encoding", ""):
            return None
        return int(self.headers.get("content-length", 0))


@dataclass
class _Stream:
    """A socket with a buffer for reading."""

    socket: socket.socket
    buffer: bytearray = field(default_factory=bytearray)

    def fill(self) -> None:
        """Read something."""
        data = self.socket.recv(_PIECE)
        if not data:
            raise _Ended
        self.buffer += data

    def head(self) -> _Head:
        """Read the head of a message."""
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        end = self.buffer.index(b"\r\n\r\n") + 4
        raw = bytes(self.buffer[:end])
        del self.buffer[:end]
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return _Head(first, headers, raw)

    def piece(self, at_most: int) -> bytes:
        """Read some bytes."""
        if not self.buffer:
            self.fill()
        data = bytes(self.buffer[:at_most])
        del self.buffer[:at_most]
        return data

    def line(self) -> bytes:
        """Read a line, with its end."""
        while b"\r\n" not in self.buffer:
            self.fill()
        end = self.buffer.index(b"\r\n") + 2
        return self.piece(end)


#: Is given the next bytes of a body, and where they begin.
_Use = Callable[[bytes, int], None]


class _Exchange:
    """The requests of one connection."""

    def __init__(self, proxy: FaultyProxy, connection: socket.socket) -> None:
        self._proxy = proxy
        self._client = _Stream(connection)

    def serve(self) -> bool:
        """Serve one request; return whether another one may follow."""
        head = self._client.head()
        method, target, _ = head.first.split(" ")
        fault = self._proxy.take_fault(Request(method, unquote(target), head.headers))
        if "100-continue" in head.headers.get("expect", ""):
            self._client.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if isinstance(fault, Delay):
            time.sleep(fault.seconds)
        if isinstance(fault, Hang) and fault.response_after is None:
            self._proxy.hang()
        if isinstance(fault, Answer):
            self._answer(head, fault)
            return fault.after is None
        with self._proxy.connect() as server:
            raw = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head.raw)
            if isinstance(fault, Rewrite) and fault.request is not None:
                raw = re.sub(fault.request, b"", raw)
            server.sendall(raw)
            self._forward_request(head, server, fault)
            return self._forward_response(method, _Stream(server), fault)

    def _answer(self, head: _Head, fault: Answer) -> None:
        """Answer an error. In the middle of a body, the connection ends after it."""

        def count(data: bytes, at: int) -> None:
            if fault.after is not None and at + len(data) >= fault.after:
                raise _Middle

        with suppress(_Middle):
            _body(self._client, head, count)
        message = fault.message or fault.code
        text = f'<?xml version="1.0"?><Error><Code>{fault.code}</Code><Message>{message}</Message></Error>'.encode()
        reply = f"HTTP/1.1 {fault.status} Spoiled\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n"
        if head.first.startswith("HEAD "):
            text = b""
        end = "" if fault.after is None else "Connection: close\r\n"
        self._client.socket.sendall(f"{reply}{end}\r\n".encode() + text)

    def _forward_request(self, head: _Head, server: socket.socket, fault: Fault | None) -> None:
        cut = fault.request_after if isinstance(fault, Cut) else None
        corrupt = fault.request_at if isinstance(fault, Corrupt) else None
        rate = fault.request_rate if isinstance(fault, Delay) else None

        def send(data: bytes, at: int) -> None:
            if rate is not None:
                time.sleep(len(data) / rate)
            server.sendall(_spoiled(data, at, corrupt, cut))
            if cut is not None and at + len(data) >= cut:
                raise _Ended

        if cut == 0:
            raise _Ended
        _body(self._client, head, send)

    def _forward_response(self, method: str, server: _Stream, fault: Fault | None) -> bool:
        head = server.head()
        cut = fault.response_after if isinstance(fault, Cut | Hang) else None
        corrupt = fault.response_at if isinstance(fault, Corrupt) else None
        rate = fault.rate if isinstance(fault, Delay) else None
        if cut == 0:
            self._end(fault)
        raw = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head.raw).replace(b"HTTP/1.0", b"HTTP/1.1")
        if isinstance(fault, Rewrite):
            self._rewrite(method, server, head, raw, fault)
            return True
        self._client.socket.sendall(raw)

        def send(data: bytes, at: int) -> None:
            self._client.socket.sendall(_spoiled(data, at, corrupt, cut))
            if rate is not None:
                time.sleep(len(data) / rate)
            if cut is not None and at + len(data) >= cut:
                self._end(fault)

        status = head.first.split(" ")[1]
        if method != "HEAD" and status not in ("204", "304"):
            if "content-length" not in head.headers and "chunked" not in head.headers.get("transfer-encoding", ""):
                raise _Ended  # such a body would end with the connection, and no server of the tests sends one
            _body(server, head, send)
        return True

    def _rewrite(self, method: str, server: _Stream, head: _Head, raw: bytes, fault: Rewrite) -> None:
        """Forward a response whose body has a length."""
        body = bytearray()
        if method != "HEAD":
            _body(server, head, lambda data, at: body.extend(data))
        new = re.sub(fault.pattern, fault.replacement, bytes(body))
        raw = re.sub(fault.pattern, fault.replacement, raw)
        if len(new) != len(body):
            raw = re.sub(rb"(?i)(\r\ncontent-length: *)\d+", b"\\g<1>%d" % len(new), raw)
        self._client.socket.sendall(raw + new)

    def _end(self, fault: Fault | None) -> None:
        if isinstance(fault, Hang):
            self._proxy.hang()
        raise _Ended


class _Middle(Exception):
    """Enough of a body was read."""


def _body(stream: _Stream, head: _Head, use: _Use) -> None:
    """Read a body, and pass it on as it is. A chunked one is passed on with its framing."""
    at = 0
    rest = head.length
    if rest is not None:
        while at < rest:
            data = stream.piece(min(_PIECE, rest - at))
            use(data, at)
            at += len(data)
        return
    while True:
        line = stream.line()
        size = int(line.split(b";")[0], 16)
        data = line
        while len(data) < len(line) + size + 2:
            data += stream.piece(len(line) + size + 2 - len(data))
        use(data, at)
        at += len(data)
        if not size:
            return


def _spoiled(data: bytes, at: int, corrupt: int | None, cut: int | None) -> bytes:
    """Return what is sent of the bytes at a position."""
    if corrupt is not None and at <= corrupt < at + len(data):
        here = corrupt - at
        data = data[:here] + bytes([data[here] ^ 0xFF]) + data[here + 1 :]
    return data if cut is None else data[: max(0, cut - at)]
