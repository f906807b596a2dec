"""Files that become shorter while they are read."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PLAIN
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all, secured
from tests.hostile import BOTH, MIB, Login, plain_login, withstands

#: More than sockets hold, so that the daemon has not read to the end when the file is cut.
SIZE = 64 * MIB

SHORTER = "451 File became shorter while it was read."


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon that permits plain text, and has a rate limit for bob."""
    users = {"alice": {}, "bob": {"limits": {"download_rate": "1G"}}}
    daemon = Daemon(tmp_path_factory.mktemp("shorter"), certificate, PLAIN, users).start()
    yield daemon
    daemon.stop()


def _file(daemon: Daemon, user: str, size: int = SIZE) -> Path:
    path = daemon.home(user) / "file"
    path.write_bytes(b"")
    os.truncate(path, size)
    return path


def _ends_without_close_notify(data: ssl.SSLSocket) -> int:
    received = 0
    with pytest.raises(ssl.SSLError, match="EOF"):
        while piece := data.recv(MIB):
            received += len(piece)
    return received


@pytest.mark.parametrize("user", ["alice", "bob"], ids=["unlimited", "limited"])
@pytest.mark.parametrize(
    "prepare", [(), ("TYPE A",), ("REST 5",), ("RANG 5 60000000",)], ids=lambda lines: "".join(lines)
)
@BOTH
def test_a_download(daemon: Daemon, login: Login, prepare: tuple[str, ...], user: str) -> None:
    """If the file becomes shorter, the download gets 451, and under TLS it ends without close_notify."""
    path = _file(daemon, user)
    with withstands(daemon), login(daemon, user) as client:
        connection = client.connect_data()
        for line in prepare:
            client.command(line)
        client.expect(150, "RETR file")
        data = client.secure_data(connection, ragged=False) if login is secured else connection
        assert data.recv(1)
        os.truncate(path, MIB)
        if isinstance(data, ssl.SSLSocket):
            assert _ends_without_close_notify(data) < SIZE
        else:
            assert len(read_all(data)) < SIZE
        data.close()
        assert client.reply() == SHORTER
        client.expect(200, "TYPE I")
        assert len(client.download("RETR file")) == MIB


@pytest.mark.parametrize("size", [0, MIB], ids=["nothing", "some"])
def test_a_checksum(daemon: Daemon, size: int) -> None:
    """HASH never returns the digest of bytes that it has not read: it gets 451 if the file becomes shorter."""
    path = _file(daemon, "alice", 8192 * MIB)
    with withstands(daemon), secured(daemon) as client:
        for line in ("HASH file", "RANG 7 8000000000", "HASH file"):
            client.send(line)
            if line.startswith("HASH"):
                time.sleep(0.1)
                os.truncate(path, size)
                assert client.reply() == SHORTER
                os.truncate(path, 8192 * MIB)
            else:
                assert client.reply().startswith("350")
    path.unlink()


@BOTH
def test_a_file_that_grows(daemon: Daemon, login: Callable[[Daemon], FtpClient]) -> None:
    """A download ends where the file ended at its beginning: curl closes a connection that sends more than SIZE."""
    path = _file(daemon, "alice")
    with withstands(daemon), login(daemon) as client:
        connection = client.connect_data()
        client.expect(150, "RETR file")
        data = client.secure_data(connection) if login is secured else connection
        assert data.recv(1)
        with path.open("ab") as file:
            file.write(b"more")
        assert len(read_all(data)) == SIZE - 1
        if isinstance(data, ssl.SSLSocket):
            data.unwrap()
        assert client.reply().startswith("226 ")
        data.close()
        assert len(client.download("RETR file")) == SIZE + 4


def test_checksums_at_the_end_of_a_file(daemon: Daemon) -> None:
    """HASH returns the range that it has read, also of an empty file, an early end, and an empty range."""
    with withstands(daemon), plain_login(daemon) as client:
        _file(daemon, "alice", 0)
        assert client.expect(213, "HASH file").split()[2] == "0-0"
        client.expect(350, "RANG 5 9")
        client.expect(554, "HASH file")
        _file(daemon, "alice", 7)
        client.expect(350, "RANG 5 9")
        assert client.expect(213, "HASH file").split()[2] == "5-6"
        client.expect(350, "REST 7")
        assert client.command("HASH file") == "554 File has only 7 bytes."
