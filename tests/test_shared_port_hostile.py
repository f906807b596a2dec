"""Attacks on a shared passive port: nobody gets the connection of another session, and nobody has to wait for others."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpsd.data.passive.arrivals import LONG
from ftpsd.data.passive.departed import LATE
from ftpsd.data.passive.places import MOST
from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.ftpclient import FtpClient, read_all, tls_context
from tests.hostile import BYTES, cut, frees_everything, reset, wait_until, withstands
from tests.shared_port import Make, begin, client, hello, sharing, sharing_for_a_module

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])

#: Data connections need not resume the TLS session of their control connection.
ALLOW = {"tls": {"data_session": "allow"}}

#: Everything is permitted, so that only the way to the right session protects it.
LAX = merge(PLAIN, {"tls": {"data_session": "allow"}, "passive": {"shared": {"ambiguous": "oldest"}}})


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """A daemon with one port for all sessions."""
    limits = {"limits": {"sessions": 2000, "sessions_per_address": 2000, "sessions_per_user": 2000}}
    with sharing_for_a_module(tmp_path_factory.mktemp("sharing"), certificate, limits) as made:
        yield made


def _garbage(stranger: socket.socket) -> None:
    stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")


def _half_a_hello(stranger: socket.socket) -> None:
    stranger.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))


def _wrong_hello(stranger: socket.socket) -> None:
    stranger.sendall(b"\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03" + b"\xff" * 42)


def _silent(stranger: socket.socket) -> None:
    """Send nothing."""


WAYS = [_silent, _garbage, _half_a_hello, _wrong_hello, cut, reset]


@VERSIONS
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.lstrip("_"))
def test_strangers_who_connect_first(
    daemon: Daemon, version: ssl.TLSVersion, way: Callable[[socket.socket], None]
) -> None:
    """A stranger on the clients' host that connects first does not end the transfer of a session, nor delay it long."""
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), frees_everything(daemon):
        with client(daemon, version) as own, client(daemon, version) as other:
            other.passive_port()
            port = own.passive_port()
            strangers = [own.connect_data(port) for _ in range(3)]
            for each in strangers:
                way(each)
            connection = own.connect_data(port)
            began = time.monotonic()
            own.expect(150, "RETR mine")
            data = own.secure_data(connection)
            assert read_all(data) == BYTES
            data.unwrap().close()
            assert own.reply().startswith("226 ")
            assert time.monotonic() - began < 20
            for each in strangers:
                each.close()


@VERSIONS
@pytest.mark.parametrize("protection", ["C", "P"])
@pytest.mark.parametrize("line", ["STOR stolen", "RETR bait"])
def test_another_user_waits_longer(make_daemon: Make, version: ssl.TLSVersion, protection: str, line: str) -> None:
    """A session of another user behind the same NAT, which waits longer, does not get a connection that resumes.

    That holds for PROT C and PROT P, also where a connection that does not tell goes to the oldest session.
    """
    daemon = sharing(make_daemon, LAX)
    (daemon.home("bob") / "bait").write_bytes(b"bait")
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), client(daemon, version, "bob") as thief, client(daemon, version) as own:
        thief.expect(200, f"PROT {protection}")
        thief.passive_port()
        port = own.passive_port()
        connection = own.connect_data(port)
        thief.expect(150, line)
        time.sleep(0.3)
        own.expect(150, "RETR mine")
        data = own.secure_data(connection)
        assert read_all(data) == BYTES
        data.unwrap().close()
        assert own.reply().startswith("226 ")
    assert not (daemon.home("bob") / "stolen").exists()


