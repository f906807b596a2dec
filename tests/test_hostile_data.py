"""Hostile clients and users on data connections. After each attack the daemon still serves."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest

from tests.conftest import PLAIN
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all, secured, tls_context
from tests.hostile import (
    BOTH,
    BYTES,
    MIB,
    Login,
    cut,
    frees_everything,
    listening,
    open_transfer,
    plain_login,
    reset,
    wait_until,
    withstands,
)

# --- whose data connection it is ---------------------------------------------------------------------


def _port_argument(host: str, port: int) -> str:
    return f"PORT {host.replace('.', ',')},{port // 256},{port % 256}"


def test_bounce_to_third_hosts(plain: Daemon) -> None:
    """Active mode connects to no host but the client's own, and to no port below 1024."""
    with withstands(plain), plain_login(plain) as client:
        with socket.create_server(("127.0.0.3", 0)) as third:
            port = third.getsockname()[1]
            for line in (
                _port_argument("127.0.0.3", port),
                f"EPRT |1|127.0.0.3|{port}|",
                f"EPRT |2|::ffff:127.0.0.3|{port}|",
                f"EPRT |2|::1|{port}|",
                _port_argument("0.0.0.0", port),
                _port_argument("255.255.255.255", port),
                _port_argument("127.0.0.1", 25),
                "EPRT |1|127.0.0.1|1023|",
                "EPRT |1|127.0.0.1|0|",
                "EPRT |2|::ffff:127.0.0.1|80|",
            ):
                assert client.command(line)[:3] in ("501", "522"), line
                client.expect(425, "LIST")
            third.settimeout(0.2)
            with pytest.raises(TimeoutError):
                third.accept()


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_bounce_to_the_control_port(plain: Daemon, implicit: bool) -> None:
    """A client on the server's machine cannot have a file sent to the control port as commands."""
    (plain.home() / "commands").write_bytes(b"USER alice\r\nPASS secret\r\nMKD bounced\r\n" * 3)
    port = plain.implicit_port if implicit else plain.port
    with withstands(plain), plain_login(plain) as client:
        for line in (_port_argument("127.0.0.1", port), f"EPRT |1|127.0.0.1|{port}|"):
            client.command(line)
            reply = client.command("RETR commands")
            if reply.startswith("150"):
                reply = client.reply()
            assert reply[:1] in "45", reply
    assert not (plain.home() / "bounced").exists()


def test_no_theft_of_passive_ports(shared: Daemon) -> None:
    """A connection from another address gets no data, and does not disturb the waiting client."""
    (shared.home() / "treasure").write_bytes(BYTES)
    with withstands(shared), secured(shared) as client:
        for line, thieves in (("RETR treasure", 1), ("RETR treasure", 30), ("LIST", 3)):
            port = client.passive_port()
            before = len(shared.log)
            stolen = [client.connect_data(port, source="127.0.0.2") for _ in range(thieves)]
            client.send(line)
            for thief in stolen:
                try:
                    assert thief.recv(100) == b""
                except ConnectionResetError:
                    pass
            with client.connect_data(port) as own:
                assert client.reply().startswith("150")
                with client.secure_data(own) as data:
                    content = read_all(data)
                    data.unwrap()
            assert client.reply().startswith("226")
            assert content == BYTES or line == "LIST"
            assert "127.0.0.2" in shared.log[before:]


def test_no_injection_through_passive_ports(plain: Daemon) -> None:
    """A connection from another address cannot put bytes into the upload of the waiting client."""
    with withstands(plain), plain_login(plain) as client:
        port = client.passive_port()
        with client.connect_data(port, source="127.0.0.2") as giver:
            try:
                giver.sendall(b"poison")
            except OSError:
                pass
        connection = client.connect_data(port)
        client.expect(150, "STOR gift")
        connection.sendall(b"own")
        connection.close()
        assert client.reply().startswith("226")
    assert (plain.home() / "gift").read_bytes() == b"own"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("line", ["RETR alpn", "STOR new", "LIST"])
def test_other_protocols_on_data_connections(shared: Daemon, version: ssl.TLSVersion, line: str) -> None:
    """Only ALPN for FTP or none is accepted: a browser that was led to a data port (ALPACA) gets an alert and no byte."""
    (shared.home() / "alpn").write_bytes(b"content")
    with withstands(shared), FtpClient(shared) as client:
        client.start_tls(tls_context(version))
        client.login()
        assert client.download("RETR alpn") == b"content"
        for name in ("ftp-data", "ftp"):
            client.context.set_alpn_protocols(["http/1.1", name])
            assert client.download("RETR alpn") == b"content"
        client.context.set_alpn_protocols(["h2", "http/1.1"])
        connection = client.connect_data()
        client.expect(150, line)
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"), connection:
            client.secure_data(connection)
        refusal = client.reply()
        assert refusal.startswith("522 ") and "h2, http/1.1" in refusal, refusal
    assert not (shared.home() / "new").exists()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("line", ["RETR ticket", "STOR new", "LIST"])
