"""How TLS ends: the alerts that count as a proper end, and those that do not."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, read_all, tls_context
from tests.hostile import ends, withstands
from tests.records import CLOSE_NOTIFY, HANDSHAKE_FAILURE, USER_CANCELED, RecordClient

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])

#: Java sends user_canceled and close_notify; others only close_notify.
PROPER = {
    "Java": (USER_CANCELED, CLOSE_NOTIFY),
    "twice": (USER_CANCELED,) * 2 + (CLOSE_NOTIFY,),
    "plain": (CLOSE_NOTIFY,),
}
CUT = {
    "canceled": (USER_CANCELED,),
    "fatal": (HANDSHAKE_FAILURE,),
    "canceled-fatal": (USER_CANCELED, HANDSHAKE_FAILURE),
}


def _upload(daemon: Daemon, version: ssl.TLSVersion, log: Path, alerts: tuple[bytes, ...]) -> str:
    """Store "whole" as `new`, end TLS with these alerts and TCP with a FIN; the final reply."""
    with FtpClient(daemon) as client:
        client.start_tls(tls_context(version))
        client.login()
        connection = client.connect_data()
        client.expect(150, "STOR new")
        assert isinstance(client.socket, ssl.SSLSocket)
        data = RecordClient(connection, client.context, log, client.socket.session)
        data.sendall(b"whole")
        data.alert(*alerts)
        reply = ""
        if alerts[-1] == CLOSE_NOTIFY:
            assert data.recv(1) == b""  # the daemon's close_notify
            reply = client.reply()
        data.close()
        return reply or client.reply()


@VERSIONS
@pytest.mark.parametrize("alerts", PROPER.values(), ids=PROPER)
def test_uploads_that_end_properly(
    shared: Daemon, tmp_path: Path, version: ssl.TLSVersion, alerts: tuple[bytes, ...]
) -> None:
    """An upload that ends with close_notify is complete, also if user_canceled comes first."""
    target = shared.home() / "new"
    target.unlink(missing_ok=True)
    assert _upload(shared, version, tmp_path / "keys", alerts).startswith("226")
    assert target.read_bytes() == b"whole"


@VERSIONS
@pytest.mark.parametrize("alerts", CUT.values(), ids=CUT)
def test_uploads_that_are_cut_by_alerts(
    shared: Daemon, tmp_path: Path, version: ssl.TLSVersion, alerts: tuple[bytes, ...]
) -> None:
    """user_canceled alone and fatal alerts do not complete an upload."""
    target = shared.home() / "new"
    target.unlink(missing_ok=True)
    with withstands(shared):
        assert _upload(shared, version, tmp_path / "keys", alerts).startswith("426")
    assert not target.exists()


def _control(daemon: Daemon, version: ssl.TLSVersion, log: Path) -> tuple[FtpClient, RecordClient]:
    client = FtpClient(daemon)
    client.expect(234, "AUTH TLS")
    connection: Any = RecordClient(client.socket, tls_context(version), log)
    client.socket = connection
    return client, connection


@VERSIONS
@pytest.mark.parametrize("alerts", PROPER.values(), ids=PROPER)
def test_sessions_that_end_properly(
    shared: Daemon, tmp_path: Path, version: ssl.TLSVersion, alerts: tuple[bytes, ...]
) -> None:
    """close_notify ends the session without an error in the log, also if user_canceled comes first."""
    before = len(shared.log)
    client, connection = _control(shared, version, tmp_path / "keys")
    client.expect(331, "USER alice")
    connection.alert(*alerts)
    assert ends(client) == ""
    client.socket.close()
    with withstands(shared):
        assert "TLS failed" not in shared.log[before:]


@VERSIONS
def test_a_session_that_ends_by_a_fatal_alert(shared: Daemon, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A fatal alert ends the session, and the log names it."""
    before = len(shared.log)
    client, connection = _control(shared, version, tmp_path / "keys")
    connection.alert(USER_CANCELED, HANDSHAKE_FAILURE)
    while connection.raw.recv(65536):  # session tickets, perhaps
        pass
    client.socket.close()
    shared.wait_for_log("TLS failed: .*handshake failure")
    assert "Traceback" not in shared.log[before:]


# --- what is not TLS ---------------------------------------------------------------------------------

