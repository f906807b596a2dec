"""The hosts and ports with which the daemon makes data connections: its own, local services, FXP."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tests.conftest import PLAIN
from tests.daemon import Daemon, free_range, merge
from tests.ftpclient import FtpClient, read_all
from tests.hostile import withstands

Make = Callable[..., Daemon]


def _login(daemon: Daemon, source: str = "127.0.0.1") -> FtpClient:
    return FtpClient(daemon, source=source).login()


def _target(host: str, port: int) -> str:
    return f"EPRT |{2 if ':' in host else 1}|{host}|{port}|"


@pytest.mark.parametrize("foreign", [False, True, ["127.0.0.0/8", "::/0"]], ids=["false", "true", "networks"])
def test_the_control_port_by_any_address(make_daemon: Make, foreign: bool | list[str]) -> None:
    """No data connection goes to a control port, by any address of the machine, also after the listener has moved."""
    daemon = make_daemon(merge(PLAIN, {"foreign_data": foreign}), address="0.0.0.0")
    daemon.host = "127.0.0.2"
    hosts = ["127.0.0.1", "127.0.0.2", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, withstands(daemon), _login(daemon) as client:
        probe.connect(("127.0.0.1", 9))
        hosts.append(probe.getsockname()[0])
        for host in hosts:
            for port in (daemon.port, daemon.implicit_port):
                assert client.command(_target(host, port))[:3] in ("501", "522"), host
                client.expect(425, "LIST")
        moved, _ = free_range()
        daemon.settings["listen"][1]["port"] = moved
        daemon.write()
        daemon.reload()
        for host in hosts:
            assert client.command(_target(host, moved))[:3] in ("501", "522"), host


def _fetch(client: FtpClient, host: str) -> bytes:
    with socket.create_server((host, 0)) as server:
        client.expect(200, _target(host, server.getsockname()[1]))
        client.send("RETR file")
        data, _ = server.accept()
        with data:
            content = read_all(data)
        assert client.reply().startswith("150 ")
        assert client.reply().startswith("226 ")
    return content


def test_foreign_data_true(make_daemon: Make) -> None:
    """`foreign_data: true` permits other hosts, but not the services of the server's own machine."""
    daemon = make_daemon(merge(PLAIN, {"foreign_data": True}))
    (daemon.home() / "file").write_bytes(b"content")
    with withstands(daemon), _login(daemon) as client:
        assert _fetch(client, "127.0.0.1") == b"content"  # the client's own address
        for host, port in (
            ("127.0.0.2", 2000),
            ("::1", 2000),
            ("::ffff:127.0.0.2", 2000),
            ("0.0.0.0", 2000),
            ("198.51.100.7", 25),
            ("127.0.0.1", 25),
            ("224.0.0.1", 2000),
        ):
            client.expect(501, _target(host, port))
        for host in ("198.51.100.7", "2001:db8::7"):
            client.expect(200, _target(host, 2000))
        port_number = client.passive_port()
        with client.connect_data(port_number, source="127.0.0.3") as data:
            client.expect(150, "RETR file")
            assert read_all(data) == b"content"
        assert client.reply().startswith("226 ")


def test_foreign_data_of_some_networks(make_daemon: Make) -> None:
    """With networks, data connections are permitted with the client and these networks only, to any port."""
    daemon = make_daemon(merge(PLAIN, {"foreign_data": ["127.0.0.2/31", "198.51.100.0/24"]}))
    (daemon.home() / "file").write_bytes(b"content")
    with withstands(daemon), _login(daemon) as client:
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            assert _fetch(client, host) == b"content"
        client.expect(200, _target("198.51.100.7", 25))
        for host, port in (("127.0.0.4", 2000), ("198.51.101.7", 2000), ("127.0.0.1", 25)):
            client.expect(501, _target(host, port))
        client.expect(522, _target("2001:db8::7", 2000))
        number = client.passive_port()
        with (
            client.connect_data(number, source="127.0.0.4") as stranger,
            client.connect_data(number, "127.0.0.3") as data,
        ):
            client.expect(150, "RETR file")
            assert read_all(data) == b"content"
            try:
                assert stranger.recv(1) == b""
            except ConnectionResetError:
                pass
        assert client.reply().startswith("226 ")
