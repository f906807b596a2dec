"""An FTP client for diagnosis: blocking sockets, each wait has a deadline, and each kind of failure its own exception.

ftplib hides what matters here: whether a reply was late, cut off or garbled, and whether a TLS session was resumed.
"""

from __future__ import annotations

import re
import socket
import ssl
import time

from attrs import frozen

from ftpsd.checks.findings import printable

#: Longest reply that is read, in bytes. FEAT of known servers stays below 4 KiB.
_LONGEST_REPLY = 65536


class Trouble(Exception):
    """The dialogue failed after `command` was sent ("" before any)."""

    def __init__(self, command: str, detail: str = "") -> None:
        super().__init__(f"{command or 'greeting'}: {type(self).__name__} {detail}".rstrip())
        self.command = command
        self.detail = detail


class Silent(Trouble):
    """No complete reply arrived in time."""


class Cut(Trouble):
    """The connection was closed or reset."""


class Garbled(Trouble):
    """Something that is no FTP reply arrived. `detail` shows it."""


@frozen
class Reply:
    """A complete reply: its code and its lines without line ends."""

    code: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return printable(self.lines[-1])

    @property
    def good(self) -> bool:
        """Whether the reply is positive (1xx, 2xx or 3xx)."""
        return self.code < 400


@frozen
class Passive:
    """Where a reply to EPSV or PASV sends the client. EPSV names no address."""

    command: str
    port: int
    address: str | None = None


class Client:
    """One control connection. `timeout` is in seconds, for each reply, connection and handshake."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self.peer = str(connection.getpeername()[0])
        self.timeout = timeout
        self.features: frozenset[str] = frozenset()
        self.context: ssl.SSLContext | None = None
        self.name: str | None = None
        self._socket = connection
        self._buffer = b""
        self._command = ""

    def close(self) -> None:
        """Close the control connection without QUIT."""
        self._socket.close()

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The socket of the control connection if it is encrypted."""
        return self._socket if isinstance(self._socket, ssl.SSLSocket) else None

    def read_reply(self) -> Reply:
        """Return the next reply. Raises Silent, Cut or Garbled."""
        deadline = time.monotonic() + self.timeout
        lines: list[str] = []
        code = ""
        while True:
            line = self._read_line(deadline)
            if not lines:
                found = re.match(r"([1-6]\d\d)([ -]|$)", line)
                if found is None:
                    raise Garbled(self._command, printable(line))
                code = found[1]
            lines.append(line)
            if sum(map(len, lines)) > _LONGEST_REPLY:
                raise Garbled(self._command, printable(lines[0]))
            if re.match(rf"{code}( |$)", line):
                return Reply(int(code), tuple(lines))

    def command(self, line: str) -> Reply:
        """Send a command and return its reply."""
        self._command = line.split(" ")[0]
        try:
            self._socket.settimeout(self.timeout)
            self._socket.sendall(line.encode() + b"\r\n")
        except TimeoutError:
            raise Silent(self._command) from None
        except OSError as error:
            raise Cut(self._command, str(error)) from None
        return self.read_reply()

    def read_features(self) -> Reply:
        """Send FEAT and keep the names that it lists."""
        reply = self.command("FEAT")
        if reply.code == 211:
            self.features = frozenset(line.strip().upper() for line in reply.lines[1:-1])
        return reply

    def lists(self, command: str) -> bool:
        """Return whether FEAT has listed a command."""
        return any(re.match(rf"{command}\b", feature) for feature in self.features)

    def start_tls(self, context: ssl.SSLContext, name: str | None) -> None:
        """Make the TLS handshake on the control connection. Raises OSError, of which ssl.SSLError is one."""
        if self._buffer:
            raise Garbled(self._command, printable(self._buffer.decode(errors="replace")))
        self._command = "TLS"
        self._socket.settimeout(self.timeout)
        self._socket = context.wrap_socket(self._socket, server_hostname=name)
        self.context, self.name = context, name

    def passive(self, command: str) -> Passive | Reply:
        """Send EPSV or PASV. Return where to connect, or the reply if it names no such place."""
        reply = self.command(command)
        if command == "EPSV" and reply.code == 229:
            extended = re.search(r"\(([!-~])\1\1(\d{1,5})\1\)", reply.lines[-1])
            if extended and 0 < int(extended[2]) < 65536:
                return Passive(command, int(extended[2]))
        if command == "PASV" and reply.code == 227:
            numbers = re.search(r"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", reply.lines[-1])
            if numbers and all(int(each) < 256 for each in numbers.groups()):
                high, low = map(int, numbers.groups()[4:])
                return Passive(command, high * 256 + low, ".".join(numbers.groups()[:4]))
        return reply

    def secure_data(self, connection: socket.socket, resume: bool = True) -> ssl.SSLSocket:
        """Make the TLS handshake on a data connection. `resume`: with the TLS session of the control connection."""
        assert self.context is not None and self.tls is not None
        connection.settimeout(self.timeout)
        # Without its name a certificate cannot be verified. The name must be the control connection's.
        session = self.tls.session if resume else None
        return self.context.wrap_socket(connection, server_hostname=self.name, session=session)

    def _read_line(self, deadline: float) -> str:
        while b"\n" not in self._buffer:
            self._buffer += self._receive(deadline)
            if len(self._buffer) > _LONGEST_REPLY:
                raise Garbled(self._command, printable(self._buffer[:100].decode(errors="replace")))
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode(errors="replace")

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Silent(self._command, self._so_far())
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(4096)
        except TimeoutError:
            raise Silent(self._command, self._so_far()) from None
        except OSError as error:
            raise Cut(self._command, str(error)) from None
        if not data:
            raise Cut(self._command, self._so_far())
        return data

    def _so_far(self) -> str:
        return printable(self._buffer.decode(errors="replace"))


def send_all(connection: socket.socket, data: bytes, seconds: float) -> None:
    """Send data within a deadline, then end the stream: TLS close_notify, then FIN. Raises OSError."""
    connection.settimeout(seconds)
    connection.sendall(data)
    end(connection, seconds)


def receive_all(connection: socket.socket, limit: int, seconds: float) -> bytes:
    """Return what arrives until the end of the stream, at most `limit` bytes, within a deadline. Raises OSError."""
    deadline, parts, size = time.monotonic() + seconds, [], 0
    while size < limit:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the transfer did not end in time")
        connection.settimeout(left)
        part = connection.recv(65536)
        if not part:
            break
        parts.append(part)
        size += len(part)
    end(connection, seconds)
    return b"".join(parts)


def end(connection: socket.socket, seconds: float) -> None:
    """Close a connection; under TLS with close_notify, which uploads need to be complete."""
    connection.settimeout(seconds)
    try:
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()
    except (OSError, ValueError):
        pass  # the reply to the transfer says whether the server was content
    finally:
        connection.close()
