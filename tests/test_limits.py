"""Limits as clients see them: sessions, transfers, rates of bytes and commands. Durations have lower bounds only."""

from __future__ import annotations

import ftplib
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ftpsd.config.settings import Limits
from ftpsd.limits.session_counts import SessionCounts
from ftpsd.protocol.addresses import plain_address
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import FtpClient, read_all, secured
from tests.hostile import BOTH, BYTES, MIB, Login, ends, frees_everything, open_transfer, plain_login, wait_until

MakeDaemon = Callable[..., Daemon]


def with_limits(make_daemon: MakeDaemon, more: dict[str, Any] | None = None, **limits: Any) -> Daemon:
    """A daemon that permits plain text."""
    return make_daemon(merge({**PLAIN, "limits": limits}, more or {}))


def provide(daemon: Daemon, size: int, user: str = "alice") -> Path:
    """Make a file `f` in a user's home."""
    path = daemon.home(user) / "f"
    path.write_bytes((BYTES * (size // len(BYTES) + 1))[:size])
    return path


def test_an_address_of_ipv6_is_a_network() -> None:
    """IPv6 sessions are counted by /64, since one host has that many addresses."""
    sessions, limits = SessionCounts(), Limits(sessions_per_address=2)
    for client in ("2001:db8::1", "2001:db8::ffff:2"):
        sessions.add(plain_address(client))
    assert (sessions.refusal(limits, plain_address("2001:db8::3")) or "?")[0] == "sessions_per_address"
    assert sessions.refusal(limits, plain_address("2001:db8:0:1::1")) is None


@contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Check that the body takes at least this many seconds."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began >= seconds


def finish(client: FtpClient, connection: socket.socket) -> bytes:
    """Read the rest of a download."""
    data = read_all(connection)
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()
    connection.close()
    assert client.reply().startswith("226")
    return data


# --- rates -----------------------------------------------------------------------------------------


@BOTH
def test_a_download_keeps_its_rate(make_daemon: MakeDaemon, login: Login) -> None:
    """2 MB at 1 MB/s take 1.5 s or longer, and arrive unchanged."""
    daemon = with_limits(make_daemon, session_download_rate=1_000_000)
    wanted = provide(daemon, 2_000_000).read_bytes()
    with login(daemon) as client:
        with at_least(1.5):
            assert client.download("RETR f") == wanted
        client.expect(200, "TYPE A")
        assert client.download("NLST") == b"f\r\n"


@BOTH
def test_an_upload_keeps_its_rate(make_daemon: MakeDaemon, login: Login) -> None:
    """An upload keeps its rate; a client that sends faster waits for its 226."""
    daemon = with_limits(make_daemon, session_upload_rate=1_000_000)
    with login(daemon) as client:
        with at_least(1.5):
            assert client.upload("STOR g", BYTES[:2_000_000]).startswith("226")
        assert (daemon.home() / "g").read_bytes() == BYTES[:2_000_000]
        provide(daemon, 3 * MIB)
        assert client.download("RETR f") == BYTES


def test_sessions_of_a_user_share_a_rate(make_daemon: MakeDaemon) -> None:
    """Three sessions of a user share the user's rate; other users are not limited by it."""
    users = {"alice": {"limits": {"download_rate": "1M"}}, "bob": {}}
    daemon = make_daemon(PLAIN, users=users)
    provide(daemon, MIB)
    provide(daemon, MIB, "bob")

    def fetch(client: FtpClient) -> int:
        with client:
            return len(client.download("RETR f"))

    with ThreadPoolExecutor() as pool, plain_login(daemon, "bob") as other:
        with at_least(2.5):
            assert list(pool.map(fetch, [plain_login(daemon) for _ in range(3)])) == [MIB] * 3
        assert len(other.download("RETR f")) == MIB
    assert "limited to 1048576 bytes/s down" in daemon.log
    assert "bob (127.0.0.1)> limited" not in daemon.log


def test_all_sessions_share_a_rate(make_daemon: MakeDaemon) -> None:
    """Sessions of different users share the server's rate."""
    daemon = with_limits(make_daemon, upload_rate="1M")

    def store(user: str) -> str:
        with secured(daemon, user) as client:
            return client.upload("STOR g", BYTES[: MIB + MIB // 2])[:3]

    with ThreadPoolExecutor() as pool, at_least(2.5):
        assert list(pool.map(store, ["alice", "bob"])) == ["226", "226"]


@BOTH
def test_sessions_get_equal_parts(make_daemon: MakeDaemon, login: Login) -> None:
    """Three simultaneous downloads of a user get equal parts of the rate within 5 %, whichever began first."""
    daemon = make_daemon(PLAIN, users={"alice": {"limits": {"download_rate": "2M"}}})
    provide(daemon, 64 * MIB)
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        came = []
        for number in range(3):
            connection = open_transfer(stack.enter_context(login(daemon)), "RETR f")
            selector.register(stack.enter_context(connection), selectors.EVENT_READ, number)
            came.append(len(connection.recv(1)))
            connection.setblocking(False)

        def receive(count: int) -> None:
            while sum(came) < count:
                for key, _ in selector.select(PATIENCE):
                    assert isinstance(key.fileobj, socket.socket)
                    with suppress(ssl.SSLWantReadError):  # a record that has not come to its end
                        came[key.data] += len(key.fileobj.recv(16384))

        receive(4 * MIB)  # also what the first one got while it was alone, which waited in its socket
        before = list(came)
        receive(12 * MIB)
        parts = [last - first for last, first in zip(came, before, strict=True)]
        assert parts == [pytest.approx(sum(parts) / 3, rel=0.05)] * 3


def test_slow_is_not_stalled(make_daemon: MakeDaemon) -> None:
    """At a very low rate no transfer counts as stalled, even if one turn lasts longer than `stalled`."""
    more = {"timeouts": {"stalled": 1}}
    daemon = with_limits(make_daemon, more, session_upload_rate=1024, session_download_rate=1024)
    provide(daemon, 4096)
    with plain_login(daemon) as client, plain_login(daemon) as other:
        connection = open_transfer(client, "RETR f")
        with at_least(2.5):
            assert other.upload("STOR g", BYTES[:4096]).startswith("226")
        assert finish(client, connection) == BYTES[:4096]


def test_a_peer_that_stalls_is_found(make_daemon: MakeDaemon) -> None:
    """A client that stops reading is disconnected, also with a rate limit."""
    daemon = with_limits(make_daemon, {"timeouts": {"stalled": 1}}, session_download_rate="900M")
    provide(daemon, 64 * MIB)
    with plain_login(daemon) as client, open_transfer(client, "RETR f"):
        assert client.reply() == "426 Transfer aborted: no data for 1 seconds."


def test_waiting_holds_no_thread(make_daemon: MakeDaemon) -> None:
    """Transfers that wait for their turn occupy no threads."""
    users = {"alice": {"limits": {"session_download_rate": 1024}}, "bob": {}}
    daemon = make_daemon(PLAIN, users=users)
    provide(daemon, MIB)
    provide(daemon, MIB, "bob")
    with ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(plain_login(daemon))
            stack.enter_context(open_transfer(client, "RETR f"))
        with secured(daemon, "bob") as client:
            assert client.download("RETR f") == BYTES[:MIB]


@BOTH
def test_a_waiting_transfer_can_be_ended(make_daemon: MakeDaemon, login: Login) -> None:
    """ABOR, a lost control connection and the end of the daemon do not wait for a rate-limited transfer."""
    daemon = with_limits(make_daemon, session_download_rate=1024, session_upload_rate=1024)
    provide(daemon, MIB)
    with frees_everything(daemon):
        with login(daemon) as client:
            for line in ("RETR f", "STOR g"):
                with open_transfer(client, line) as connection:
                    if line == "STOR g":
                        connection.sendall(BYTES[:65536])
                    assert client.command("ABOR").startswith("426")
                    assert client.reply().startswith("226")
            open_transfer(client, "RETR f").close()
        with login(daemon) as client:
            connection = open_transfer(client, "RETR f")
        connection.close()
    with login(daemon) as client, open_transfer(client, "RETR f"):
        daemon.stop()
        assert "421 " in ends(client)


def test_reload_changes_rates_for_new_sessions(make_daemon: MakeDaemon) -> None:
    """A session keeps the rate that it began with."""
    daemon = with_limits(make_daemon, download_rate="1M")
    provide(daemon, 2 * MIB)
    with plain_login(daemon) as old:
        daemon.settings["limits"] = {"session_download_rate": "500K"}
        daemon.write()
        daemon.reload()
        with at_least(1.5):
            old.download("RETR f")
        with plain_login(daemon) as new, at_least(3.5):
            new.download("RETR f")
    assert "limited to 512000 bytes/s down" in daemon.log


# --- transfers -------------------------------------------------------------------------------------


def test_transfers_of_a_user(make_daemon: MakeDaemon) -> None:
    """One transfer too many gets 450 instead of 150, in any session of the user.

    Listings and other users are not limited.
    """
    daemon = with_limits(make_daemon, transfers_per_user=2)
    provide(daemon, 64 * MIB)
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(plain_login(daemon)) for _ in range(3))
        one, other = open_transfer(first, "RETR f"), open_transfer(second, "STOR g")
        for line in ("RETR f", "STOR h", "APPE h", "STOU"):
            third.passive_port()
            assert third.command(line) == "450 Too many transfers of this user (limit: 2): try again later."
        assert b"f" in third.download("NLST")
        with plain_login(daemon, "bob") as bob:
            assert bob.upload("STOR h", b"bob's").startswith("226")
        other.close()
        assert second.reply().startswith("226")
        assert third.upload("STOR h", b"alice's").startswith("226")
        one.close()
    assert "450 Too many transfers of this user (limit: 2)" in daemon.log


def test_transfers_in_all(make_daemon: MakeDaemon) -> None:
    """The server's transfer limit holds for all users together, and an aborted transfer makes room."""
    daemon = with_limits(make_daemon, transfers=1)
    provide(daemon, 64 * MIB)
    with plain_login(daemon) as alice, plain_login(daemon, "bob") as bob:
        for _ in range(2):
            connection = open_transfer(alice, "RETR f")
            bob.passive_port()
            assert bob.command("STOR g") == "450 Too many transfers on this server (limit: 1): try again later."
            connection.close()
            assert alice.reply().startswith("426")
            assert bob.upload("STOR g", b"x").startswith("226")
        alice.passive_port()
        alice.expect(550, "RETR nothing")  # what fails is over, too
        assert bob.upload("STOR g", b"x").startswith("226")


def test_transfers_per_user_have_exceptions(make_daemon: MakeDaemon) -> None:
    """A user's own transfer limit replaces the general one."""
    users = {"alice": {"limits": {"transfers": 2}}, "bob": {}}
    daemon = make_daemon({**PLAIN, "limits": {"transfers_per_user": 1}}, users=users)
    with ExitStack() as stack:
        for user, codes in {"alice": ["150", "150", "450"], "bob": ["150", "450"]}.items():
            for number, code in enumerate(codes):
                client = stack.enter_context(plain_login(daemon, user))
                stack.enter_context(client.connect_data())
                client.expect(int(code), f"STOR {number}")


# --- sessions --------------------------------------------------------------------------------------


def test_sessions_of_a_user(make_daemon: MakeDaemon) -> None:
    """One session too many gets 421 after the right password, and ends. It does not count as a failed login."""
    users = {"alice": {"limits": {"sessions": 3}}, "bob": {}}
    daemon = make_daemon({**PLAIN, "limits": {"sessions_per_user": 1}}, users=users)
    with ExitStack() as stack:
        for user, most in (("alice", 3), ("bob", 1)):
            for _ in range(most):
                stack.enter_context(plain_login(daemon, user))
            for _ in range(4):
                with FtpClient(daemon) as client:
                    client.expect(331, f"USER {user}")
                    reply = f"421 Too many sessions of this user (limit: {most}): try again later.\r\n"
                    client.send("PASS secret")
                    assert ends(client) == reply
        with FtpClient(daemon) as client:
            client.expect(331, "USER bob")
            client.expect(530, "PASS wrong")  # who does not know the password learns nothing
    daemon.wait_for_log("login of bob refused: Too many sessions of this user .limit: 1.: try again later.")
    daemon.wait_for_log("login failed")
    assert daemon.log.count("login failed") == 1


def test_a_session_makes_room(make_daemon: MakeDaemon) -> None:
    """QUIT, a lost connection, REIN and another USER each make room for the user's next session."""
    daemon = with_limits(make_daemon, sessions_per_user=1)

    def admitted() -> bool:
        try:
            plain_login(daemon).socket.close()
        except AssertionError:
            return False
        return True

    with plain_login(daemon) as client:
        assert not admitted()
        client.expect(221, "QUIT")
    wait_until(admitted, "room behind QUIT")
    wait_until(admitted, "room behind a lost connection")
    for line in ("REIN", "USER bob"):
        wait_until(admitted, "room behind the last one")
        time.sleep(0.1)
        with plain_login(daemon) as client:
            assert not admitted()
            client.command(line)
            wait_until(admitted, f"room behind {line}")


def test_ftplib_sees_a_temporary_error(make_daemon: MakeDaemon) -> None:
    """ftplib takes the refusal for a temporary error, not for a wrong password."""
    daemon = with_limits(make_daemon, sessions_per_user=1)
    with plain_login(daemon), ftplib.FTP() as client:
        client.connect(daemon.host, daemon.port)
        with pytest.raises(ftplib.error_temp, match="421 Too many sessions of this user"):
            client.login("alice", "secret")


# --- commands --------------------------------------------------------------------------------------


@BOTH
def test_fast_commands_wait(make_daemon: MakeDaemon, login: Login) -> None:
    """Commands above the rate and its burst are answered later, all of them, in order; it is logged once."""
    daemon = with_limits(make_daemon, commands_per_second=100)
    with login(daemon) as client:
        with at_least(1.5):
            for verb in ("RETR", "STOR", "LIST", "SIZE"):
                client.send(*["NOOP"] * 99, f"HELP {verb}")
                for _ in range(99):
                    assert client.reply().startswith("200 ")
                assert f"Syntax: {verb}" in client.reply()
        client.send(*["NOOP"] * 150)
        for _ in range(150):
            assert client.reply().startswith("200 ")
        client.expect(221, "QUIT")
    assert daemon.log.count("more than 100 commands per second: further ones are delayed") == 1


def test_others_do_not_wait(make_daemon: MakeDaemon) -> None:
    """A session that is slowed down delays no other session, and can end while it waits."""
    daemon = with_limits(make_daemon, commands_per_second=1)
    with frees_everything(daemon):
        with FtpClient(daemon) as client:
            client.send(*["NOOP"] * 50)
            with FtpClient(daemon) as other:
                other.expect(200, "NOOP")


def test_abort_comes_through(make_daemon: MakeDaemon) -> None:
    """A session that has used up its commands can still abort its transfer."""
    daemon = with_limits(make_daemon, commands_per_second=20)
    provide(daemon, 64 * MIB)
    with plain_login(daemon) as client:
        connection = open_transfer(client, "RETR f")
        client.send(*["STAT"] * 60, "ABOR")
        for _ in range(60):
            assert client.reply().startswith("213 Transfer in progress")
        assert client.reply().startswith("426")
        assert client.reply().startswith("226")
        connection.close()
