"""One passive port for all sessions: each connection is given to its own session (`passive: {shared: true}`)."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftpsd.data.passive.departed import LATE
from tests import forkserver
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient, read_all, tls_context
from tests.hostile import BYTES, frees_everything, withstands
from tests.shared_port import Make, begin, client, each_with_its_own, hello, sharing, sharing_for_a_module
from tests.test_proxy_protocol import ended

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])

#: How many transfers each client makes where many transfer at the same time: by hand, as many as you have time for.
TRANSFERS = int(os.environ.get("FTPSD_SHARED_TRANSFERS", "40"))

#: Data connections need not resume the TLS session of their control connection.
ALLOW = {"tls": {"data_session": "allow"}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with one port for all sessions."""
    with sharing_for_a_module(tmp_path_factory.mktemp("sharing"), certificate) as made:
        yield made


@VERSIONS
@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_every_kind_of_transfer(daemon: Daemon, version: ssl.TLSVersion, implicit: bool) -> None:
    """Uploads, downloads and listings work, with PASV and EPSV, and every session announces the same port."""
    with withstands(daemon), frees_everything(daemon):
        clients = []
        for _ in range(2):
            each = FtpClient(daemon, implicit, context=tls_context(version))
            if not implicit:
                each.start_tls()
            clients.append(each.login())
        for each in clients:
            assert each.passive_port() == daemon.passive[0]
            assert f",{daemon.passive[0] >> 8},{daemon.passive[0] & 255})" in each.command("PASV")
            assert each.upload("STOR file", BYTES).startswith("226 ")
            assert each.download("RETR file") == BYTES
            assert b"file" in each.download("LIST")
        for each in clients:
            each.expect(221, "QUIT")
            each.socket.close()


