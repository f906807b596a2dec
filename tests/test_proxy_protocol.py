"""Listeners behind a proxy: the header on control and data connections, and what follows the client's address in it."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import forkserver
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient, read_all
from tests.hostile import wait_until
from tests.test_doctor_server import doctor
from tests.test_proxy_header import addresses, v2

Make = Callable[..., Daemon]

#: What the client is said to have reached, and a client.
VIRTUAL, CLIENT = "203.0.113.1", "192.0.2.7"

V1 = f"PROXY TCP4 {CLIENT} {VIRTUAL} 50000 21\r\n".encode()
V2 = v2(1, 0x11, addresses(CLIENT, VIRTUAL) + b"\x04\x00\x03abc")
LOCAL = v2(0, 0, b"")


class ProxiedClient(FtpClient):
    """A client whose connections begin with a header, as a proxy sends it."""

    def __init__(self, daemon: Daemon, header: bytes, data_header: bytes | None = None, **keywords: Any) -> None:
        self.data_header = header if data_header is None else data_header
        super().__init__(daemon, greeting=False, **keywords)
        self.send_raw(header)
        assert self.reply().startswith("220 ")

    def connect_data(self, port: int | None = None, source: str | None = None) -> socket.socket:
        """Return a connection to a passive port that has sent its header."""
        connection = super().connect_data(port, source)
        connection.sendall(self.data_header)
        return connection


def proxied(make_daemon: Make, *, passive: bool = True, trusted: tuple[str, ...] = ("127.0.0.1/32",)) -> Daemon:
    """Return a daemon whose listener expects headers from trusted proxies."""
    daemon = make_daemon(PLAIN, start=False)
    daemon.settings["listen"][0]["proxy_protocol"] = {"trusted": list(trusted)}
    changes = {"passive": {"proxy_protocol": passive}, "timeouts": {"data_connect": 3}, "bans": {"allow": []}}
    daemon.settings = merge(daemon.settings, changes)
    daemon.write()
    return daemon.start()


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon behind a proxy, for tests that change nothing for others."""
    made: list[Daemon] = []

    def make(settings: dict[str, Any], start: bool) -> Daemon:
        made.append(Daemon(tmp_path_factory.mktemp("behind"), certificate, settings))
        return made[0]

    yield proxied(make)
    made[0].stop()


def ended(connection: socket.socket) -> bytes:
    """Return all that a connection sends until it is cut."""
    connection.settimeout(PATIENCE)
    try:
        return read_all(connection)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_transfers_through_a_proxy(behind: Daemon, header: bytes) -> None:
    """With headers on both connections, uploads, downloads and TLS work, and the log shows the client's address."""
    with ProxiedClient(behind, header) as client:
        client.start_tls()
        client.login()
        assert client.upload("STOR a", b"content" * 10_000).startswith("226 ")
        assert client.download("RETR a") == b"content" * 10_000
        client.expect(221, "QUIT")
    behind.wait_for_log(rf"\({CLIENT}\)> STOR a: 226")


def test_pasv_announces_what_the_client_reached(behind: Daemon) -> None:
    """PASV announces the address in the header to which the client has connected."""
    with ProxiedClient(behind, V1) as client:
        client.login()
        assert VIRTUAL.replace(".", ",") in client.expect(227, "PASV")


def test_ipv6_clients_behind_an_ipv4_proxy(behind: Daemon) -> None:
    """The family of the client counts: EPSV 2 is right, PASV impossible."""
    header = b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 21\r\n"
    with ProxiedClient(behind, header) as client:
        client.login()
        client.expect(229, "EPSV 2")
        assert not client.command("PASV").startswith("227")
        assert client.upload("STOR b", b"abc").startswith("226 ")


def test_a_header_in_pieces(behind: Daemon) -> None:
    """A header may come byte by byte, and with the first command in the same segment."""
    for header in (V1, V2):
        with FtpClient(behind, greeting=False) as client:
            for byte in header[:-1]:
                client.send_raw(bytes([byte]))
            client.send_raw(header[-1:] + b"NOOP\r\n")
            assert client.reply().startswith("220 ")
            assert client.reply().startswith("200 ")


def test_a_data_header_in_pieces(behind: Daemon) -> None:
    """The header of a data connection may come in pieces, too; what stands behind it belongs to the file."""
    with ProxiedClient(behind, V2, data_header=b"") as client:
        client.login()
        connection = client.connect_data()
        client.send("STOR pieces")
        for byte in V2[:-1]:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        connection.sendall(V2[-1:] + b"file")
        connection.close()
        assert client.reply().startswith("150 ")
        assert client.reply().startswith("226 ")
        assert (behind.home() / "pieces").read_bytes() == b"file"


