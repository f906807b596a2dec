"""A bare FTPS client: blocking sockets, no waits of its own, every data connection resumes the control's session."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from types import TracebackType

from benchmarks.pipes import Pipe, PlainPipe, TlsPipe

HOST = "127.0.0.1"
TIMEOUT = 120.0
GROUP = "prime256v1"
"""One key exchange for all: a vsftpd of this day knows no other, and newer libraries would pick costlier ones."""
CIPHERS = frozenset({"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"})


class ReplyError(Exception):
    """The server answered something else than the work needs."""


def tls_context() -> ssl.SSLContext:
    """TLS 1.3 only. The certificate is made for the run and signed by nobody, so it is not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve(GROUP)
    return context


def connect(port: int) -> socket.socket:
    """A TCP connection without Nagle's wait."""
    sock = socket.create_connection((HOST, port), timeout=TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@dataclass
class Seen:
    """What the client saw of the data connections."""

    data_connections: int = 0
    resumed: int = 0
    ended_badly: int = 0

    def add(self, pipe: Pipe) -> None:
        """Count a connection that has come to its end."""
        self.data_connections += 1
        self.resumed += pipe.resumed
        self.ended_badly += not pipe.ended_well


@dataclass
class Client:
    """One session: a control connection, and data connections one after another."""

    port: int
    context: ssl.SSLContext = field(default_factory=tls_context)
    seen: Seen = field(default_factory=Seen)
    protect: bool = True
    implicit: bool = False
    """Whether the server expects TLS from the first byte on."""
    cipher: str = ""

    def __post_init__(self) -> None:
        self._control = connect(self.port)
        if self.implicit:
            self._control = self.context.wrap_socket(self._control)
        self._ticket: ssl.SSLSession | None = None
        self._unread = b""
        self.expect(220)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()

    def _line(self) -> bytes:
        while (end := self._unread.find(b"\n")) < 0:
            data = self._control.recv(16384)
            if not data:
                raise ReplyError("the server closed the control connection")
            self._unread += data
        line, self._unread = self._unread[:end], self._unread[end + 1 :]
        return line

    def expect(self, *codes: int) -> str:
        """Read one reply, of several lines perhaps (RFC 959 4.2); it must have one of `codes`."""
        line = first = self._line()
        while line[:3] != first[:3] or line[3:4] == b"-":
            line = self._line()
        if int(line[:3]) not in codes:
            raise ReplyError(line.decode("latin-1").strip())
        return line.decode("latin-1")

    def send(self, line: str) -> None:
        """Send a command."""
        self._control.sendall(line.encode() + b"\r\n")

    def command(self, line: str, *codes: int) -> str:
        """Send a command, read its reply."""
        self.send(line)
        return self.expect(*codes)

    def log_in(self, user: str, password: str) -> None:
        """From AUTH to 230."""
        if not self.implicit:
            self.command("AUTH TLS", 234)
            self._control = self.context.wrap_socket(self._control)
        control = self._control
        assert isinstance(control, ssl.SSLSocket)
        name, version, _bits = control.cipher() or ("", "", 0)
        if name not in CIPHERS:
            raise ReplyError(f"the server chose {version} {name}")
        self.cipher = name
        self.command(f"USER {user}", 331)
        self.command(f"PASS {password}", 230)
        self._ticket = control.session

    def set_up(self) -> None:
        """What a client says once before its first transfer."""
        if not self.implicit:  # the one server with implicit TLS, rclone, refuses both, and protects no data
            self.command("PBSZ 0", 200)
            self.command("PROT P" if self.protect else "PROT C", 200)
        self.command("TYPE I", 200)

    def open(self, command: str) -> Pipe:
        """EPSV, connect, send `command`, read 150 and make the data connection ready."""
        self.send("EPSV")
        pipe: Pipe = TlsPipe(self.context, self._ticket) if self.protect else PlainPipe()
        sock = connect(int(self.expect(229).rsplit("|", 2)[1]))
        try:
            self.command(command, 150, 125)
            pipe.begin(sock)
        except BaseException:
            sock.close()
            raise
        return pipe

    def done(self, pipe: Pipe) -> None:
        """Close `pipe` after a transfer to us, and read its 226."""
        pipe.close()
        self.expect(226, 250)
        self.seen.add(pipe)

    def sent(self, pipe: Pipe) -> None:
        """End a transfer from us, and read its 226."""
        pipe.finish()
        self.expect(226, 250)
        self.seen.add(pipe)

    def quit(self) -> None:
        """QUIT, and close."""
        self.command("QUIT", 221)
        self._control.close()
