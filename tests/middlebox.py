"""Devices between a client and a real daemon: they rewrite, swallow, cut or intercept. And servers that are none."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

#: Changes a line with its end. None swallows it; raising EOFError cuts both connections.
Change = Callable[[bytes], bytes | None]


def same(line: bytes) -> bytes:
    """Change nothing."""
    return line


class Listener:
    """A listening socket; `serve` gets each connection in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        try:
            self._serve(connection)
        except OSError:
            pass
        finally:
            connection.close()


def middlebox(port: int, commands: Change = same, replies: Change = same, certificate: Path | None = None) -> Listener:
    """A device in front of a daemon's port. It changes lines until TLS begins; with a certificate it intercepts TLS,
    and changes lines to the end."""

    def serve(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port), 60) as server:
            _Relay(client, server, commands, replies, certificate).run()

    return Listener(serve)


class _Relay:
    """One client's connection through the device, one line after another."""

    def __init__(
        self, client: socket.socket, server: socket.socket, commands: Change, replies: Change, certificate: Path | None
    ) -> None:
        self._ends = {"client": client, "server": server}
        self._changes = {"client": commands, "server": replies}
        self._certificate = certificate
        self._buffers = {"client": b"", "server": b""}

    def run(self) -> None:
        """Relay the plain dialogue, then TLS."""
        try:
            self._lines("server")
            while True:
                self._lines("client")
                if self._lines("server").startswith(b"234"):
                    break
            if self._certificate is None:
                self._relay_bytes()
                return
            self._intercept()
            self._relay_lines()
        except EOFError:
            pass
        finally:
            for end in self._ends.values():
                end.close()

    def _lines(self, end: str) -> bytes:
        """Relay from one end until a command, or the last line of a reply, has passed."""
        other = "server" if end == "client" else "client"
        while True:
            line = self._read_line(end)
            changed = self._changes[end](line)
            if changed is not None:
                self._ends[other].sendall(changed)
            elif end == "client":
                continue  # it is swallowed, and has no reply
            if end == "client" or (line[3:4] == b" " and line[:3].isdigit()):
                return line

    def _read_line(self, end: str) -> bytes:
        while b"\n" not in self._buffers[end]:
            data = self._ends[end].recv(4096)
            if not data:
                raise EOFError
            self._buffers[end] += data
        line, _, self._buffers[end] = self._buffers[end].partition(b"\n")
        return line + b"\n"

    def _relay_lines(self) -> None:
        """Relay whole lines, whichever end they come from. One thread: TLS sockets are not for two."""
        names = {connection: end for end, connection in self._ends.items()}
        while True:
            for each in select.select(list(names), [], [], 60)[0]:
                self._fill(names[each])
            for end, other in (("client", "server"), ("server", "client")):
                while b"\n" in self._buffers[end]:
                    changed = self._changes[end](self._read_line(end))
                    if changed is not None:
                        self._ends[other].sendall(changed)

    def _fill(self, end: str) -> None:
        """Read what has arrived. What makes a TLS socket readable may be session tickets alone."""
        self._ends[end].settimeout(0)
        try:
            while data := self._ends[end].recv(4096):
                self._buffers[end] += data
            raise EOFError
        except ssl.SSLWantReadError:
            pass
        finally:
            self._ends[end].settimeout(60)

    def _intercept(self) -> None:
        assert self._certificate is not None
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own.load_cert_chain(self._certificate / "certificate.pem", self._certificate / "key.pem")
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        self._ends["client"] = own.wrap_socket(self._ends["client"], server_side=True)
        self._ends["server"] = trusting.wrap_socket(self._ends["server"])

    def _relay_bytes(self) -> None:
        def pump(source: socket.socket, target: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        client, server = self._ends["client"], self._ends["server"]
        thread = threading.Thread(target=pump, args=(server, client), daemon=True)
        thread.start()
        pump(client, server)
        thread.join(30)


def replier(*replies: bytes, wait: float = 20) -> Listener:
    """A server that sends each text after one more command, the first at once, and is silent then."""

    def serve(connection: socket.socket) -> None:
        for number, reply in enumerate(replies):
            if number:
                connection.recv(4096)
            connection.sendall(reply)
        connection.settimeout(wait)
        while connection.recv(4096):
            pass

    return Listener(serve)