#: The first bytes tell: less than a record header must do, and a header whose length would be waited for.
GARBAGE = {
    "a byte": b"A",
    "line end": b"\r\n",
    "Telnet Synch": b"\xff\xf4\xff\xf2ABOR\r\n",  # old Net::FTP
    "FTP": b"NOOP\r\n",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
    "version": b"\x17\x04\x03\x10\x00",
    "type": b"\x19\x03\x03\x10\x00",
    "heartbeat": b"\x18\x03\x03\x10\x00",
}


def _told_once(daemon: Daemon, before: int) -> None:
    with FtpClient(daemon) as other:
        other.expect(530, "PWD")  # all that the log has to say of the session before is there by now
    daemon.wait_for_log(r"disconnected\n(.*\n)*.* PWD: 530")
    assert len(re.findall("TLS failed: .* is not TLS", daemon.log[before:])) == 1, daemon.log[before:]


@VERSIONS
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_inside_tls(shared: Daemon, version: ssl.TLSVersion, garbage: bytes) -> None:
    """Bytes that are no TLS record end the session immediately, with an alert and one line in the log."""
    before = len(shared.log)
    with FtpClient(shared) as client:
        client.start_tls(tls_context(version))
        client.expect(331, "USER alice")
        with socket.socket(fileno=os.dup(client.socket.fileno())) as raw:
            raw.sendall(garbage)
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            client.socket.recv(65536)
    _told_once(shared, before)


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "explicit"])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_instead_of_a_handshake(shared: Daemon, garbage: bytes, implicit: bool) -> None:
    """A client that does not speak TLS where it must gets an alert in plain text, and is disconnected."""
    before = len(shared.log)
    port = shared.implicit_port if implicit else shared.port
    with socket.create_connection((shared.host, port), PATIENCE) as connection:
        if not implicit:
            connection.recv(65536)
            connection.sendall(b"AUTH TLS\r\n")
            assert connection.recv(65536).startswith(b"234 ")
        connection.sendall(garbage)
        alert = read_all(connection)
        assert alert[:2] == b"\x15\x03" and alert[3:6] == b"\0\2\2"
    _told_once(shared, before)


def test_garbage_in_a_handshake(shared: Daemon) -> None:
    """The same happens while the daemon waits for the client's last flight."""
    before = len(shared.log)
    client = FtpClient(shared)
    client.expect(234, "AUTH TLS")
    outgoing = ssl.MemoryBIO()
    tls = client.context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    client.send_raw(outgoing.read())
    assert client.socket.recv(65536)[:2] == b"\x16\x03"
    client.send_raw(b"NOOP\r\n")
    read_all(client.socket)
    client.socket.close()
    _told_once(shared, before)


# --- TLS that is taken off ---------------------------------------------------------------------------


@VERSIONS
def test_the_client_may_end_tls_first(plain: Daemon, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """After CCC the daemon waits a moment for the client's close_notify, and answers it, for lftp."""
    client, connection = _control(plain, version, tmp_path / "keys")
    client.expect(331, "USER alice")
    client.expect(230, "PASS secret")
    client.expect(200, "CCC")
    replied = time.monotonic()
    first = connection.is_silent(0.05)
    assert first or time.monotonic() - replied > 0.2  # a machine under load may be late
    connection.alert(CLOSE_NOTIFY)
    assert connection.recv(1) == b""
    connection.raw.sendall(b"PWD\r\n")
    assert b"257 " in connection.raw.recv(65536)
    client.socket.close()


@VERSIONS
def test_the_daemon_ends_tls_if_the_client_waits(plain: Daemon, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client that waits for the daemon's close_notify gets it. A command that it sends in TLS before is answered."""
    client, connection = _control(plain, version, tmp_path / "keys")
    client.expect(331, "USER alice")
    client.expect(230, "PASS secret")
    client.send("CCC", "NOOP")
    assert client.reply().startswith("200 ")
    assert client.reply().startswith("200 ")
    assert connection.recv(1) == b""
    connection.sendall(b"NOOP\r\n")  # in TLS: it has not ended its own direction
    assert connection.raw.recv(65536).startswith(b"200 ")
    connection.alert(CLOSE_NOTIFY)
    connection.raw.sendall(b"PWD\r\n")
    assert connection.raw.recv(65536).startswith(b"257 ")
    client.socket.close()
