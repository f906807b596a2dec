"""Shared by the hostile tests: ways to end a connection abruptly, and the proof that nothing was harmed."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, read_all, secured

MIB = 1024 * 1024
BYTES = random.Random(3).randbytes(3 * MIB)

Login = Callable[[Daemon], FtpClient]


@contextmanager
def withstands(daemon: Daemon) -> Iterator[None]:
    """Check that the daemon serves after the body, and has logged no traceback meanwhile."""
    before = len(daemon.log)
    yield
    with secured(daemon) as client:
        client.expect(200, "NOOP")
        client.download("NLST")
        client.expect(221, "QUIT")
    assert "Traceback" not in daemon.log[before:], daemon.log[before:]


@contextmanager
def frees_everything(daemon: Daemon) -> Iterator[None]:
    """Check that the daemon has as many open descriptors after the body as before."""
    with secured(daemon):
        pass  # what is opened once for the whole life of the process is open now
    wait_until(lambda: not established(daemon), "sessions of other tests end")
    before = daemon.open_files()
    yield
    wait_until(lambda: daemon.open_files() <= before, f"no more than {before} descriptors")


def established(daemon: Daemon) -> bool:
    """Return whether any control connection is open."""
    ports = {daemon.port, daemon.implicit_port}
    for row in Path(f"/proc/{daemon.pid}/net/tcp").read_text().splitlines()[1:]:
        fields = row.split()
        if fields[3] == "01" and int(fields[1].partition(":")[2], 16) in ports:
            return True
    return False


def listening(daemon: Daemon) -> set[int]:
    """Return the passive ports that are open now."""
    low, high = daemon.passive
    rows = [row.split() for row in Path(f"/proc/{daemon.pid}/net/tcp").read_text().splitlines()[1:]]
    ports = {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
    return {port for port in ports if low <= port <= high}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fail with `what` if it does not."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def reset(connection: socket.socket) -> None:
    """End a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def cut(connection: socket.socket) -> None:
    """End a connection with FIN; under TLS, without close_notify."""
    if isinstance(connection, ssl.SSLSocket):
        connection = socket.socket(fileno=connection.detach())
    connection.close()


def ends(client: FtpClient) -> str:
    """Return all that the server sends until it closes the connection."""
    said = b""
    while line := client.read_line():
        said += line
    return said.decode("utf-8", "surrogateescape")


def plain_login(daemon: Daemon, user: str = "alice") -> FtpClient:
    """Return a client that is logged in without TLS."""
    return FtpClient(daemon).login(user)


def open_transfer(client: FtpClient, line: str) -> socket.socket:
    """Begin a transfer. Return its data connection, after the 150."""
    connection = client.connect_data()
    client.expect(150, line)
    if isinstance(client.socket, ssl.SSLSocket):
        return client.secure_data(connection)
    return connection


def attempts(client: FtpClient, path: str) -> str:
    """Try every command on a path. Return all replies and data."""
    said = []
    for line in (f"SIZE {path}", f"MDTM {path}", f"MLST {path}", f"STAT {path}", f"CWD {path}", "CWD /"):
        said.append(client.command(line))
    for line in (f"MFMT 20200101000000 {path}", f"SITE CHMOD 777 {path}", f"HASH {path}", f"MKD {path}/made"):
        said.append(client.command(line))
    for line in (
        f"RETR {path}",
        f"LIST {path}/",
        f"NLST {path}",
        f"MLSD {path}",
        f"STOR {path}",
        f"APPE {path}",
    ):
        connection = client.connect_data()
        said.append(client.command(line))
        if said[-1].startswith("150"):
            data = client.secure_data(connection)
            if line[:4] in ("STOR", "APPE"):
                data.sendall(b"spoilt")
            else:
                said.append(read_all(data).decode())
            data.unwrap().close()
            said.append(client.reply())
        connection.close()
    return "\n".join(said)


def snapshot(directory: Path) -> dict[str, Any]:
    """Return all names, modes, times and contents below a directory."""
    return {
        str(path): (
            path.lstat().st_mode,
            path.lstat().st_mtime,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [directory, *directory.rglob("*")]
    }


#: For tests of what is the same in plain text and under TLS.
BOTH = pytest.mark.parametrize("login", [plain_login, secured], ids=["plain", "TLS"])