@VERSIONS
def test_many_clients_behind_one_address(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """Fifty clients of one address transfer at the same time, and each gets its own bytes, all of them."""
    with withstands(daemon), frees_everything(daemon):
        each_with_its_own(daemon, version, 50, TRANSFERS)


@VERSIONS
def test_connections_in_another_order(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """Connections that arrive in another order than their announcements are told apart by the ClientHello."""
    with withstands(daemon), frees_everything(daemon):
        clients = [client(daemon, version) for _ in range(8)]
        for number, each in enumerate(clients):
            (daemon.home() / f"f{number}").write_bytes(b"%d" % number * 1000)
            assert each.passive_port() == daemon.passive[0]
        connections = [(number, each, each.connect_data(daemon.passive[0])) for number, each in enumerate(clients)][
            ::-1
        ]
        for number, each, _ in connections[::2] + connections[1::2]:
            each.expect(150, f"RETR f{number}")
        for number, each, connection in connections[1::2] + connections[::2]:
            data = each.secure_data(connection)
            assert read_all(data) == b"%d" % number * 1000
            data.unwrap().close()
            assert each.reply().startswith("226 ")
            each.socket.close()


@VERSIONS
def test_a_client_hello_in_pieces(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """A ClientHello may arrive in any number of pieces."""
    with withstands(daemon), client(daemon, version) as other, client(daemon, version) as own:
        (daemon.home() / "mine").write_bytes(BYTES)
        other.passive_port()
        connection = begin(own, "RETR mine")
        assert isinstance(own.socket, ssl.SSLSocket)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = own.context.wrap_bio(incoming, outgoing, server_hostname="localhost", session=own.socket.session)
        received = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                received += tls.read(1 << 20)
                if len(received) == len(BYTES):
                    break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    connection.sendall(bytes([byte]))
                incoming.write(connection.recv(1 << 20))
        assert received == BYTES
        connection.close()
        assert own.reply()[:3] in ("226", "426")


def test_sessions_in_plain_text(make_daemon: Make) -> None:
    """With PROT C, a connection that may belong to several sessions of one address is refused, and 425 says why."""
    daemon = sharing(make_daemon, PLAIN)
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), frees_everything(daemon), client(daemon, None) as one, client(daemon, None) as two:
        assert one.download("RETR mine") == BYTES
        two.passive_port()
        connection = one.connect_data()
        reply = one.command("RETR mine")
        final = one.reply() if reply.startswith("150 ") else reply
        assert final.startswith("425 ") and "ambiguous: oldest" in final
        time.sleep(LATE)
        assert two.download("RETR mine") == BYTES
        time.sleep(LATE)  # the first port that it has asked for was not used
        assert one.download("RETR mine") == BYTES
        assert connection.recv(1) == b""
        connection.close()


def test_the_doubt_is_older_than_the_command(make_daemon: Make) -> None:
    """A client far away, whose command comes later than its connection, is told the reason, too, and soon."""
    daemon = sharing(make_daemon, PLAIN)
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), client(daemon, None) as one, client(daemon, None) as two:
        ports = [each.passive_port() for each in (one, two)]
        time.sleep(0.3)
        connections = [each.connect_data(port) for each, port in zip((one, two), ports, strict=True)]
        time.sleep(0.3)
        one.expect(150, "RETR mine")
        final = one.reply()
        assert final.startswith("425 ") and "ambiguous: oldest" in final
        for each in connections:
            each.close()


def test_the_oldest_session_in_plain_text(make_daemon: Make) -> None:
    """With `ambiguous: oldest`, connections are given to sessions of one address in the order of the announcements."""
    daemon = sharing(make_daemon, PLAIN, {"passive": {"shared": {"ambiguous": "oldest"}}})
    with withstands(daemon), frees_everything(daemon):
        clients = [client(daemon, None) for _ in range(4)]
        for number, each in enumerate(clients):
            (daemon.home() / f"f{number}").write_bytes(b"%d" % number * 1000)
            each.passive_port()
        connections = [each.connect_data(daemon.passive[0]) for each in clients]
        for number, each in list(enumerate(clients))[::-1]:
            each.expect(150, f"RETR f{number}")
            assert read_all(connections[number]) == b"%d" % number * 1000
            assert each.reply().startswith("226 ")
        for opened in (*connections, *(each.socket for each in clients)):
            opened.close()


@VERSIONS
@pytest.mark.parametrize("ambiguous", ["refuse", "oldest"])
def test_clients_that_do_not_resume(make_daemon: Make, version: ssl.TLSVersion, ambiguous: str) -> None:
    """A client that begins a new TLS session is served when its session waits alone; else the setting decides."""
    daemon = sharing(make_daemon, merge(ALLOW, {"passive": {"shared": {"ambiguous": ambiguous}}}))
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), frees_everything(daemon):
        with client(daemon, version) as one, client(daemon, version) as two:
            data = one.secure_data(begin(one, "RETR mine"), resume=False)
            assert read_all(data) == BYTES
            data.unwrap().close()
            assert one.reply().startswith("226 ")
            one.passive_port()
            two.passive_port()
            connection = one.connect_data(daemon.passive[0])
            one.expect(150, "RETR mine")
            if ambiguous == "oldest":
                data = one.secure_data(connection, resume=False)
                assert read_all(data) == BYTES
                data.unwrap().close()
                assert one.reply().startswith("226 ")
            else:
                connection.sendall(hello(one))
                final = one.reply()
                assert final.startswith("425 ") and "ambiguous: oldest" in final
                connection.close()
            assert two.download("RETR mine") == BYTES


@VERSIONS
@pytest.mark.parametrize("wait", [0, 0.2], ids=["at once", "later"])
def test_the_command_arrives_with_the_connection(daemon: Daemon, version: ssl.TLSVersion, wait: float) -> None:
    """A connection that arrives in the same moment as its transfer command is not lost, early or late."""
    with withstands(daemon), client(daemon, version) as own:
        (daemon.home() / "mine").write_bytes(BYTES)
        for _ in range(20):
            port = own.passive_port()
            time.sleep(wait)
            connection = own.connect_data(port)
            own.expect(150, "RETR mine")
            data = own.secure_data(connection)
            assert read_all(data) == BYTES
            data.unwrap().close()
            assert own.reply().startswith("226 ")


