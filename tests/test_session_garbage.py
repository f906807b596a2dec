"""What ended sessions leave in memory: nothing, without any garbage collection.

A full collection that frees a thousand sessions at once would keep all clients waiting for a fifth of a second.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import counted_twistd
from tests.admin import Admin
from tests.conftest import PLAIN
from tests.daemon import Daemon, merge, one_process
from tests.ftpclient import FtpClient, tls_context
from tests.hostile import ends, open_transfer, reset, wait_until

pytestmark = one_process("the objects of one process are counted, and a worker has the same ones")

SETTINGS = merge(
    PLAIN,
    {"admin": {"socket": "admin.sock"}, "timeouts": {"login": 5, "idle": 60, "data_connect": 1, "stalled": 1}},
)

#: The objects of a session, and those of its transfers.
CLASSES = {
    "FtpsProtocol", "Session", "CommandRunner", "CommandQueue", "InputFlow", "Task", "Login", "SessionEvents",
    "ControlConnection", "ControlChannel", "Output", "ResetWatch", "TlsEngine",
    "DataChannel", "Connector", "ClientPeers", "PassiveConnection", "Listener", "Transfer", "Deadlines", "Timer",
    "PlainStream", "TlsSender", "TlsReceiver", "Handshakes", "Handshake", "FileSource", "Upload",
    "Context", "Connection", "_ALPNSelectHelper",
}  # fmt: skip


class CountedDaemon(Daemon):
    """A daemon that tells which objects it has."""

    def command(self) -> list[str]:
        """Return the command that runs it."""
        return [sys.executable, counted_twistd.__file__, "-n", "--pidfile=", "ftpsd", "-c", str(self.config)]

    def counts(self) -> dict[str, int]:
        """Return how many objects of a session there are, by class."""
        before = self.log.count("objects: ")
        os.kill(self.pid, signal.SIGUSR2)
        wait_until(lambda: self.log.count("objects: ") > before and self.log.endswith("\n"), "the numbers")
        found = json.loads(self.log.rpartition("objects: ")[2].partition("\n")[0])
        return {name: count for name, count in found.items() if name in CLASSES}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[CountedDaemon]:
    """A daemon that has served already, so that it has what is made once."""
    directory = tmp_path_factory.mktemp("counted")
    daemon = CountedDaemon(directory, certificate, SETTINGS)
    (daemon.home() / "big").write_bytes(bytes(8_000_000))
    daemon.start()
    try:
        for login in LOGINS.values():
            stored(login(daemon))
        yield daemon
    finally:
        daemon.stop()


# --- how sessions begin --------------------------------------------------------------------------


def explicit(daemon: Daemon, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> FtpClient:
    """Log in after AUTH TLS, with ALPN."""
    client = FtpClient(daemon, context=tls_context(version, ("ftp",)))
    client.start_tls()
    return client.login()


LOGINS: dict[str, Callable[[Daemon], FtpClient]] = {
    "plain": lambda daemon: FtpClient(daemon).login(),
    "explicit": explicit,
    "explicit 1.2": lambda daemon: explicit(daemon, ssl.TLSVersion.TLSv1_2),
    "implicit": lambda daemon: FtpClient(daemon, implicit=True).login(),
}

# --- how they end --------------------------------------------------------------------------------


def quits(client: FtpClient) -> None:
    """QUIT."""
    client.expect(221, "QUIT")
    assert not client.read_line()
    client.socket.close()


def finishes(client: FtpClient) -> None:
    """FIN, without close_notify."""
    client.socket.close()


def resets(client: FtpClient) -> None:
    """RST."""
    reset(client.socket)


def stored(client: FtpClient) -> None:
    """An upload, a download and a listing, then QUIT."""
    assert client.upload("STOR small", b"data").startswith("226")
    assert client.download("RETR small") == b"data"
    client.download("MLSD")
    quits(client)


def active(client: FtpClient) -> None:
    """An upload in active mode."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client.expect(200, f"EPRT |1|127.0.0.1|{listener.getsockname()[1]}|")
        client.send("STOR active")
        connection: socket.socket = listener.accept()[0]
        assert client.reply().startswith("150")
        if isinstance(client.socket, ssl.SSLSocket):
            connection = client.secure_data(connection)
            connection = connection.unwrap()  # type: ignore[attr-defined]
        connection.close()
        assert client.reply().startswith("226")
    quits(client)