@VERSIONS
def test_a_replayed_client_hello(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """The ClientHello of another session, sent again, reaches that session only, and does not end its transfer."""
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), client(daemon, version) as own, client(daemon, version, "bob") as thief:
        assert own.download("RETR mine") == BYTES
        replay = hello(own, resume=True)
        thief.passive_port()
        port = own.passive_port()
        stolen = thief.connect_data(port)
        stolen.sendall(replay)
        thief.send("STOR stolen")
        assert thief.reply().startswith("150 ")
        own.expect(150, "RETR mine")
        data = own.secure_data(own.connect_data(port))
        assert read_all(data) == BYTES
        data.unwrap().close()
        assert own.reply().startswith("226 ")
        stolen.close()
    assert not (daemon.home("bob") / "stolen").exists()


def test_a_flood_from_another_address(daemon: Daemon) -> None:
    """Hundreds of connections from another address, with and without sessions, do not delay a client's transfers."""
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), frees_everything(daemon), contextlib.ExitStack() as open_ones:
        with client(daemon) as own:
            for _ in range(3):
                other = open_ones.enter_context(FtpClient(daemon, source="127.0.0.2"))
                other.start_tls()
                other.login("bob").passive_port()
            port = daemon.passive[0]
            for number in range(300):
                where = ("127.0.0.2" if number % 2 else "127.0.0.3", 0)
                stranger = open_ones.enter_context(socket.create_connection((daemon.host, port), 10, where))
                with contextlib.suppress(OSError):
                    stranger.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" if number % 3 else hello(own))
                if number % 30 == 0:
                    assert own.download("RETR mine") == BYTES


@VERSIONS
def test_five_hundred_sessions_wait(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """Five hundred sessions of one address wait at the same time, and each connection still reaches its own."""
    with withstands(daemon), frees_everything(daemon), contextlib.ExitStack() as clients:
        waiting = [clients.enter_context(client(daemon, version)) for _ in range(500)]
        for number, each in enumerate(waiting):
            (daemon.home() / f"f{number}").write_bytes(b"%d " % number * 1000)
            each.passive_port()
        for number, each in list(enumerate(waiting))[::25]:
            connection = each.connect_data(daemon.passive[0])
            each.expect(150, f"RETR f{number}")
            data = each.secure_data(connection)
            assert read_all(data) == b"%d " % number * 1000
            data.unwrap().close()
            assert each.reply().startswith("226 ")


def test_connections_that_nobody_waits_for(daemon: Daemon) -> None:
    """A connection for which no session waits is closed immediately."""
    with withstands(daemon), frees_everything(daemon):
        for _ in range(20):
            with socket.create_connection((daemon.host, daemon.passive[0]), 10) as stranger:
                assert stranger.recv(1) == b""


def test_the_deadline_of_silent_connections(make_daemon: Make) -> None:
    """Connections that never send anything are closed when their sessions wait no longer."""
    daemon = sharing(make_daemon, {"timeouts": {"data_connect": 1}})
    with withstands(daemon), frees_everything(daemon):
        with client(daemon) as one, client(daemon) as two:
            one.passive_port()
            silent = [two.connect_data() for _ in range(4)]
            two.expect(150, "NLST")
            assert two.reply().startswith("425 ")
            for each in silent:
                each.settimeout(15)
                assert each.recv(1) == b""
                each.close()
            assert two.download("NLST") is not None


def test_abort_and_reload(make_daemon: Make) -> None:
    """ABOR ends a wait; a reload may switch `shared` off and on, and sessions keep what they began with."""
    daemon = sharing(make_daemon)
    (daemon.home() / "mine").write_bytes(BYTES)
    shared = daemon.settings["passive"]
    own_ports = {"ports": f"{daemon.passive[0] + 1}-{daemon.passive[1]}"}
    with withstands(daemon), client(daemon) as old, client(daemon) as other:
        other.passive_port()
        connection = old.connect_data()
        old.send("RETR mine")
        assert old.reply().startswith("150 ")
        old.send("ABOR")
        assert old.reply()[:3] in ("425", "426")
        assert old.reply().startswith("226 ")
        connection.close()
        daemon.settings["passive"] = own_ports
        daemon.write()
        daemon.reload()
        with client(daemon) as new:
            assert new.passive_port() != daemon.passive[0]
            assert old.passive_port() == daemon.passive[0]
            for each in (old, new, other):
                assert each.download("RETR mine") == BYTES
        daemon.settings["passive"] = shared
        daemon.write()
        daemon.reload()
        with client(daemon) as new:
            assert new.passive_port() == daemon.passive[0]
            assert new.download("RETR mine") == BYTES
    wait_until(lambda: "Traceback" not in daemon.log, "no traceback")


def test_clients_in_several_workers(make_daemon: Make) -> None:
    """With worker processes, clients of several addresses and of one address get their own bytes."""
    daemon = sharing(make_daemon, {"workers": 3}, address="0.0.0.0")
    daemon.host = "127.0.0.1"
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), contextlib.ExitStack() as clients:
        made = []
        for number in range(12):
            each = clients.enter_context(FtpClient(daemon, source=f"127.0.0.{1 + number % 6}"))
            each.start_tls()
            made.append(each.login())
            (daemon.home() / f"f{number}").write_bytes(b"%d " % number * 1000)
        for _ in range(3):
            for each in made:
                assert each.passive_port() == daemon.passive[0]
            for number, each in enumerate(made):
                connection = each.connect_data(daemon.passive[0], f"127.0.0.{1 + number % 6}")
                each.expect(150, f"RETR f{number}")
                data = each.secure_data(connection)
                assert read_all(data) == b"%d " % number * 1000
                data.unwrap().close()
                assert each.reply().startswith("226 ")


