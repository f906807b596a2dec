"""How TLS ends: the alerts that count as a proper end, and those that do not."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, tls_context
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
    """A close_notify ends the session without a complaint in the log, also if user_canceled comes first."""
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
