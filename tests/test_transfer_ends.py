"""The order of a transfer's beginning and end and of its control connection: what is published, and what comes first."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable

import pytest

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all, secured
from tests.hostile import BOTH, BYTES, MIB, Login, cut, ends, open_transfer, plain_login, reset, wait_until, withstands

CONTENT = BYTES * 3


def _end_properly(data: socket.socket) -> None:
    """End the data stream as an upload should, and wait for nothing."""
    if isinstance(data, ssl.SSLSocket):
        data.settimeout(0)
        try:
            data.unwrap()  # writes close_notify
        except ssl.SSLError:
            pass
    cut(data)


def _close(client: FtpClient) -> None:
    cut(client.socket)


def _reset(client: FtpClient) -> None:
    reset(client.socket)


@pytest.mark.parametrize("quits", [True, False], ids=["QUIT", "no QUIT"])
@pytest.mark.parametrize("go", [_close, _reset])
@BOTH
def test_a_complete_upload_of_a_client_that_has_gone(
    plain: Daemon, login: Login, go: Callable[[FtpClient], None], quits: bool
) -> None:
    """An upload whose data stream has ended properly is published, even if the control connection is lost immediately."""
    with withstands(plain):
        for number in range(10):
            path = plain.home() / f"complete{number}"
            path.unlink(missing_ok=True)
            client = login(plain)
            data = open_transfer(client, f"STOR {path.name}")
            data.sendall(CONTENT)
            _end_properly(data)
            if quits:
                client.send("QUIT")
            go(client)
            wait_until(path.exists, f"{path.name} is published")
            assert path.read_bytes() == CONTENT


def test_a_complete_upload_at_a_limited_rate(make_daemon: Callable[..., Daemon]) -> None:
    """A complete upload is published even if a rate limit delays its last bytes until after the client has gone."""
    daemon = make_daemon(users={"alice": {"limits": {"upload_rate": "2M"}}, "bob": {}})
    path = daemon.home() / "slow"
    client = secured(daemon)
    data = open_transfer(client, "STOR slow")
    data.sendall(BYTES[: MIB + MIB // 2])
    _end_properly(data)
    reset(client.socket)
    wait_until(path.exists, "the upload is published")
    assert path.stat().st_size == MIB + MIB // 2


@pytest.mark.parametrize("go", [_close, _reset])
@BOTH
def test_an_upload_that_ends_after_its_client(plain: Daemon, login: Login, go: Callable[[FtpClient], None]) -> None:
    """An upload whose control connection is lost before the end of its data stream publishes nothing.

    A FIN only ends the client's commands. A later close_notify proves that the file is complete; a FIN of the data
    connection does not, since a client that is killed sends one.
    """
    path = plain.home() / "orphan"
    for proper in (True, False):
        path.unlink(missing_ok=True)
        client = login(plain)
        data = open_transfer(client, "STOR orphan")
        data.sendall(CONTENT)
        go(client)
        time.sleep(0.5)  # the daemon has seen it, and has found nothing on its way any more
        proven = proper and go is _close and isinstance(data, ssl.SSLSocket)
        try:
            (_end_properly if proper else cut)(data)
        except OSError:
            data.close()
        if proven:
            wait_until(path.exists, "the upload is published")
        time.sleep(0.1)
        assert path.exists() == proven


@BOTH
def test_an_abort_at_the_very_end(plain: Daemon, login: Login) -> None:
    """ABOR at the end of an upload: 226 if and only if the file is published."""
    with withstands(plain), login(plain) as client:
        for number in range(60):
            path = plain.home() / "aborted"
            path.unlink(missing_ok=True)
            data = open_transfer(client, "STOR aborted")
            data.sendall(BYTES[:10_000])
            _end_properly(data)
            time.sleep(number % 12 * 0.0002)
            client.send("ABOR")
            reply = client.reply()
            if reply.startswith("226 Transfer"):
                assert client.reply().startswith(("226 No transfer", "225 "))
            else:
                assert reply.startswith("426 "), reply
                assert client.reply() == "226 Abort successful."
            assert path.exists() == reply.startswith("226 "), reply


@BOTH
def test_an_abort_before_the_end_of_the_input(plain: Daemon, login: Login) -> None:
    """The same if the client ends its input after ABOR, as a script does."""
    path = plain.home() / "aborted-at-the-end"
    with withstands(plain):
        for number in range(24):
            path.unlink(missing_ok=True)
            with login(plain) as client:
                data = open_transfer(client, f"STOR {path.name}")
                data.sendall(BYTES[:10_000])
                _end_properly(data)
                time.sleep(number % 12 * 0.0002)
                client.send("ABOR")
                with socket.socket(fileno=os.dup(client.socket.fileno())) as raw:
                    raw.shutdown(socket.SHUT_WR)
                replies = [line[:3] for line in ends(client).splitlines()]
            assert replies in (["226", "226"], ["426", "226"])
            assert path.exists() == (replies[0] == "226"), replies


@pytest.mark.parametrize("line", ["RETR first", "LIST", "NLST", "MLSD"])
@pytest.mark.parametrize("active", [False, True], ids=["passive", "active"])
def test_150_comes_before_the_first_byte(plain: Daemon, line: str, active: bool) -> None:
    """In a plain-text download the 150 is sent before the first byte of data."""
    (plain.home() / "first").write_bytes(b"first")
    with withstands(plain), plain_login(plain) as client:
        for _ in range(40):
            if active:
                with socket.create_server(("127.0.0.1", 0)) as server:
                    client.expect(200, f"EPRT |1|127.0.0.1|{server.getsockname()[1]}|")
                    client.send(line)
                    data, _ = server.accept()
            else:
                data = client.connect_data()
                client.send(line)
            data.recv(1, socket.MSG_PEEK)
            client.socket.settimeout(0)  # it must be there already
            try:
                assert client.reply().startswith("150 ")
            finally:
                client.socket.settimeout(5)
            assert read_all(data) or line != "RETR first"
            data.close()
            assert client.reply().startswith("226 ")
