"""A minimal FTP client: it sends and reads single lines, and opens data connections on request."""

from __future__ import annotations

import re
import socket
import ssl
from types import TracebackType

from tests.daemon import PATIENCE, Daemon


def tls_context(maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """Return a client's TLS context that accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = maximum
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class FtpClient:
    """One control connection."""

    def __init__(
        self,
        daemon: Daemon,
        implicit: bool = False,
        greeting: bool = True,
        source: str | None = None,
        name: str | None = "localhost",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.host = daemon.host
        #: The host that TLS names (SNI).
        self.name = name
        port = daemon.implicit_port if implicit else daemon.port
        where = (source, 0) if source else None
        self.socket: socket.socket = socket.create_connection((self.host, port), PATIENCE, where)
        self.context = context or tls_context()
        self._buffer = b""
        if implicit:
            self._wrap()
        if greeting:
            assert self.reply().startswith("220")

    def __enter__(self) -> FtpClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    # --- control ---------------------------------------------------------------------------------

    def send(self, *lines: str | bytes) -> None:
        """Send lines in one segment."""
        self.send_raw(b"".join((line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines))

    def send_raw(self, data: bytes) -> None:
        """Send bytes unchanged."""
        self.socket.sendall(data)

    def read_line(self) -> bytes:
        """Return a line with its end, or nothing if the server has closed the connection."""
        while b"\n" not in self._buffer:
            try:
                data = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                data = b""
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def raw_reply(self) -> bytes:
        """Return a whole reply with all its lines."""
        first = line = self.read_line()
        whole = line
        while first[3:4] == b"-" and line[:4] != first[:3] + b" ":
            line = self.read_line()
            assert line, f"cut within {whole!r}"
            whole += line
        return whole

    def reply(self) -> str:
        """Return a whole reply as text, without its last line end."""
        return self.raw_reply().decode("utf-8", "surrogateescape").removesuffix("\r\n")

    def command(self, line: str | bytes) -> str:
        """Send a line and return its reply."""
        self.send(line)
        return self.reply()

    def expect(self, code: int, line: str | bytes) -> str:
        """Send a line whose reply must have this code."""
        reply = self.command(line)
        assert reply.startswith(str(code)), f"{line!r}: {reply}"
        return reply

    # --- TLS and login ---------------------------------------------------------------------------

    def _wrap(self) -> None:
        self.socket = self.context.wrap_socket(self.socket, server_hostname=self.name)

    def start_tls(self, context: ssl.SSLContext | None = None) -> None:
        """Send AUTH TLS and make the handshake."""
        self.context = context or self.context
        self.expect(234, "AUTH TLS")
        self._wrap()

    def login(self, user: str = "alice", password: str = "secret") -> FtpClient:
        """Send USER and PASS; under TLS also PBSZ, PROT P and TYPE I."""
        self.expect(331, f"USER {user}")
        self.expect(230, f"PASS {password}")
        if isinstance(self.socket, ssl.SSLSocket):
            self.expect(200, "PBSZ 0")
            self.expect(200, "PROT P")
        self.expect(200, "TYPE I")
        return self

    # --- data ------------------------------------------------------------------------------------

    def passive_port(self) -> int:
        """Send EPSV and return the port."""
        match = re.search(r"\(\|\|\|(\d+)\|\)", self.expect(229, "EPSV"))
        assert match is not None
        return int(match[1])

    def connect_data(self, port: int | None = None, source: str | None = None) -> socket.socket:
        """Return a plain connection to a passive port, by default a new one."""
        where = (source, 0) if source else None
        return socket.create_connection((self.host, port or self.passive_port()), PATIENCE, where)

    def secure_data(self, connection: socket.socket, resume: bool = True, ragged: bool = True) -> ssl.SSLSocket:
        """Begin TLS on a data connection, with the control connection's session or a new one.

        An end without close_notify counts as the end of the stream; with `ragged` False it raises SSLEOFError.
        """
        assert isinstance(self.socket, ssl.SSLSocket)
        session = self.socket.session if resume else None
        if not ragged:
            self.context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # which Python sets with OpenSSL 3
        return self.context.wrap_socket(
            connection, server_hostname=self.name, session=session, suppress_ragged_eofs=ragged
        )

    def _open(self, line: str | bytes) -> socket.socket:
        connection = self.connect_data()
        self.expect(150, line)
        if isinstance(self.socket, ssl.SSLSocket):
            return self.secure_data(connection)
        return connection

    def download(self, line: str | bytes) -> bytes:
        """Return what a command sends on a data connection. Its replies must be 150 and 226."""
        with self._open(line) as connection:
            data = read_all(connection)
            if isinstance(connection, ssl.SSLSocket):
                connection.unwrap()
        final = self.reply()
        assert final.startswith("226"), final
        return data

    def upload(self, line: str | bytes, data: bytes) -> str:
        """Send data on a data connection and return the final reply."""
        connection = self._open(line)
        connection.sendall(data)
        if isinstance(connection, ssl.SSLSocket):
            connection = connection.unwrap()
        connection.close()
        return self.reply()


def secured(daemon: Daemon, user: str = "alice") -> FtpClient:
    """Return a client that is logged in over TLS."""
    client = FtpClient(daemon)
    client.start_tls()
    return client.login(user)


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes until the end of the stream."""
    pieces = []
    while piece := connection.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)