def test_the_ticket_of_another_session(shared: Daemon, version: ssl.TLSVersion, line: str) -> None:
    """A data connection must resume the TLS session of its own control connection, not another one and not a new one."""
    (shared.home() / "ticket").write_bytes(b"ticket")
    context = tls_context(version)
    with withstands(shared), FtpClient(shared) as other, FtpClient(shared) as client:
        for each in (other, client):
            each.start_tls(context)
            each.login()
        assert isinstance(other.socket, ssl.SSLSocket) and isinstance(client.socket, ssl.SSLSocket)
        assert other.socket.session is not None
        for session in (other.socket.session, None):
            connection = client.connect_data()
            client.expect(150, line)
            stolen = b""
            try:
                data = context.wrap_socket(connection, server_hostname="localhost", session=session)
                stolen = data.recv(100)
                cut(data)
            except OSError:
                connection.close()
            assert stolen == b""
            reply = client.reply()
            assert reply.startswith("522 ") and "data_session" in reply, reply
        assert not (shared.home() / "new").exists()
        connection = client.connect_data()
        client.expect(150, "RETR ticket")
        with client.secure_data(connection) as data:
            assert data.session_reused
            assert data.recv(100) == b"ticket"
        assert client.reply()[:3] in ("226", "426")


# --- clients that vanish -----------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["RETR huge", "STOR vanished", "LIST", "HASH huge"])
@BOTH
def test_clients_that_disappear_free_everything(plain: Daemon, login: Login, line: str) -> None:
    """A client that disappears during a transfer, or before it, leaves no descriptor and no port open."""
    huge = plain.home() / "huge"
    huge.touch()
    with huge.open("r+b") as file:
        file.truncate(256 * MIB)
    with withstands(plain), frees_everything(plain):
        for number in range(12):
            client = login(plain)
            port = client.passive_port()
            data = client.connect_data(port) if number % 3 else None
            client.send(line)
            if number % 2 and not line.startswith("HASH"):
                client.reply()
                time.sleep(0.01 * (number % 4))
            (reset if number % 4 < 2 else cut)(client.socket)
            if data is not None and number % 5:
                reset(data)
            elif data is not None:
                data.settimeout(10)
                try:
                    while data.recv(MIB):  # the daemon ends it
                        pass
                except OSError:
                    pass
                data.close()
        wait_until(lambda: not listening(plain), "no passive port is open")
    assert not (plain.home() / "vanished").exists()
    huge.unlink()


@pytest.mark.parametrize("line", ["HASH leak", "RETR leak", "STOR leak2"])
def test_disappearing_while_a_transfer_starts(plain: Daemon, line: str) -> None:
    """A control connection that is lost while a transfer starts leaves no descriptor open."""
    (plain.home() / "leak").write_bytes(BYTES)
    with withstands(plain), frees_everything(plain):
        for _ in range(60):
            client = plain_login(plain)
            port = client.passive_port()
            client.send(line)
            if not line.startswith("HASH"):
                client.reply()
                connection = socket.create_connection((plain.host, port))
                reset(client.socket)
                connection.close()
            else:
                reset(client.socket)


# --- waiting too long --------------------------------------------------------------------------------


@BOTH
def test_deadlines_of_data_connections(impatient: Daemon, login: Login) -> None:
    """Data connections that do not come, make no handshake, or stall are ended in time, and the session continues."""
    huge = impatient.home() / "huge"
    huge.touch()
    with huge.open("r+b") as file:
        file.truncate(1024 * MIB)
    with withstands(impatient), frees_everything(impatient), login(impatient) as client:
        client.passive_port()
        assert client.command("RETR huge").startswith("150")
        assert client.reply() == "425 No connection arrived at the passive port in time."
        client.passive_port()
        wait_until(lambda: not listening(impatient), "the port is closed")
        client.expect(425, "RETR huge")
        for line in ("STOR slow", "RETR huge"):
            data = open_transfer(client, line)
            if line.startswith("STOR"):
                data.sendall(b"some")
            assert client.reply().startswith("426"), line
            data.close()
        if login is secured:
            for line in ("STOR slow", "RETR huge"):
                with client.connect_data() as raw:
                    client.expect(150, line)
                    assert client.reply()[:3] in ("425", "426", "522"), raw
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            crowd = [socket.socket() for _ in range(4)]
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            client.expect(200, _port_argument("127.0.0.1", full.getsockname()[1]))
            client.expect(150, "RETR huge")
            assert client.reply() == "425 Cannot open data connection: the client did not respond in time."
            for each in crowd:
                each.close()
        client.expect(200, "NOOP")
    assert not (impatient.home() / "slow").exists()