def test_nothing_is_said_before_the_header(behind: Daemon) -> None:
    """The greeting waits for the header: before it, nobody knows whether the client is banned."""
    with FtpClient(behind, greeting=False) as client:
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)


@pytest.mark.parametrize(
    "data", [b"USER alice\r\n", b"PROXY TCP4 foo bar 1 2\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
)
def test_without_a_header_the_connection_is_cut(behind: Daemon, data: bytes) -> None:
    """Anything else than a header is cut without a reply, and logged with the proxy's address."""
    before = behind.log.count("connection cut: ")
    with FtpClient(behind, greeting=False) as client:
        client.send_raw(data)
        assert ended(client.socket) == b""
    wait_until(lambda: behind.log.count("connection cut: ") > before, "the line")


def test_silence_is_cut(behind: Daemon) -> None:
    """A proxy has five seconds for the header."""
    with FtpClient(behind, greeting=False) as client:
        client.send_raw(b"PROXY ")
        assert ended(client.socket) == b""
    behind.wait_for_log(r"\(127\.0\.0\.1\)> connection cut: no PROXY header within 5 seconds")


def test_untrusted_hosts_are_cut(make_daemon: Make) -> None:
    """A header from a host that is no trusted proxy means nothing."""
    daemon = proxied(make_daemon, trusted=("192.0.2.0/24",))
    with suppress(ConnectionError), FtpClient(daemon, greeting=False) as client:  # may be cut at any time
        client.send_raw(V1)
        assert ended(client.socket) == b""
    daemon.wait_for_log(r"connection cut: it is not in proxy_protocol\.trusted")


def test_health_checks_leave_no_line(behind: Daemon) -> None:
    """Connections that end without a byte, LOCAL, and UNKNOWN leave no line; they are greeted, and may log in."""
    before = behind.log
    for _ in range(3):
        socket.create_connection((behind.host, behind.port), PATIENCE).close()
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            with ProxiedClient(behind, header) as client:
                client.expect(221, "QUIT")
    with FtpClient(behind, greeting=False) as client:  # as HAProxy with version 1
        port = client.socket.getsockname()[1]
        client.send_raw(f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {behind.port}\r\n".encode())
        assert client.reply().startswith("220 ")
    with ProxiedClient(behind, LOCAL) as client:
        client.expect(331, "USER bob")
        client.expect(230, "PASS secret")
    behind.wait_for_log(r"bob \(127\.0\.0\.1\)> logged in|bob .*PASS")
    added = behind.log.removeprefix(before)
    assert not re.search(r" - \(127\.0\.0\.1\)> ", added), added


def test_bans_follow_the_client(make_daemon: Make) -> None:
    """Failed logins ban the address in the header, and nobody else behind the proxy."""
    daemon = proxied(make_daemon)
    for _ in range(5):
        with ProxiedClient(daemon, V1) as client:
            for _ in range(2):
                client.expect(331, "USER alice")
                client.expect(530, "PASS wrong")
    with FtpClient(daemon, greeting=False) as client:
        client.send_raw(V1)
        assert client.reply().startswith("421 ")
    with ProxiedClient(daemon, V1.replace(b"192.0.2.7", b"192.0.2.8")) as client:
        client.login()


def test_data_of_another_client_is_refused(behind: Daemon) -> None:
    """A data connection whose header names another client is closed, and so is one without a header."""
    other = V1.replace(b"192.0.2.7", b"192.0.2.8")
    for header in (other, LOCAL, b"no header at all"):
        with ProxiedClient(behind, V1, data_header=header) as client:
            client.login()
            port = client.passive_port()
            with client.connect_data(port) as connection:
                client.send("NLST")
                assert ended(connection) == b""
                with FtpClient.connect_data(client, port) as second:
                    second.sendall(V1)
                    assert client.reply().startswith("150 ")
                    read_all(second)
            assert client.reply().startswith("226 ")


def test_a_header_that_ends_harms_nobody(behind: Daemon) -> None:
    """A data connection that ends within its header is forgotten, whatever gets its descriptor next."""
    for _ in range(3):
        with ProxiedClient(behind, V1, data_header=V1[:12]) as client:
            client.login()
            connection = client.connect_data()
            time.sleep(0.2)  # the port is being watched by now
            connection.close()
            others = [ProxiedClient(behind, V1) for _ in range(4)]
            for other in others:
                other.expect(200, "NOOP")
                other.socket.close()
            client.expect(200, "NOOP")
    assert "Traceback" not in behind.log


def test_many_connections_without_a_header(behind: Daemon) -> None:
    """More silent connections than the port keeps cost no processor time, and the client's is still served."""
    with ProxiedClient(behind, V1) as client:
        client.login()
        port = client.passive_port()
        silent = [FtpClient.connect_data(client, port) for _ in range(12)]
        for each in silent:
            each.sendall(b"PROXY ")
        time.sleep(0.2)
        before = cpu_seconds(behind.pid)
        time.sleep(1)
        assert cpu_seconds(behind.pid) - before < 0.5
        for each in silent:
            each.close()
        with client.connect_data(port) as connection:
            client.expect(150, "NLST")
            read_all(connection)
        assert client.reply().startswith("226 ")


def test_a_late_header_behind_a_silent_connection(behind: Daemon) -> None:
    """With PROT P, a silent first connection does not keep out the client whose header comes in pieces."""
    with ProxiedClient(behind, V1) as client:
        client.start_tls()
        client.login()
        (behind.home() / "late").write_bytes(b"late")
        port = client.passive_port()
        with client.connect_data(port):  # has a header, and nothing behind it
            client.expect(150, "RETR late")
            time.sleep(0.5)  # others are accepted, too, by now
            connection = FtpClient.connect_data(client, port)
            connection.sendall(V1[:20])
            time.sleep(0.3)
            connection.sendall(V1[20:])
            with client.secure_data(connection) as secure:
                assert read_all(secure) == b"late"
                secure.unwrap()
        assert client.reply().startswith("226 ")


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_data_that_comes_directly(make_daemon: Make) -> None:
    """Without `passive.proxy_protocol`, data connections come from the client itself, without a header."""
    daemon = proxied(make_daemon, passive=False)
    header = f"PROXY TCP4 127.0.0.9 {VIRTUAL} 50000 21\r\n".encode()
    with ProxiedClient(daemon, header, data_header=b"") as client:
        client.login()
        port = client.passive_port()
        with socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.0.0.9", 0)) as connection:
            client.expect(150, "NLST")
            read_all(connection)
        assert client.reply().startswith("226 ")


def test_other_listeners_need_no_header(behind: Daemon) -> None:
    """A listener without `proxy_protocol` serves clients directly, with their passive connections."""
    with FtpClient(behind, implicit=True) as client:
        client.login()
        assert client.upload("STOR direct", b"x" * 5000).startswith("226 ")
        assert client.download("RETR direct") == b"x" * 5000


def test_a_reload_begins_and_ends_it(make_daemon: Make) -> None:
    """`proxy_protocol` can be added and removed by a reload, on the same port."""
    daemon = proxied(make_daemon)
    del daemon.settings["listen"][0]["proxy_protocol"]
    daemon.settings["passive"]["proxy_protocol"] = False
    daemon.write()
    daemon.reload()
    with FtpClient(daemon) as client:
        client.login()


def test_the_doctor_leaves_it_out(behind: Daemon) -> None:
    """`ftpsd doctor` says that a listener for load balancers was not tested, and tests the others."""
    report = doctor(behind, "--user", "alice", "--password-stdin")
    assert [each["level"] for each in report["findings"] if each["code"] == "listener.proxied"] == ["note"]
    assert any(f":{behind.implicit_port}: " in check for check in report["passed"])
    assert not any(f":{behind.port}: " in check for check in report["passed"])


def faults(daemon: Daemon) -> str:
    """Return what `ftpsd check` prints."""
    daemon.write()
    checked = forkserver.run(["check", "-c", str(daemon.config)])
    assert checked.returncode == 1
    return f"{checked.stdout}{checked.stderr}"


def test_faults(make_daemon: Make) -> None:
    """Nobody trusted, and passive headers without a listener that has them, are faults with a remedy."""
    daemon = make_daemon(PLAIN, start=False)
    daemon.settings["listen"][0]["proxy_protocol"] = {"trusted": []}
    assert "listen[0].proxy_protocol.trusted: is empty" in faults(daemon)
    del daemon.settings["listen"][0]["proxy_protocol"]
    daemon.settings["passive"]["proxy_protocol"] = True
    assert "passive.proxy_protocol: is true, but no entry of listen has proxy_protocol" in faults(daemon)