@pytest.fixture(scope="module", params=[1, 3])
def both_ways(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Path
) -> Iterator[tuple[Daemon, int]]:
    """A daemon with one or three processes behind a proxy, and the port at which it is reached directly."""
    made = Daemon(tmp_path_factory.mktemp("both_ways"), certificate)
    made.settings["passive"] = {"ports": str(made.passive[0]), "shared": True, "proxy_protocol": True}
    made.settings["workers"] = request.param
    direct, made.port = made.port, made.passive[1]
    through = {"port": made.port, "proxy_protocol": {"trusted": ["127.0.0.0/8"]}}
    made.settings["listen"] = [
        {"address": "127.0.0.1", "tls": "explicit", **each} for each in (through, {"port": direct})
    ]
    made.write()
    yield made.start(), direct
    made.stop()


HEADER = b"PROXY TCP4 198.51.100.7 127.0.0.1 4242 21\r\n"


@VERSIONS
@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_client_on_the_host_of_the_load_balancer(
    both_ways: tuple[Daemon, int], version: ssl.TLSVersion, others: int
) -> None:
    """A host that the daemon trusts as a proxy can be a client itself, while others wait that come through it."""
    daemon, direct = both_ways
    (daemon.home() / "mine").write_bytes(BYTES)
    (daemon.home("bob") / "mine").write_bytes(BYTES[::-1])
    with ExitStack() as stack:
        waiting = [stack.enter_context(_proxied(daemon, HEADER, "bob")) for _ in range(others)]
        through, daemon.port = daemon.port, direct
        try:
            own = stack.enter_context(client(daemon, version))
            second = stack.enter_context(client(daemon, version))
        finally:
            daemon.port = through
        for each in [*waiting, second]:
            each.passive_port()
        for _ in range(3):
            assert own.upload("STOR new", BYTES).startswith("226 ")
            assert own.download("RETR mine") == BYTES
        for each in waiting:
            connection = each.connect_data(daemon.passive[0])
            connection.sendall(HEADER)
            each.expect(150, "RETR mine")
            data = each.secure_data(connection)
            assert read_all(data) == BYTES[::-1]
            data.unwrap().close()
            assert each.reply().startswith("226 ")


def test_no_header_and_no_tls_from_the_host_of_the_load_balancer(both_ways: tuple[Daemon, int]) -> None:
    """What begins neither with a header nor with TLS is cut, also if a client on this host waits."""
    daemon, direct = both_ways
    through, daemon.port = daemon.port, direct
    try:
        own = client(daemon)
    finally:
        daemon.port = through
    with own, _proxied(daemon, HEADER) as other:
        for each in (own, other):
            each.passive_port()
        for start in (b"x", b"PROXY TCP4 x\r\n", b"P\x16\x03\x01", b"\r\n\x16\x03\x01"):
            with socket.create_connection(("127.0.0.1", daemon.passive[0]), PATIENCE) as stranger:
                stranger.sendall(start)
                assert ended(stranger) == b""


def _proxied(daemon: Daemon, header: bytes, user: str = "alice") -> FtpClient:
    """Return a client that is logged in through a proxy."""
    made = FtpClient(daemon, greeting=False)
    made.send_raw(header)
    assert made.reply().startswith("220")
    made.start_tls(tls_context())
    return made.login(user)


def test_behind_a_load_balancer(make_daemon: Make) -> None:
    """With the PROXY protocol, the address in the header tells the session; where several have it, TLS does."""
    proxy = {"address": "127.0.0.1", "tls": "explicit", "proxy_protocol": {"trusted": ["127.0.0.1/32"]}}
    daemon = sharing(make_daemon, {"passive": {"proxy_protocol": True}})
    daemon.stop()
    direct, daemon.port = daemon.port, daemon.passive[1]
    daemon.settings["listen"] = [{**proxy, "port": daemon.port}, {"address": "127.0.0.1", "port": direct}]
    daemon.write()
    daemon.start()
    headers = [b"PROXY TCP4 198.51.100.%d 127.0.0.1 4242 21\r\n" % number for number in (7, 8, 8)]
    clients = [_proxied(daemon, header) for header in headers]
    for number, each in enumerate(clients):
        (daemon.home() / f"f{number}").write_bytes(b"%d" % number * 1000)
        assert each.passive_port() == daemon.passive[0]
    for number, each in list(enumerate(clients))[::-1]:
        connection = each.connect_data(daemon.passive[0])
        connection.sendall(headers[number])
        each.expect(150, f"RETR f{number}")
        data = each.secure_data(connection)
        assert read_all(data) == b"%d" % number * 1000
        data.unwrap().close()
        assert each.reply().startswith("226 ")
        each.socket.close()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("workers", [1, 3])