def test_a_range_of_one_port(make_daemon: Callable[..., Daemon]) -> None:
    """With one passive port, transfers take turns. A client that finds it in use gets 425 and can try again."""
    daemon = make_daemon(start=False)
    low = daemon.passive[0]
    daemon.settings["passive"]["ports"] = f"{low}-{low}"
    daemon.write()
    daemon.start()
    (daemon.home() / "f").write_bytes(b"f")
    with withstands(daemon), secured(daemon) as client, secured(daemon) as other:
        for _ in range(20):
            assert client.download("RETR f") == b"f"
        assert client.passive_port() == low
        assert client.passive_port() == low
        for _ in range(3):
            other.expect(425, "EPSV")
            other.expect(425, "PASV")
            other.expect(425, "LIST")
        client.expect(226, "ABOR")
        assert other.download("RETR f") == b"f"
        other.passive_port()
        client.expect(425, "EPSV")
        reset(other.socket)
        wait_until(lambda: client.command("EPSV").startswith("229"), "the port is free")


def test_early_bytes_stay_in_the_kernel(make_daemon: Callable[..., Daemon]) -> None:
    """Bytes sent before STOR stay in the kernel, not in the daemon's memory, and arrive."""
    daemon = make_daemon(PLAIN)
    with withstands(daemon), plain_login(daemon) as client:
        client.upload("STOR warm", BYTES)
        data = client.connect_data()
        before = daemon.memory()
        sent = 0
        data.settimeout(0.5)
        try:
            while sent < 256 * MIB:
                sent += data.send(BYTES[sent % MIB :][:MIB] or BYTES)
        except TimeoutError:
            pass
        assert sent < 256 * MIB
        assert daemon.memory() - before < 8 * MIB
        client.expect(150, "STOR early")
        cut(data)
        assert client.reply().startswith("226")
        assert (daemon.home() / "early").stat().st_size == sent


# --- meanwhile ---------------------------------------------------------------------------------------


@BOTH
def test_the_control_connection_answers_during_transfers(plain: Daemon, login: Login) -> None:
    """During an upload STAT is answered, other commands wait, and QUIT lets the upload finish."""
    with withstands(plain), login(plain) as client:
        data = open_transfer(client, "STOR during")
        data.sendall(BYTES)
        client.send("NOOP", "STAT")
        assert client.reply().startswith("213")
        client.send("STAT", "QUIT", "NOOP")
        assert client.reply().startswith("213")
        data.sendall(BYTES)
        if isinstance(data, ssl.SSLSocket):
            data = data.unwrap()
        data.close()
        assert [client.reply()[:3] for _ in range(3)] == ["226", "200", "221"]
        assert client.read_line() == b""
    assert (plain.home() / "during").read_bytes() == BYTES * 2


@BOTH
def test_many_slow_readers_delay_no_other_session(plain: Daemon, login: Login) -> None:
    """Twenty downloads whose clients read nothing leave threads to other sessions."""
    huge = plain.home() / "huge"
    huge.touch()
    with huge.open("r+b") as file:
        file.truncate(64 * MIB)
    (plain.home("bob") / "small").write_bytes(BYTES)
    with frees_everything(plain), withstands(plain):
        slow = [login(plain) for _ in range(20)]
        held = [open_transfer(client, "RETR huge") for client in slow]
        with secured(plain, "bob") as client:
            assert client.download("RETR small") == BYTES
            assert client.upload("STOR other", BYTES).startswith("226")
        for data in held:
            reset(data)
        for client in slow:
            assert client.reply().startswith("426")
            client.socket.close()


def test_unexpected_bytes(shared: Daemon) -> None:
    """A client that writes during a download, or sends garbage instead of TLS, harms its own transfer only."""
    (shared.home() / "file").write_bytes(BYTES)
    with withstands(shared), frees_everything(shared):
        for line in ("RETR file", "STOR garbage", "LIST"):
            with secured(shared) as client:
                raw = client.connect_data()
                client.expect(150, line)
                raw.sendall(b"\x17\x03\x03\x00\x05hello" * 1000)
                assert client.reply()[:3] in ("426", "522")
                raw.close()
                data = open_transfer(client, line)
                writer = threading.Thread(target=_write, args=(data,))
                if not line.startswith("STOR"):
                    writer.start()
                    try:
                        read_all(data)
                    except OSError:
                        pass
                    writer.join()
                cut(data)
                assert client.reply()[:3] in ("226", "426")
    assert not (shared.home() / "garbage").exists()


def _write(data: socket.socket) -> None:
    try:
        data.sendall(b"x" * 100_000)
    except OSError:
        pass
