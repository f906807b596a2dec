"""Uploads that are cut in every possible way. After each the daemon still serves."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable

import pytest

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured, tls_context
from tests.hostile import (
    BOTH,
    BYTES,
    MIB,
    Login,
    cut,
    frees_everything,
    open_transfer,
    plain_login,
    reset,
    wait_until,
    withstands,
)

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])

# --- uploads that are cut ----------------------------------------------------------------------------


@VERSIONS
def test_upload_whose_client_never_reads(shared: Daemon, version: ssl.TLSVersion) -> None:
    """An upload is complete even if its client closes without reading the TLS session tickets."""
    target = shared.home() / "unread"
    with withstands(shared), FtpClient(shared) as client:
        client.start_tls(tls_context(version))
        client.login()
        for number in range(5):
            target.unlink(missing_ok=True)
            data = open_transfer(client, "STOR unread")
            assert isinstance(data, ssl.SSLSocket)
            data.sendall(BYTES)
            data.settimeout(0)
            try:
                data.unwrap()  # close_notify is written; the peer's is not waited for
            except (ssl.SSLWantReadError, BlockingIOError):
                pass
            cut(data)
            reply = client.reply()
            assert reply.startswith("226"), (number, reply)
            assert target.read_bytes() == BYTES


def _with_reset(client: FtpClient, data: socket.socket) -> None:
    reset(data)


def _without_close_notify(client: FtpClient, data: socket.socket) -> None:
    cut(data)


def _with_control_lost(client: FtpClient, data: socket.socket) -> None:
    reset(client.socket)
    time.sleep(0.05)
    cut(data)


def _with_control_closed(client: FtpClient, data: socket.socket) -> None:
    client.socket.close()
    time.sleep(0.05)
    cut(data)


def _with_abort(client: FtpClient, data: socket.socket) -> None:
    client.send("ABOR")


def _with_telnet_abort(client: FtpClient, data: socket.socket) -> None:
    client.send_raw(b"\xff\xf4\xff\xf2ABOR\r\n")


CUTS = [
    _with_reset,
    _without_close_notify,
    _with_control_lost,
    _with_control_closed,
    _with_abort,
    _with_telnet_abort,
]


@pytest.mark.parametrize("way", CUTS, ids=lambda way: way.__name__[1:])
@BOTH
def test_cut_uploads_publish_nothing(plain: Daemon, login: Login, way: Callable[..., None]) -> None:
    """A cut upload gets 426, publishes nothing, and does not change the old file."""
    if login is plain_login and way is _without_close_notify:
        pytest.skip("in plain text this is how an upload ends")
    home = plain.home()
    (home / "old").write_bytes(b"old")
    (home / "new").unlink(missing_ok=True)
    with withstands(plain), frees_everything(plain):
        for name in ("old", "new"):
            with login(plain) as client:
                data = open_transfer(client, f"STOR {name}")
                data.sendall(BYTES[:MIB])
                way(client, data)
                if "control" not in way.__name__:
                    assert client.reply().startswith("426 ")
                    if "abort" in way.__name__:
                        assert client.reply().startswith("226 ")
                        data.close()
                    client.expect(200, "NOOP")
                    listed = client.download("NLST").decode()
                    assert "part" not in listed
        assert (home / "old").read_bytes() == b"old"
        assert not (home / "new").exists()
    if "control" in way.__name__:
        wait_until(lambda: "lost" in plain.log or "426" in plain.log, "the log tells of it")


def test_abort_with_urgent_data(plain: Daemon) -> None:
    """ABOR with Telnet's Synch signal, partly out of band, ends the transfer (BSD ftp, ftplib)."""
    ways = [
        [(b"\xff\xf4", 0), (b"\xff", socket.MSG_OOB), (b"\xf2ABOR\r\n", 0)],  # BSD ftp
        [(b"\xff\xf4\xff\xf2", socket.MSG_OOB), (b"ABOR\r\n", 0)],
        [(b"ABOR\r\n", socket.MSG_OOB)],  # ftplib
    ]
    with withstands(plain):
        for pieces in ways:
            with plain_login(plain) as client:
                client.socket.settimeout(3)
                data = open_transfer(client, "STOR urgent")
                data.sendall(b"x" * 1000)
                for piece, flags in pieces:
                    client.socket.send(piece, flags)
                assert client.reply().startswith("426 "), pieces
                assert client.reply().startswith("226 "), pieces
                client.expect(200, "NOOP")
                data.close()
    assert not (plain.home() / "urgent").exists()