def failed(client: FtpClient) -> None:
    """Commands that fail, in this thread and in a worker thread."""
    for line in ("CWD nothing", "SIZE nothing", "NO", "REST x", "RETR nothing", "PORT 1,2,3,4,5,6"):
        assert client.command(line)[0] in "45"
    quits(client)


def unused(client: FtpClient) -> None:
    """A passive port to which nobody connects."""
    client.passive_port()
    finishes(client)


def missed(client: FtpClient) -> None:
    """A transfer whose data connection does not come in time."""
    client.passive_port()
    client.send("STOR missed")
    assert client.reply().startswith("150")
    assert client.reply().startswith("425")
    quits(client)


def connected(client: FtpClient) -> None:
    """A data connection that is opened, and not used."""
    with client.connect_data():
        client.expect(200, "NOOP")
        finishes(client)


def aborted(client: FtpClient) -> None:
    """ABOR during a download."""
    with open_transfer(client, "RETR big") as data:
        assert data.recv(1)
        client.send("ABOR")
        assert client.reply().startswith("426")
        assert client.reply().startswith("226")
    quits(client)


def stalled(client: FtpClient) -> None:
    """An upload that gets no data."""
    with open_transfer(client, "STOR stalled"):
        assert client.reply().startswith("426")
    quits(client)


def lost(client: FtpClient) -> None:
    """RST of the control connection during a download."""
    with open_transfer(client, "RETR big") as data:
        assert data.recv(1)
        resets(client)


def published_late(client: FtpClient) -> None:
    """RST of the control connection during an upload, which then ends."""
    data = open_transfer(client, "STOR late")
    data.sendall(b"data")
    resets(client)
    if isinstance(data, ssl.SSLSocket):
        data = data.unwrap()
    data.close()


def cleared(client: FtpClient) -> None:
    """CCC or REIN, then FIN."""
    if isinstance(client.socket, ssl.SSLSocket):
        client.expect(200, "CCC")
        client.socket = client.socket.unwrap()
    client.expect(220, "REIN")
    finishes(client)


ENDS = (
    quits, finishes, resets, stored, active, failed, unused, missed, connected, aborted, stalled, lost, published_late,
    cleared,
)  # fmt: skip


@pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS)
def test_nothing_is_left(daemon: CountedDaemon, login: Callable[[Daemon], FtpClient]) -> None:
    """Sessions are freed when they end, however that is."""
    before = daemon.counts()
    for end in ENDS:
        for _ in range(2):
            end(login(daemon))
        wait_until(lambda: _more(daemon.counts(), before) == {}, f"freed after {end.__name__}")


def _more(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}


def test_sessions_that_the_daemon_ends(daemon: CountedDaemon) -> None:
    """A kick, also during a transfer, a login that takes too long and a handshake that fails leave nothing, either."""
    admin = Admin(daemon.directory / "admin.sock")
    before = daemon.counts()
    for login in LOGINS.values():
        client, busy = login(daemon), login(daemon)
        with open_transfer(busy, "RETR big") as data:
            assert data.recv(1)
            assert admin.delete("sessions", user="alice", now="true") == {"dismissed": 2}
            assert "421" in ends(client) and "421" in ends(busy)
        client.socket.close()
        busy.socket.close()
    with FtpClient(daemon) as slow, FtpClient(daemon) as wrong:
        wrong.expect(234, "AUTH TLS")
        wrong.send_raw(b"no TLS\r\n")
        while wrong.socket.recv(100):
            pass
        assert "421" in ends(slow)
    wait_until(lambda: _more(daemon.counts(), before) == {}, "freed")