@pytest.mark.parametrize("late", [False, True], ids=["under way", "late"])
def test_the_owner_has_just_left(make_daemon: Make, late: bool) -> None:
    """The connection of a session that cancels at this moment does not go to another one that waits (`refuse`)."""
    daemon = sharing(make_daemon, PLAIN)
    with withstands(daemon), client(daemon, None) as own, client(daemon, None, "bob") as other:
        for number in range(3):
            other.passive_port()
            other.expect(150, f"STOR other{number}")
            port = own.passive_port()
            if late:
                own.expect(226, "ABOR")
            connection = own.connect_data(port)
            connection.sendall(BYTES[:100])
            if not late:
                own.expect(226, "ABOR")
            final = other.reply()
            assert final.startswith("425 ") and "ambiguous: oldest" in final
            connection.close()
            assert not any(path.stat().st_size for path in daemon.home("bob").glob("other*"))
        time.sleep(LATE)
        assert other.upload("STOR mine", BYTES).startswith("226 ")


@VERSIONS
def test_the_owner_has_just_left_with_tls(make_daemon: Make, version: ssl.TLSVersion) -> None:
    """With TLS, the connection of the session that remains is still found by its ClientHello, without any delay."""
    daemon = sharing(make_daemon, ALLOW)
    (daemon.home("bob") / "mine").write_bytes(BYTES)
    with withstands(daemon), client(daemon, version) as own, client(daemon, version, "bob") as other:
        for _ in range(5):
            port = own.passive_port()
            connection = begin(other, "RETR mine")
            own.expect(226, "ABOR")
            late = own.connect_data(port)
            late.sendall(hello(own, resume=True))
            data = other.secure_data(connection)
            assert read_all(data) == BYTES
            data.unwrap().close()
            assert other.reply().startswith("226 ")
            late.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert late.recv(1) == b""
            late.close()


@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_3], ids=["plain", "TLS"])
def test_many_connections_for_one_session(make_daemon: Make, version: ssl.TLSVersion | None) -> None:
    """A session keeps a few connections until its transfer takes one, however many its client opens."""
    daemon = sharing(make_daemon, PLAIN)
    with withstands(daemon), frees_everything(daemon), client(daemon, version) as own, contextlib.ExitStack() as opened:
        port, before = own.passive_port(), daemon.open_files()
        for _ in range(200):
            opened.enter_context(own.connect_data(port))
        own.expect(200, "NOOP")
        most = before + MOST + 1  # the session has taken one
        wait_until(lambda: daemon.open_files() <= most, f"no more than {most} descriptors")
        assert daemon.open_files() <= most


