"""Commands and transfers of a client that ends its input: with FIN, or close_notify under TLS."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable

import pytest

from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient, read_all, secured
from tests.hostile import (
    BOTH,
    BYTES,
    MIB,
    Login,
    cut,
    ends,
    frees_everything,
    open_transfer,
    plain_login,
    reset,
    wait_until,
    withstands,
)

#: How a client ends its input, by the name of the test's parameter.
Ending = Callable[[FtpClient, bytes], None]


def _fin(client: FtpClient, last: bytes) -> None:
    """Send the last bytes and FIN."""
    client.send_raw(last)
    _shutdown(client)


def _shutdown(client: FtpClient) -> None:
    with socket.socket(fileno=os.dup(client.socket.fileno())) as raw:
        raw.shutdown(socket.SHUT_WR)


def _close_notify(client: FtpClient, last: bytes) -> None:
    """Send the last bytes and close_notify in one segment, without FIN.

    Python's `ssl` reads after its own close_notify and fails if there is a reply. So `unwrap` writes to another socket,
    and the bytes are sent from there.
    """
    assert isinstance(client.socket, ssl.SSLSocket)
    number = client.socket.fileno()
    ours, theirs = socket.socketpair()
    with socket.socket(fileno=os.dup(number)) as wire, ours, theirs:
        os.dup2(ours.fileno(), number)
        client.send_raw(last)
        client.socket.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            client.socket.unwrap()
        os.dup2(wire.fileno(), number)
        client.socket.settimeout(PATIENCE)
        wire.sendall(theirs.recv(MIB))


def _both(client: FtpClient, last: bytes) -> None:
    _close_notify(client, last)
    _shutdown(client)


ENDINGS = pytest.mark.parametrize(
    ("login", "end"),
    [(plain_login, _fin), (secured, _fin), (secured, _close_notify), (secured, _both)],
    ids=["plain", "TLS", "close_notify", "close_notify, FIN"],
)


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


def _replies(client: FtpClient) -> list[str]:
    """Return the codes of all further replies. Python's `ssl` can read after its own close_notify."""
    return [line[:3] for line in ends(client).splitlines()]


# --- commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["QUIT", "NOOP"])
def test_a_script_that_does_not_wait(plain: Daemon, last: str) -> None:
    """Login and commands in one segment with FIN, as cameras send them, are carried out and answered."""
    made = plain.home() / f"by-{last}"
    with socket.create_connection((plain.host, plain.port), PATIENCE) as connection:
        connection.sendall(_lines("USER alice", "PASS secret", f"MKD {made.name}", last))
        connection.shutdown(socket.SHUT_WR)
        said = read_all(connection)
    assert [line[:3] for line in said.splitlines()] == [
        b"220",
        b"331",
        b"230",
        b"257",
        b"221" if last == "QUIT" else b"200",
    ]
    assert made.is_dir()
    made.rmdir()


@ENDINGS
@pytest.mark.parametrize("quit_", [True, False], ids=["QUIT", "no QUIT"])
def test_all_commands_are_answered(plain: Daemon, login: Login, end: Ending, quit_: bool) -> None:
    """Commands that arrived before the end of the input are carried out and answered in order, however many wait."""
    with login(plain) as client:
        commands = [f"MKD d{number}" for number in range(150)] + [f"RMD d{number}" for number in range(150)]
        end(client, _lines(*commands, *["QUIT"] * quit_))
        assert _replies(client) == ["257"] * 150 + ["250"] * 150 + ["221"] * quit_


@BOTH
def test_a_command_that_is_cut_is_not_carried_out(plain: Daemon, login: Login) -> None:
    """A last line without line end may be cut, and is not carried out."""
    with login(plain) as client:
        _fin(client, b"MKD whole\r\nRMD who")
        assert _replies(client) == ["257"]
    with login(plain) as client:
        _fin(client, b"RMD whole\r\nMKD b")
        assert _replies(client) == ["250"]
    assert not (plain.home() / "b").exists()


def test_the_input_may_end_before_anything(plain: Daemon) -> None:
    """A client that ends its input without a command gets the greeting, and the daemon closes."""
    with frees_everything(plain):
        for line in (b"", b"AUTH TLS\r\n"):
            with FtpClient(plain) as client:
                _fin(client, line)
                assert _replies(client) == (["234"] if line else [])
        with socket.create_connection((plain.host, plain.implicit_port), PATIENCE) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection) == b""


# --- transfers ---------------------------------------------------------------------------------------


@ENDINGS
def test_a_download_is_completed(plain: Daemon, login: Login, end: Ending) -> None:
    """A download that runs when the input ends is completed."""
    (plain.home() / "large").write_bytes(BYTES * 4)
    with login(plain) as client:
        data = open_transfer(client, "RETR large")
        end(client, b"")
        assert read_all(data) == BYTES * 4
        data.close()
        assert _replies(client) == ["226"]


