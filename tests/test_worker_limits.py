"""Limits and bans of a daemon with three workers, as clients see them: as exact as those of one process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.ftpclient import FtpClient, read_all
from tests.hostile import BYTES, MIB, plain_login, wait_until

MakeDaemon = Callable[..., Daemon]

WORKERS = 3


@pytest.fixture
def three(make_daemon: MakeDaemon) -> Callable[..., Daemon]:
    """Makes daemons with three workers, which permit plain text."""

    def make(more: dict[str, Any], **users: dict[str, Any]) -> Daemon:
        daemon = make_daemon(merge({**PLAIN, "workers": WORKERS}, more), users or None)
        (daemon.home() / "f").write_bytes(BYTES * (64 * MIB // len(BYTES)))
        return daemon

    return make


@contextmanager
def connected(daemon: Daemon, count: int, user: str = "alice", source: str | None = None) -> Iterator[list[FtpClient]]:
    """Sessions that have sent a user name. Connections go to the worker with the fewest, so all workers have some."""
    with ExitStack() as stack:
        clients = [stack.enter_context(FtpClient(daemon, source=source)) for _ in range(count)]
        for client in clients:
            client.expect(331, f"USER {user}")
        yield clients


def all_say(clients: list[FtpClient], line: str) -> list[str]:
    """Send a line in all sessions, before a reply is read. Return the replies."""
    for client in clients:
        client.send(line)
    return [client.reply() for client in clients]


@pytest.mark.parametrize("limits", [{"sessions_per_user": 10}, {}])
def test_sessions_of_a_user(three: Callable[..., Daemon], limits: dict[str, int]) -> None:
    """Of thirty logins at the same moment exactly as many get in as the user's limit says, at every attempt."""
    daemon = three({"limits": limits}, alice={} if limits else {"limits": {"sessions": 10}})
    for _ in range(3):
        with connected(daemon, 30) as clients:
            replies = all_say(clients, "PASS secret")
            assert sorted(reply[:3] for reply in replies) == ["230"] * 10 + ["421"] * 20
            inside = [client for client, reply in zip(clients, replies, strict=True) if reply.startswith("230")]
            assert {reply[:3] for reply in all_say(inside, "QUIT")} == {"221"}


def test_sessions_of_a_group(make_daemon: MakeDaemon) -> None:
    """The members of a group get in together exactly as often as the group's limit says."""
    users = {name: {"groups": ["staff"]} for name in ("alice", "bob")}
    daemon = make_daemon(
        merge(PLAIN, {"workers": WORKERS}), users, groups={"staff": {"shared": {"limits": {"sessions": 7}}}}
    )
    with connected(daemon, 10) as first, connected(daemon, 10, "bob") as second:
        replies = all_say([*first, *second], "PASS secret")
        assert sorted(reply[:3] for reply in replies) == ["230"] * 7 + ["421"] * 13


def test_sessions_in_all(three: Callable[..., Daemon]) -> None:
    """The supervisor admits as many connections as the limits of the server say, whichever worker has them."""
    daemon = three({"limits": {"sessions": 8, "sessions_per_address": 5}})
    with connected(daemon, 5), FtpClient(daemon, greeting=False) as refused:
        assert refused.reply() == "421 Too many sessions from your address: try again later."
        with connected(daemon, 3, source="127.0.0.2"), FtpClient(daemon, greeting=False, source="127.0.0.3") as other:
            assert other.reply() == "421 Too many sessions: try again later."
    wait_until(lambda: _greeting(daemon).startswith("220"), "room for a session")


def _greeting(daemon: Daemon) -> str:
    with FtpClient(daemon, greeting=False) as client:
        return client.reply()


@pytest.mark.parametrize("limit", ["transfers", "transfers_per_user"])
def test_transfers(three: Callable[..., Daemon], limit: str) -> None:
    """Of twelve downloads at the same moment exactly five begin; each that ends makes room for one."""
    daemon = three({"limits": {limit: 5}})
    with ExitStack() as stack:
        clients = [stack.enter_context(plain_login(daemon)) for _ in range(12)]
        for _ in range(3):
            data = [client.connect_data(client.passive_port()) for client in clients]
            replies = all_say(clients, "RETR f")
            assert sorted(reply[:3] for reply in replies) == ["150"] * 5 + ["450"] * 7
            for each in data:
                each.close()
            running = [client for client, reply in zip(clients, replies, strict=True) if reply.startswith("150")]
            assert {client.reply()[:3] for client in running} == {"426"}