def test_a_session_that_announces_again_and_again(daemon: Daemon) -> None:
    """A client with many sessions, many silent connections and a flood of EPSV does not make others wait."""
    with withstands(daemon), frees_everything(daemon), contextlib.ExitStack() as opened:
        flooding = [opened.enter_context(client(daemon)) for _ in range(99)]
        port = min(each.passive_port() for each in flooding)
        for _ in range(206):
            opened.enter_context(flooding[0].connect_data(port))
        flooding[0].expect(200, "NOOP")
        with client(daemon, user="bob") as other:
            flooding[0].send(*["EPSV"] * 500)
            times = []
            for _ in range(20):
                began = time.monotonic()
                other.expect(200, "NOOP")
                times.append(time.monotonic() - began)
            assert sum(times) < 2  # many seconds, if each EPSV looks at all connections and all sessions
        for _ in range(500):
            assert flooding[0].reply().startswith("229 ")


@VERSIONS
def test_a_client_mixes_up_its_tls_sessions(make_daemon: Make, version: ssl.TLSVersion) -> None:
    """A data connection that resumes another session than its own is closed, and its transfer is soon told why."""
    daemon = sharing(make_daemon, ALLOW)
    (daemon.home("bob") / "mine").write_bytes(BYTES)
    with withstands(daemon), client(daemon, version) as one, client(daemon, version, "bob") as own:
        own.passive_port()
        one.download("NLST")
        one.passive_port()
        connection = begin(own, "RETR mine")
        one.expect(226, "ABOR")
        connection.sendall(hello(one, resume=True))
        final = own.reply()
        assert final.startswith("425 ") and "ambiguous: oldest" in final
        connection.close()
        daemon.wait_for_log("its client may mix them up")
        assert own.download("RETR mine") == BYTES