@BOTH
def test_abort_in_the_segment_of_the_transfer_command(plain: Daemon, login: Login) -> None:
    """ABOR in the same segment as STOR or RETR ends the transfer, with or without a data connection."""
    (plain.home() / "sparse").touch()
    with (plain.home() / "sparse").open("r+b") as file:
        file.truncate(200 * MIB)
    with withstands(plain), login(plain) as client:
        client.socket.settimeout(5)
        for line in ("RETR sparse", "STOR hasty", "LIST"):
            for connected in (True, False):
                port = client.passive_port()
                data = client.connect_data(port) if connected else None
                client.send(line, "ABOR", "NOOP")
                replies = [client.reply()[:3]]
                while replies[-1] != "200":
                    replies.append(client.reply()[:3])
                assert replies in (["150", "426", "226", "200"], ["426", "226", "200"]), (line, replies)
                if data is not None:
                    data.close()
    assert not (plain.home() / "hasty").exists()


def test_an_aborted_upload_is_never_published(plain: Daemon) -> None:
    """An upload that ABOR has cut is never published, however close together bytes and ABOR arrive."""
    with withstands(plain), plain_login(plain) as client:
        for number in range(150):
            data = open_transfer(client, f"STOR cut{number}")
            data.sendall(b"x" * (number * 997))
            client.send("ABOR")
            assert client.reply().startswith("426"), number
            assert client.reply().startswith("226")
            assert not (plain.home() / f"cut{number}").exists()
            data.close()


def test_lenient_uploads_without_close_notify(make_daemon: Callable[..., Daemon]) -> None:
    """With `close_notify: lenient` FIN alone completes an upload; RST does not."""
    daemon = make_daemon({"tls": {"close_notify": "lenient"}})
    with withstands(daemon), secured(daemon) as client:
        data = open_transfer(client, "STOR fin")
        data.sendall(BYTES)
        cut(data)
        assert client.reply().startswith("226")
        assert (daemon.home() / "fin").read_bytes() == BYTES
        data = open_transfer(client, "STOR rst")
        data.sendall(BYTES[:MIB])
        time.sleep(0.1)
        reset(data)
        assert client.reply().startswith("426")
        data = open_transfer(client, "STOR abor")
        data.sendall(BYTES[:MIB])
        assert client.command("ABOR").startswith("426")
        assert client.reply().startswith("226")
    assert not (daemon.home() / "rst").exists()
    assert not (daemon.home() / "abor").exists()


def end_below_tls(data: ssl.SSLSocket, rest: bytes = b"") -> None:
    """Send bytes and FIN on the connection below TLS."""
    with socket.socket(fileno=os.dup(data.fileno())) as raw:
        raw.sendall(rest)
        raw.shutdown(socket.SHUT_WR)


@VERSIONS
@pytest.mark.parametrize("size", [0, 1000])
def test_lenient_uploads_end_properly_for_the_client(
    make_daemon: Callable[..., Daemon], version: ssl.TLSVersion, size: int
) -> None:
    """With `close_notify: lenient` a client that sends FIN without close_notify gets close_notify, and no alert.

    Node.js sends no close_notify after an empty file, and takes an alert for a failure of the transfer.
    """
    daemon = make_daemon({"tls": {"close_notify": "lenient", "data_session": "allow"}})
    with withstands(daemon), FtpClient(daemon) as client:
        client.start_tls(tls_context(version))
        client.login()
        connection = client.connect_data()
        client.expect(150, "STOR fin")
        data = client.secure_data(connection, ragged=False)
        data.sendall(bytes(size))
        end_below_tls(data)
        assert data.recv(1) == b""
        assert client.reply().startswith("226")
        data.close()
    assert (daemon.home() / "fin").read_bytes() == bytes(size)