@ENDINGS
def test_an_upload_is_completed(plain: Daemon, login: Login, end: Ending) -> None:
    """An upload that runs when the input ends is completed if it ends properly; without TLS it must not pause."""
    target = plain.home() / "stored"
    target.unlink(missing_ok=True)
    with login(plain) as client:
        data = open_transfer(client, "STOR stored")
        end(client, b"")
        data.sendall(BYTES)
        if isinstance(data, ssl.SSLSocket):
            data = data.unwrap()
        data.close()
        assert _replies(client) == ["226"]
    assert target.read_bytes() == BYTES


@ENDINGS
def test_transfers_that_have_not_begun(plain: Daemon, login: Login, end: Ending) -> None:
    """The input may end before the client has connected, and while a transfer waits for another one."""
    (plain.home() / "file").write_bytes(BYTES)
    with login(plain) as client:
        port = client.passive_port()
        end(client, _lines("RETR file", "NOOP", "QUIT"))
        assert client.reply().startswith("150 ")
        data = client.connect_data(port)
        if login is secured:
            data = client.secure_data(data)
        assert read_all(data) == BYTES
        data.close()
        assert _replies(client) == ["226", "200", "221"]


@BOTH
def test_quit_lets_an_upload_end(plain: Daemon, login: Login) -> None:
    """After QUIT an end of the input is expected: an upload may pause, also without TLS."""
    target = plain.home() / "paused"
    target.unlink(missing_ok=True)
    with login(plain) as client:
        data = open_transfer(client, "STOR paused")
        _fin(client, b"QUIT\r\n")
        time.sleep(0.3)
        data.sendall(BYTES[:1000])
        if isinstance(data, ssl.SSLSocket):
            data = data.unwrap()
        data.close()
        assert _replies(client) == ["226", "221"]
    assert target.read_bytes() == BYTES[:1000]


def test_a_killed_client_publishes_nothing(plain: Daemon) -> None:
    """Without TLS and QUIT, an upload that pauses when the control connection ends is treated as cut."""
    target = plain.home() / "killed"
    target.unlink(missing_ok=True)
    with plain_login(plain) as client:
        data = open_transfer(client, "STOR killed")
        data.sendall(BYTES[:1000])
        _fin(client, b"")
        assert _replies(client) == ["426"]
        data.close()
    assert not target.exists()


@ENDINGS
def test_abort_and_the_end(plain: Daemon, login: Login, end: Ending) -> None:
    """ABOR before the end of the input aborts the running transfer, and both commands are answered."""
    with frees_everything(plain), login(plain) as client:
        data = open_transfer(client, "STOR aborted-by-ABOR")
        data.sendall(BYTES[:1000])
        end(client, _lines("ABOR"))
        assert _replies(client) == ["426", "226"]
        data.close()
    assert not (plain.home() / "aborted-by-ABOR").exists()


# --- limits ------------------------------------------------------------------------------------------


@BOTH
def test_a_transfer_that_never_comes_ends(impatient: Daemon, login: Login) -> None:
    """A session whose input has ended does not outlive the deadlines of its transfer."""
    with frees_everything(impatient), login(impatient) as client:
        client.passive_port()
        _fin(client, _lines("RETR nothing", "LIST"))
        replies = _replies(client)
        assert replies[0] in ("150", "550") and "425" in replies


@ENDINGS
@pytest.mark.parametrize("many", [1, 200])
def test_a_reset_frees_everything(plain: Daemon, login: Login, end: Ending, many: int) -> None:
    """A reset after the end of the input, or after more commands than are read, ends the transfer immediately."""
    with withstands(plain), frees_everything(plain), login(plain) as client:
        data = open_transfer(client, "STOR reset")
        data.sendall(BYTES[:1000])
        end(client, _lines(*["NOOP"] * many, "QUIT"))
        time.sleep(0.1)
        before = plain.open_files()
        reset(client.socket)
        wait_until(lambda: plain.open_files() < before - 1, "control and data connection are closed")
        data.close()


def test_unread_replies_end_the_session(make_daemon: Callable[..., Daemon]) -> None:
    """A client that has ended its input and does not read its replies is disconnected after the idle time."""
    daemon = make_daemon(merge(PLAIN, {"timeouts": {"idle": 1}, "limits": {"commands_per_second": 100000}}))
    with withstands(daemon), frees_everything(daemon):
        client = plain_login(daemon)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _fin(client, _lines(*["HELP"] * 5000))
        wait_until(lambda: "disconnected" in daemon.log.rpartition("HELP")[2], "the session ends")
        cut(client.socket)


@BOTH
def test_closed_sessions_are_freed(plain: Daemon, login: Login) -> None:
    """A client that closes the connection during a download leaves nothing open."""
    (plain.home() / "huge").write_bytes(bytes(64 * MIB))
    with frees_everything(plain):
        client = login(plain)
        data = open_transfer(client, "RETR huge")
        data.recv(1000)
        cut(client.socket)
        cut(data)