@VERSIONS
def test_a_client_with_one_tls_session_for_several_control_connections(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """Nobody can tell whose its data connections are. As soon as that shows, no byte of them is stored or sent.

    Two sessions of a user offer the TLS session of the second one, and later each that of the other one, as
    `curl --parallel` does. One transfer at a time still works.
    """
    context = tls_context(version)
    home = daemon.home()
    (home / "file").write_bytes(BYTES)
    before = set(home.iterdir())
    with withstands(daemon), FtpClient(daemon) as one, FtpClient(daemon) as two:
        for each in (one, two):
            each.start_tls(context)
            each.login()
        connections = _begin_both(one, two, "STOR one", "STOR two")
        with _resume(connections[0], two) as first:
            first.sendall(BYTES[:1000])
            time.sleep(0.5)
            with contextlib.suppress(OSError), _resume(connections[1], two) as second:
                second.sendall(BYTES[1000:])
            for each in (one, two):
                final = each.reply()
                assert final.startswith("425 ") and "one file at a time" in final
        assert set(home.iterdir()) == before
        connections = _begin_both(one, two, "RETR file", "RETR file")
        for connection, other in zip(connections, (two, one), strict=True):
            with contextlib.suppress(OSError), _resume(connection, other) as swapped:
                assert not read_all(swapped)
        for each in (one, two):
            assert "one file at a time" in each.reply()
        for each in (one, two):
            assert each.download("RETR file") == BYTES


def _begin_both(one: FtpClient, two: FtpClient, *lines: str) -> list[socket.socket]:
    """Let two clients announce, then connect, and then send their transfer commands, whose 150 is read."""
    ports = [each.passive_port() for each in (one, two)]
    connections = [each.connect_data(port) for each, port in zip((one, two), ports, strict=True)]
    for each, line in zip((one, two), lines, strict=True):
        each.expect(150, line)
    return connections


def _resume(connection: socket.socket, client: FtpClient) -> ssl.SSLSocket:
    """Begin TLS on a data connection with the session of a control connection."""
    assert isinstance(client.socket, ssl.SSLSocket)
    return client.context.wrap_socket(connection, server_hostname="localhost", session=client.socket.session)


@VERSIONS
def test_many_silent_neighbours(daemon: Daemon, version: ssl.TLSVersion) -> None:
    """When a host has too many silent connections, the oldest are closed, not the one that came last."""
    (daemon.home() / "mine").write_bytes(BYTES)
    with withstands(daemon), frees_everything(daemon), contextlib.ExitStack() as opened:
        own, other = (opened.enter_context(client(daemon, version)) for _ in range(2))
        other.passive_port()
        port = own.passive_port()
        for _ in range(20):
            opened.enter_context(own.connect_data(port))
        time.sleep(LONG + 0.2)
        connection = own.connect_data(port)
        for _ in range(8):
            opened.enter_context(own.connect_data(port))
        own.expect(150, "RETR mine")
        data = own.secure_data(connection)
        assert read_all(data) == BYTES
        data.unwrap().close()
        assert own.reply().startswith("226 ")


@pytest.fixture
def drained(make_daemon: Make) -> Iterator[tuple[Daemon, FtpClient, FtpClient]]:
    """A daemon, and two clients of one address: one in a worker that drains, and one in a new worker."""
    daemon = sharing(make_daemon, PLAIN, {"workers": 2})
    with client(daemon) as old:
        home = daemon.directory / "elsewhere" / "carol"
        home.mkdir(parents=True)
        daemon.users = {"alice": {}, "bob": {}, "carol": {"home": str(home)}}  # a new folder needs new workers
        daemon.write()
        daemon.reload()
        with client(daemon, user="bob") as new:
            yield daemon, old, new


def test_clients_in_two_generations_of_workers(drained: tuple[Daemon, FtpClient, FtpClient]) -> None:
    """While an old worker drains, connections of one address still reach their own sessions in both, by TLS."""
    daemon, old, new = drained
    (daemon.home() / "mine").write_bytes(b"alice")
    (daemon.home("bob") / "mine").write_bytes(b"bob")
    for waiting, own, expected in ((old, new, b"bob"), (new, old, b"alice")) * 2:
        waiting.passive_port()
        connection = begin(own, "RETR mine")
        data = own.secure_data(connection)
        assert read_all(data) == expected
        data.unwrap().close()
        assert own.reply().startswith("226 ")


def test_plain_text_in_two_generations_of_workers(drained: tuple[Daemon, FtpClient, FtpClient]) -> None:
    """While an old worker drains, connections in plain text that may belong to sessions of both are refused."""
    daemon, old, new = drained
    for each in (old, new):
        each.expect(200, "PROT C")
    old.passive_port()
    old.expect(150, "STOR stolen")
    connection = begin(new, "STOR mine")
    connection.sendall(BYTES[:100])
    connection.close()
    for each in (old, new):
        final = each.reply()
        assert final.startswith("425 ") and "ambiguous: oldest" in final
    assert not any(path.stat().st_size for path in daemon.home().glob("stolen"))


def test_foreign_data_from_a_host_with_sessions(make_daemon: Make) -> None:
    """With workers, a host that has sessions of its own can still connect for a session of another host."""
    daemon = sharing(make_daemon, PLAIN, {"workers": 2, "foreign_data": ["127.0.0.0/8"]})
    (daemon.home() / "mine").write_bytes(BYTES)
    with FtpClient(daemon, source="127.0.0.3") as own, FtpClient(daemon, source="127.0.0.2") as other:
        own.login()
        other.login("bob")
        connection = own.connect_data(own.passive_port(), "127.0.0.2")
        own.expect(150, "RETR mine")
        assert read_all(connection) == BYTES
        connection.close()
        assert own.reply().startswith("226 ")