@VERSIONS
@pytest.mark.parametrize("rest", [b"\x17", b"\x17\x03\x03\x10\x00", b"\x17\x03\x03\x10\x00" + bytes(4095)])
def test_lenient_uploads_that_end_within_a_record(
    make_daemon: Callable[..., Daemon], version: ssl.TLSVersion, rest: bytes
) -> None:
    """With `close_notify: lenient` an upload that ends in the middle of a TLS record was cut, and is not published."""
    daemon = make_daemon({"tls": {"close_notify": "lenient", "data_session": "allow"}})
    with withstands(daemon), FtpClient(daemon) as client:
        client.start_tls(tls_context(version))
        client.login()
        connection = client.connect_data()
        client.expect(150, "STOR within")
        data = client.secure_data(connection, ragged=False)
        for _ in range(20):
            data.sendall(BYTES[:20_000])
        end_below_tls(data, rest)
        assert client.reply().startswith("426 The data connection ended in the middle of a TLS record")
        data.close()
    assert not (daemon.home() / "within").exists()


@pytest.mark.parametrize(("general", "own"), [("require", "lenient"), ("lenient", "require")])
def test_lenient_for_one_user(make_daemon: Callable[..., Daemon], general: str, own: str) -> None:
    """A user's own `close_notify` holds for that user only, also in a session that other users had before."""
    daemon = make_daemon({"tls": {"close_notify": general}}, users={"alice": {"tls": {"close_notify": own}}, "bob": {}})
    with withstands(daemon), secured(daemon, "bob") as client:
        for user, setting in (("bob", general), ("alice", own), ("bob", general)):
            client.login(user)
            data = open_transfer(client, "STOR fin")
            data.sendall(BYTES)
            cut(data)
            assert client.reply().startswith("226" if setting == "lenient" else "426")
            assert (daemon.home(user) / "fin").exists() is (setting == "lenient")


def test_a_cut_replacement_is_never_mixed_with_the_old_file(shared: Daemon) -> None:
    """After a cut upload over an old file, a client cannot resume with the old file as its beginning."""
    home = shared.home()
    (home / "kept").write_bytes(b"old" * 10)
    with withstands(shared), secured(shared) as client:
        data = open_transfer(client, "STOR kept")
        data.sendall(b"new, ")
        wait_until(lambda: " 5 bytes " in client.command("STAT"), "it has arrived")  # a reset drops what has not
        reset(data)
        assert client.reply().startswith("426 ")
        client.expect(213, "SIZE kept")
        for line in ("APPE kept", "REST 30"):
            client.passive_port()
            reply = client.command(line)
            if reply.startswith("350"):
                reply = client.command("STOR kept")
            assert reply.startswith("550 ")
            assert "incomplete upload of 5 bytes" in reply
        client.expect(350, "REST 5")
        assert client.upload("STOR kept", b"and whole").startswith("226 ")
    assert (home / "kept").read_bytes() == b"new, and whole"


def test_a_cut_append_leaves_nothing(shared: Daemon) -> None:
    """A cut APPE does not change the file, and the next APPE appends to it."""
    home = shared.home()
    (home / "log").write_bytes(b"one\n")
    with withstands(shared), secured(shared) as client:
        data = open_transfer(client, "APPE log")
        data.sendall(b"tw")
        reset(data)
        assert client.reply().startswith("426 ")
        assert client.upload("APPE log", b"two\n").startswith("226 ")
    assert (home / "log").read_bytes() == b"one\ntwo\n"


def test_two_appends_at_once(shared: Daemon) -> None:
    """A second APPE to the same file gets 450 while the first runs: both would start at the same end."""
    home = shared.home()
    (home / "log").write_bytes(b"old\n")
    with withstands(shared), secured(shared) as one, secured(shared) as two:
        data = open_transfer(one, "APPE log")
        data.sendall(b"one\n")
        two.passive_port()
        two.expect(450, "APPE log")
        assert isinstance(data, ssl.SSLSocket)
        data.unwrap().close()
        assert one.reply().startswith("226 ")
        assert two.upload("APPE log", b"two\n").startswith("226 ")
    assert (home / "log").read_bytes() == b"old\none\ntwo\n"


def test_a_directory_with_a_running_upload_stays(shared: Daemon) -> None:
    """RMD of a directory with a running upload is refused, and the upload is completed."""
    (shared.home() / "busy").mkdir(exist_ok=True)
    with withstands(shared), secured(shared) as one, secured(shared) as two:
        data = open_transfer(one, "STOR busy/file")
        data.sendall(b"whole")
        two.expect(550, "RMD busy")
        assert isinstance(data, ssl.SSLSocket)
        data.unwrap().close()
        assert one.reply().startswith("226 ")
    assert (shared.home() / "busy" / "file").read_bytes() == b"whole"