def test_a_rate(three: Callable[..., Daemon]) -> None:
    """Six downloads at three workers share the rate of their user: together they are not faster than one."""
    daemon = three({}, alice={"limits": {"download_rate": 2_000_000}})
    (daemon.home() / "g").write_bytes(bytes(1_000_000))
    with ExitStack() as stack:
        clients = [stack.enter_context(plain_login(daemon)) for _ in range(6)]
        data = [client.connect_data(client.passive_port()) for client in clients]
        began = time.monotonic()
        assert {reply[:3] for reply in all_say(clients, "RETR g")} == {"150"}
        assert sum(len(read_all(each)) for each in data) == 6_000_000
        took = time.monotonic() - began
        for each in data:
            each.close()
        assert {client.reply()[:3] for client in clients} == {"226"}
    assert 2.85 <= took <= 6


def test_a_ban_holds_at_all_workers(three: Callable[..., Daemon]) -> None:
    """Wrong passwords count together wherever they are checked, and the ban refuses right ones everywhere at once."""
    daemon = three({"bans": {"attempts": 4, "allow": []}})
    with connected(daemon, 9, source="127.0.0.2") as clients:
        replies = [client.command("PASS wrong") for client in clients[:4]]
        assert {reply[:3] for reply in replies} == {"530"}
        for client in clients[4:]:
            assert client.command("PASS secret") == "530 Logins from your address are blocked after failed attempts."
    with FtpClient(daemon, greeting=False, source="127.0.0.2") as banned:
        assert banned.reply().startswith("421 Too many failed logins")
    with plain_login(daemon) as client:
        client.expect(257, "PWD")
    daemon.wait_for_log("127.0.0.2.> banned for ")
    assert daemon.log.count("127.0.0.2)> banned for ") == 1


def test_a_right_password_after_a_ban(three: Callable[..., Daemon]) -> None:
    """Once a client has seen the ban, no worker tells it that a password was right for a login that is refused."""
    users = {"alice": {}, "expired": {"expires": "2020-01-01"}, "full": {"limits": {"sessions": 1}}}
    daemon = three({"bans": {"attempts": 4, "allow": []}}, **users)
    for number, user in enumerate(("expired", "full"), 2):
        with plain_login(daemon, "full"), connected(daemon, 10, user, f"127.0.0.{number}") as clients:
            replies = all_say(clients[:4], "PASS wrong")
            assert {reply[:3] for reply in replies} == {"530"}
            for client in clients[4:]:
                assert client.command("PASS secret").startswith("530 Logins from your address are blocked")


def test_a_code_is_good_at_one_worker(make_daemon: MakeDaemon) -> None:
    """Of six sessions at three workers that send the same one-time password at once, one gets in."""
    pyotp = pytest.importorskip("pyotp")
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    daemon = make_daemon(merge(PLAIN, {"workers": WORKERS}), {"alice": {"totp": secret}})
    for ahead in (0, 1):
        code = pyotp.TOTP(secret).at(int(time.time()) + 30 * ahead)
        with connected(daemon, 6) as clients:
            replies = all_say(clients, f"PASS secret{code}")
            assert sorted(reply[:3] for reply in replies) == ["230"] + ["530"] * 5


