"""One session of the stateful test: what its user has said, and how names are spelled."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from dataclasses import dataclass
from itertools import takewhile

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all
from tests.fuzz.model import Path, Upload


@dataclass
class Sending:
    """An upload whose data connection is open."""

    upload: Upload
    connection: socket.socket
    sent: bytes
    #: The names of its files, private to the server.
    parts: frozenset[str]


class User:
    """A session that is logged in, with TLS or without."""

    def __init__(self, daemon: Daemon, encrypted: bool, user: str = "alice") -> None:
        self.encrypted = encrypted
        self.user = user
        self.client = FtpClient(daemon)
        if encrypted:
            self.client.start_tls()
        self.client.login(user)
        self.directory: Path = ()
        self.type = "I"
        self.rename_from: Path | None = None
        self.sending: Sending | None = None

    def name(self, path: Path, spelling: int, flags: bool = False) -> str:
        """A path as this client may write it: absolute, relative, with parts that mean nothing."""
        pairs = zip(path, self.directory, strict=False)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        relative = "/".join([".."] * (len(self.directory) - shared) + list(path[shared:])) or "."
        if spelling == 1 and not (flags and relative.startswith(("-", " "))):
            return relative
        return {2: "//", 3: "/./", 4: "/x/../"}.get(spelling, "/") + ("/./" if spelling == 3 else "/").join(path)

    def command(self, line: str) -> str:
        """Sends a line as bytes of the disk, 255 doubled as Telnet has it; its reply likewise."""
        self.client.send(line.encode("utf-8", "surrogateescape").replace(b"\xff", b"\xff\xff"))
        return self.reply()

    def reply(self) -> str:
        """The next whole reply."""
        raw = self.client.raw_reply().replace(b"\xff\xff", b"\xff")
        return raw.decode("utf-8", "surrogateescape").removesuffix("\r\n")

    def code(self, line: str) -> int:
        """The code of a line's reply."""
        reply = self.command(line)
        assert re.match("[2345][0-9][0-9][ -]", reply), f"{line!r}: {reply!r}"
        return int(reply[:3])

    def open(self, line: str) -> tuple[str, socket.socket]:
        """A command with a data connection: its first reply, and that connection, secured behind a 150."""
        connection = self.client.connect_data()
        reply = self.command(line)
        if reply.startswith("150") and self.encrypted:
            connection = self.client.secure_data(connection)
        return reply, connection

    def download(self, line: str) -> tuple[int, bytes]:
        """The last reply's code, and what came."""
        reply, connection = self.open(line)
        with connection:
            if not reply.startswith("150"):
                return int(reply[:3]), b""
            data = read_all(connection)
            if isinstance(connection, ssl.SSLSocket):
                connection.unwrap()
        return int(self.reply()[:3]), data

    def cut_data(self) -> None:
        """The data connection ends as no upload may end: without close_notify, or with a reset."""
        assert self.sending is not None
        if not self.encrypted:
            self.sending.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sending.connection.close()
