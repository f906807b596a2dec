"""Early connections to a passive port: of strangers on the client's host, and of clients that begin TLS at once."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all, secured, tls_context
from tests.hostile import BYTES, cut, frees_everything, plain_login, reset, withstands

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@contextlib.contextmanager
def _client(daemon: Daemon, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[FtpClient]:
    with FtpClient(daemon) as client:
        client.start_tls(tls_context(version))
        yield client.login()


def _silent(stranger: socket.socket) -> None:
    """Send nothing."""


def _garbage(stranger: socket.socket) -> None:
    stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")


def _half_a_hello(stranger: socket.socket) -> None:
    stranger.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))


def _new_session(stranger: socket.socket) -> None:
    """Begin a full handshake of a new session: send its first flight."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = tls_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    stranger.sendall(outgoing.read())
    stranger.settimeout(5)
    with contextlib.suppress(OSError):
        incoming.write(stranger.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        stranger.sendall(outgoing.read())


def _gone(stranger: socket.socket) -> None:
    cut(stranger)


def _reset(stranger: socket.socket) -> None:
    reset(stranger)


WAYS = [_silent, _garbage, _half_a_hello, _gone, _reset]


@pytest.mark.parametrize("wait", [0, 0.3], ids=["at once", "later"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__[1:])
def test_strangers_who_connect_first(shared: Daemon, way: Callable[[socket.socket], None], wait: float) -> None:
    """A stranger on the client's host that connects first does not end the client's transfer (PROT P)."""
    (shared.home() / "mine").write_bytes(BYTES)
    with withstands(shared), frees_everything(shared), secured(shared) as client:
        for line in ("RETR mine", "STOR yours", "LIST"):
            port = client.passive_port()
            strangers = [client.connect_data(port) for _ in range(3)]
            for stranger in strangers:
                way(stranger)
            connection = client.connect_data(port)
            time.sleep(wait)
            client.expect(150, line)
            data = client.secure_data(connection)
            if line.startswith("STOR"):
                data.sendall(BYTES)
            else:
                assert read_all(data) == BYTES or line == "LIST"
            data.unwrap().close()
            assert client.reply().startswith("226 ")
            for stranger in strangers:
                stranger.close()
    assert (shared.home() / "yours").read_bytes() == BYTES


@VERSIONS
def test_a_stranger_with_a_session_of_its_own(shared: Daemon, version: ssl.TLSVersion) -> None:
    """A complete handshake of a stranger that does not resume the session of the control connection has no effect."""
    (shared.home() / "mine").write_bytes(BYTES)
    with withstands(shared), _client(shared, version) as client:
        port = client.passive_port()
        with client.connect_data(port) as stranger, client.connect_data(port) as connection:
            client.send("RETR mine")
            _new_session(stranger)
            assert client.reply().startswith("150 ")
            data = client.secure_data(connection)
            assert read_all(data) == BYTES
            data.unwrap()
            with contextlib.suppress(OSError):
                assert b"\x17\x03\x03" not in stranger.recv(65536)
        assert client.reply().startswith("226 ")


@pytest.mark.parametrize("first", [True, False], ids=["client first", "client last"])
def test_a_crowd_of_strangers(shared: Daemon, first: bool) -> None:
    """More strangers than the daemon serves at the same time neither exclude the client nor leave descriptors open."""
    (shared.home() / "mine").write_bytes(BYTES)
    with withstands(shared), frees_everything(shared), secured(shared) as client:
        port = client.passive_port()
        time.sleep(0.2)
        strangers = []
        connection = client.connect_data(port)
        for _ in range(30):
            strangers.append(client.connect_data(port))
            time.sleep(0.005)
        if not first:
            connection.close()
            connection = client.connect_data(port)
        client.expect(150, "RETR mine")
        data = client.secure_data(connection)
        assert read_all(data) == BYTES
        data.unwrap().close()
        assert client.reply().startswith("226 ")
        for stranger in strangers:
            stranger.close()


def test_plain_connections_that_have_ended(plain: Daemon) -> None:
    """With PROT C, a connection that was closed before the transfer command is ignored (port scanners)."""
    (plain.home() / "mine").write_bytes(BYTES)
    with withstands(plain), frees_everything(plain), plain_login(plain) as client:
        for line in ("RETR mine", "STOR yours"):
            for end in (cut, reset):
                for wait in (0, 0.3):
                    port = client.passive_port()
                    for _ in range(3):
                        end(client.connect_data(port))
                    data = client.connect_data(port)
                    time.sleep(wait)
                    client.expect(150, line)
                    if line.startswith("STOR"):
                        data.sendall(BYTES)
                        data.close()
                    else:
                        assert read_all(data) == BYTES
                        data.close()
                    assert client.reply().startswith("226 ")
                    assert (plain.home() / "mine").read_bytes() == BYTES
        cut(client.connect_data(port := client.passive_port()))
        assert client.command("STOR empty").startswith("150 ")
        assert client.reply().startswith("226 "), port
        reset(client.connect_data())
        reply = client.command("STOR never")
        assert (client.reply() if reply.startswith("150") else reply).startswith("426 ")
    assert (plain.home() / "empty").read_bytes() == b""
    assert not (plain.home() / "never").exists()


# --- TLS before the transfer command -------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("strangers", [0, 2])
def test_tls_before_the_command(shared: Daemon, version: ssl.TLSVersion, strangers: int) -> None:
    """A client may make the TLS handshake as soon as it has connected (aioftp, old Go programs).

    All transfers work, 150 comes before the first byte, and the session may send other commands in between.
    """
    (shared.home() / "mine").write_bytes(BYTES)
    with withstands(shared), frees_everything(shared), _client(shared, version) as client:
        for line in ("RETR mine", "LIST", "STOR yours", "APPE yours", "NLST", "RETR mine"):
            port = client.passive_port()
            crowd = [client.connect_data(port) for _ in range(strangers)]
            data = client.secure_data(client.connect_data(port))
            assert data.session_reused
            client.expect(200, "NOOP")
            client.send(line)
            if line[:4] in ("STOR", "APPE"):
                assert client.reply().startswith("150 ")
                data.sendall(BYTES)
            else:
                data.recv(0)
                content = data.recv(1)
                client.socket.settimeout(0)
                assert client.reply().startswith("150 ")
                client.socket.settimeout(5)
                content += read_all(data)
                assert content == BYTES or not line.startswith("RETR")
            data.unwrap().close()
            assert client.reply().startswith("226 ")
            for each in crowd:
                each.close()
    assert (shared.home() / "yours").read_bytes() == BYTES * 2


def test_a_full_handshake_before_the_command(make_daemon: Callable[..., Daemon]) -> None:
    """The same with `data_session: allow` and `off`, for clients that cannot resume."""
    daemon = make_daemon(users={"alice": {"tls": {"data_session": "allow"}}, "bob": {"tls": {"data_session": "off"}}})
    for user in ("alice", "bob"):
        (daemon.home(user) / "mine").write_bytes(BYTES)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with withstands(daemon), FtpClient(daemon) as client:
                client.start_tls(tls_context(version))
                client.login(user)
                for line in ("RETR mine", "STOR yours", "LIST"):
                    data = client.secure_data(client.connect_data(), resume=False)
                    client.expect(150, line)
                    if line.startswith("STOR"):
                        data.sendall(BYTES)
                    else:
                        assert read_all(data)
                    data.unwrap().close()
                    assert client.reply().startswith("226 ")


@VERSIONS
def test_an_early_handshake_that_is_refused(shared: Daemon, version: ssl.TLSVersion) -> None:
    """An early handshake that does not resume, or is for another protocol, is refused soon after the transfer command."""
    (shared.home() / "mine").write_bytes(BYTES)
    with withstands(shared), frees_everything(shared), _client(shared, version) as client:
        for alpn in ([], ["http/1.1"]):
            context = tls_context(version)
            if alpn:
                context.set_alpn_protocols(alpn)
            with contextlib.suppress(OSError), client.connect_data() as raw:
                with context.wrap_socket(raw, server_hostname="localhost") as data:
                    data.settimeout(5)
                    assert data.recv(1) == b""
            reply = client.command("RETR mine")
            reply = client.reply() if reply.startswith("150") else reply
            assert reply.startswith("522 "), reply
        assert client.download("NLST")


def test_early_handshakes_that_are_abandoned(shared: Daemon) -> None:
    """Early connections, silent or in a handshake, end with ABOR, a new EPSV, REIN, QUIT or the client."""
    with withstands(shared), frees_everything(shared):
        for way in ("ABOR", "EPSV", "PROT C", "REIN", "QUIT", "reset", "cut"):
            for early in (_silent, _half_a_hello, _garbage, None):
                with secured(shared) as client:
                    data = client.connect_data()
                    if early is None:
                        data = client.secure_data(data)
                    else:
                        early(data)
                    time.sleep(0.1)
                    if way in ("reset", "cut"):
                        (reset if way == "reset" else cut)(client.socket)
                    else:
                        client.command(way)
                    if way != "PROT C":
                        with contextlib.suppress(OSError):
                            assert data.recv(1) == b""
                    data.close()


def test_an_aborted_wait_for_a_handshake(shared: Daemon) -> None:
    """ABOR ends a transfer that waits for the handshake of an early connection."""
    (shared.home() / "mine").write_bytes(BYTES)
    with withstands(shared), frees_everything(shared), secured(shared) as client:
        for early in (_silent, _half_a_hello):
            data = client.connect_data()
            early(data)
            time.sleep(0.1)
            client.expect(150, "RETR mine")
            assert client.command("ABOR").startswith("426 ")
            assert client.reply().startswith("226 ")
            with contextlib.suppress(OSError):
                assert data.recv(1) == b""
            data.close()
            assert client.download("RETR mine") == BYTES


def test_an_early_handshake_that_never_ends(impatient: Daemon) -> None:
    """From the transfer command on, an early handshake has the same deadline as any other."""
    with withstands(impatient), frees_everything(impatient), secured(impatient) as client:
        with client.connect_data() as data:
            _half_a_hello(data)
            time.sleep(1.3)
            client.expect(150, "LIST")
            assert client.reply().startswith("522 ")
        assert client.download("NLST") is not None