def test_a_code_stays_used_without_its_worker(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """A code that was used is refused after all workers were killed, and after a restart; a later one logs in."""
    pyotp = pytest.importorskip("pyotp")
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    state = tmp_path / "state"
    state.mkdir()
    settings = {"workers": WORKERS, "state": {"directory": str(state)}}
    daemon = make_daemon(merge(PLAIN, settings), {"alice": {"totp": secret}})

    def serves() -> bool:
        with FtpClient(daemon, greeting=False) as client:
            return client.reply().startswith("220")

    def answers(line: str) -> list[str]:
        with connected(daemon, WORKERS) as clients:
            return [reply[:3] for reply in all_say(clients, line)]

    code = pyotp.TOTP(secret).at(int(time.time()))
    assert sorted(answers(f"PASS secret{code}")) == ["230", "530", "530"]
    pids = daemon.workers()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(daemon.workers()) - set(pids)) == WORKERS, "new workers")
    wait_until(serves, "a worker that serves")
    assert answers(f"PASS secret{code}") == ["530"] * WORKERS
    daemon.stop()
    daemon.start()
    assert answers(f"PASS secret{code}") == ["530"] * WORKERS
    later = pyotp.TOTP(secret).at(int(time.time()) + 30)
    assert sorted(answers(f"PASS secret{later}")) == ["230", "530", "530"]


def test_a_worker_that_is_killed_returns_its_counts(three: Callable[..., Daemon]) -> None:
    """After SIGKILL the user's other sessions are counted, and no more: as many new ones get in as there were lost."""
    daemon = three({"limits": {"sessions_per_user": 6, "transfers_per_user": 6}})
    pids = daemon.workers()
    assert len(pids) == WORKERS
    with ExitStack() as stack:
        clients = [stack.enter_context(plain_login(daemon)) for _ in range(6)]
        data = [stack.enter_context(client.connect_data(client.passive_port())) for client in clients]
        assert {reply[:3] for reply in all_say(clients, "RETR f")} == {"150"}
        assert _login(daemon).startswith("421 Too many sessions of this user (limit: 6)")
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: len(set(daemon.workers()) - set(pids)) == 1, "a new worker")
        wait_until(lambda: _login(daemon).startswith("230"), "room for a session")
        again = [stack.enter_context(plain_login(daemon)) for _ in range(2)]
        assert _login(daemon).startswith("421 Too many sessions of this user (limit: 6)")
        data += [stack.enter_context(client.connect_data(client.passive_port())) for client in again]
        assert {reply[:3] for reply in all_say(again, "RETR f")} == {"150"}


def _login(daemon: Daemon) -> str:
    with FtpClient(daemon, greeting=False) as client:
        client.reply()
        client.command("USER alice")
        return client.command("PASS secret")


def test_transfers_of_a_worker_that_is_killed(three: Callable[..., Daemon]) -> None:
    """Transfers of a killed worker count no longer: others may begin."""
    daemon = three({"limits": {"transfers": 3}})
    with ExitStack() as stack:
        clients = [stack.enter_context(plain_login(daemon)) for _ in range(3)]
        data = [stack.enter_context(client.connect_data(client.passive_port())) for client in clients]
        assert {reply[:3] for reply in all_say(clients, "RETR f")} == {"150"}
        other = stack.enter_context(plain_login(daemon))
        other.passive_port()
        assert other.command("RETR f").startswith("450 Too many transfers on this server")
        lost = daemon.workers()[0]
        os.kill(lost, signal.SIGKILL)
        wait_until(lambda: lost not in daemon.workers(), "the end of the worker")
        # One of the sessions was at that worker, perhaps the fourth as well.
        newest = stack.enter_context(plain_login(daemon))
        wait_until(lambda: _may_begin(newest), "room for a transfer")
        assert len(data) == 3


def _may_begin(client: FtpClient) -> bool:
    with client.connect_data(client.passive_port()) as data:
        begins = client.command("RETR f").startswith("150")
        data.close()
    if begins:
        assert client.reply().startswith(("426", "226"))
    return begins


def test_a_client_that_comes_back_at_once(three: Callable[..., Daemon]) -> None:
    """A client whose session has ended gets the next one, at another worker, however soon it asks."""
    daemon = three({"limits": {"sessions_per_address": 1, "sessions_per_user": 1}})
    for _ in range(30):
        assert _greeting(daemon).startswith("220 ")
    for _ in range(5):
        assert _login(daemon).startswith("230 ")
    with FtpClient(daemon):
        for _ in range(3):
            assert _greeting(daemon).startswith("421 Too many sessions from your address")