def test_a_reload_without_the_load_balancer(make_daemon: Make, workers: int) -> None:
    """A session that began behind a load balancer keeps its data connections when a reload ends the PROXY protocol."""
    daemon = sharing(make_daemon, {"passive": {"proxy_protocol": True}, "workers": workers})
    daemon.stop()
    daemon.settings["listen"][0]["proxy_protocol"] = {"trusted": ["127.0.0.1/32"]}
    daemon.write()
    daemon.start()
    (daemon.home() / "mine").write_bytes(BYTES)
    header = b"PROXY TCP4 198.51.100.7 127.0.0.1 4242 21\r\n"
    with _proxied(daemon, header) as own:
        del daemon.settings["listen"][0]["proxy_protocol"]
        daemon.settings["passive"]["proxy_protocol"] = False
        daemon.write()
        daemon.reload()
        connection = own.connect_data()
        connection.sendall(header)
        own.expect(150, "RETR mine")
        data = own.secure_data(connection)
        assert read_all(data) == BYTES
        data.unwrap().close()
        assert own.reply().startswith("226 ")


def test_the_status_of_a_shared_port(make_daemon: Make) -> None:
    """`ftpsd status` shows the port, and no number of ports in use: none is ever used up."""
    daemon = sharing(make_daemon, {"admin": {"socket": "admin.sock"}})
    done = forkserver.run(["status", "-c", str(daemon.config)])
    assert re.search(rf"^passive ports +{daemon.passive[0]}, shared by all sessions$", done.stdout, re.MULTILINE)


def test_foreign_data(make_daemon: Make) -> None:
    """Another host of `foreign_data` may connect. If several sessions wait, nobody knows for which, and none is served.

    Hosts that are not listed are refused as always.
    """
    daemon = sharing(make_daemon, PLAIN, {"foreign_data": ["127.0.0.8/32"], "timeouts": {"data_connect": 2}})
    (daemon.home() / "mine").write_bytes(BYTES)
    with client(daemon, None) as own, client(daemon, None, "bob") as other:
        port = own.passive_port()
        with own.connect_data(port, "127.0.0.9") as stranger:
            assert read_all(stranger) == b""
        with own.connect_data(port, "127.0.0.8") as foreign:
            own.expect(150, "RETR mine")
            assert read_all(foreign) == BYTES
        assert own.reply().startswith("226 ")
        for each in (own, other):
            assert each.passive_port() == port
        with own.connect_data(port, "127.0.0.8") as foreign:
            for each in (own, other):
                each.send("NLST")
            assert not foreign.recv(1)
        for each in (own, other):
            final = each.reply()
            assert "Several sessions" in (final if final.startswith("425 ") else each.reply())


@pytest.mark.parametrize("workers", [1, 3])
def test_a_reload_without_foreign_data(make_daemon: Make, workers: int) -> None:
    """A session that began with `foreign_data` keeps it when a reload ends it for new ones."""
    daemon = sharing(make_daemon, PLAIN, {"foreign_data": ["127.0.0.8/32"], "workers": workers})
    (daemon.home() / "mine").write_bytes(BYTES)
    with client(daemon, None) as own:
        for _ in range(2):
            with own.connect_data(own.passive_port(), "127.0.0.8") as foreign:
                own.expect(150, "RETR mine")
                assert read_all(foreign) == BYTES
            assert own.reply().startswith("226 ")
            daemon.settings["foreign_data"] = []
            daemon.write()
            daemon.reload()


def test_ipv6(make_daemon: Make) -> None:
    """Everything holds for IPv6, too."""
    daemon = sharing(make_daemon, address="::1")
    with withstands(daemon), frees_everything(daemon):
        each_with_its_own(daemon, ssl.TLSVersion.TLSv1_3, 6, 8)
