"""A daemon whose sessions share a passive port, and clients behind one address."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.daemon import Daemon, merge
from tests.ftpclient import FtpClient, tls_context

#: Makes a daemon (see the fixture `make_daemon`).
Make = Callable[..., Daemon]


def sharing(make: Make, *changes: dict[str, Any], count: int = 1, **keywords: Any) -> Daemon:
    """Start a daemon whose sessions share its first passive port, or its first few."""
    daemon = make(start=False, **keywords)
    low = daemon.passive[0]
    daemon.settings["passive"] = {"ports": f"{low}-{low + count - 1}", "shared": True}
    for each in changes:
        daemon.settings = merge(daemon.settings, each)
    daemon.write()
    return daemon.start()


@contextlib.contextmanager
def sharing_for_a_module(directory: Path, certificate: Path, *changes: dict[str, Any]) -> Iterator[Daemon]:
    """A daemon as `sharing` makes it, for all tests of a module."""
    made = Daemon(directory, certificate)
    yield sharing(lambda **_: made, *changes)
    made.stop()


def client(daemon: Daemon, version: ssl.TLSVersion | None = ssl.TLSVersion.TLSv1_3, user: str = "alice") -> FtpClient:
    """Return a client that is logged in with this version of TLS; None: without TLS."""
    made = FtpClient(daemon)
    if version is not None:
        made.start_tls(tls_context(version))
    return made.login(user)


def begin(client: FtpClient, line: str) -> socket.socket:
    """Open a data connection and send a transfer command, whose 150 is read. The connection has sent nothing."""
    connection = client.connect_data()
    client.expect(150, line)
    return connection


def hello(client: FtpClient, resume: bool = False) -> bytes:
    """Return a ClientHello that offers the session of a client, or none."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    assert isinstance(client.socket, ssl.SSLSocket)
    session = client.socket.session if resume else None
    tls = client.context.wrap_bio(incoming, outgoing, server_hostname="localhost", session=session)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def each_with_its_own(daemon: Daemon, version: ssl.TLSVersion, clients: int, transfers: int) -> None:
    """Let clients of one address transfer at the same time, each its own file; check every byte.

    Each uploads, downloads twice and lists, in turn, until it has done its transfers.
    """

    def run(number: int) -> None:
        name, content = f"file{number}", (b"%d " % number) * (1 + 997 * (number % 23))
        with client(daemon, version) as own:
            for turn in range(transfers):
                if turn % 4 == 0:
                    assert own.upload(f"STOR {name}", content).startswith("226 ")
                elif turn % 4 == 3:
                    assert own.download(f"NLST {name}") == name.encode() + b"\r\n"
                else:
                    assert own.download(f"RETR {name}") == content
        assert (daemon.home() / name).read_bytes() == content

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))
