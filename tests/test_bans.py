"""Bans: the rules, on a clock that the test sets, and the daemon with its state file."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import execute
from twisted.internet.task import Clock

from ftpsd.accounts import hashes
from ftpsd.accounts.fair_queue import FairSemaphore
from ftpsd.config.settings import BanSettings
from ftpsd.events.hub import Hub
from ftpsd.limits.bans import ban_list, known_addresses
from ftpsd.limits.bans.ban_list import BanList
from ftpsd.limits.bans.ban_table import Ban
from ftpsd.limits.bans.known_addresses import DAY, KNOWN
from ftpsd.limits.bans.policy import ADDRESS_BLOCKED, NAME_BLOCKED, BanPolicy
from ftpsd.limits.bans.store import BanStore
from ftpsd.limits.bans.tables import BANS, current, lift
from ftpsd.protocol.addresses import plain_address as at
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.state import FILE, State, Store
from tests import forkserver
from tests.conftest import PLAIN
from tests.daemon import WORKERS, Daemon, ftpsd, merge, one_process
from tests.ftpclient import FtpClient, secured
from tests.hostile import ends, wait_until
from tests.test_access import GUESTS, REFUSED

# --- the rules ---------------------------------------------------------------------------------------

HOME = at("203.0.113.9")


class Rules(BanPolicy):
    """The rules, with a clock that the test sets."""

    def __init__(self, **settings: Any) -> None:
        self.time = 1_000_000.0
        self.bans = BanList(lambda: self.time)
        super().__init__(
            BanSettings(**{"attempts": 3, "window": 100, "duration": 60, "longest": 1000, **settings}), self.bans
        )

    def fail(self, address: str, user: str = "alice", times: int = 3) -> list[Ban]:
        """Record this many failed logins. Return all bans that follow."""
        return [ban for _ in range(times) for ban in self.record_failure(at(address), user)]


def test_attempts_within_the_window() -> None:
    """The address is banned with the last permitted attempt, not earlier, and until the ban's end."""
    rules = Rules()
    assert rules.fail("203.0.113.9", times=2) == []
    rules.check(HOME, "alice")
    (ban,) = rules.fail("203.0.113.9", times=1)
    assert (ban.kind, ban.subject, ban.length) == ("address", "203.0.113.9", 60)
    with pytest.raises(SessionEnd, match="530"):
        rules.check(HOME, "bob")
    rules.check(at("203.0.113.10"), "alice")
    rules.time += 60
    rules.check(HOME, "alice")
    assert rules.address_ban(HOME) is None


def test_the_window_slides() -> None:
    """Attempts count for the length of the window; a successful login does not clear them."""
    rules = Rules()
    for _ in range(10):
        assert rules.fail("203.0.113.9", times=1) == []
        rules.time += 50
    rules.record_login(HOME, "bob")
    assert rules.fail("203.0.113.9", times=1) == []
    rules.record_login(HOME, "bob")
    assert rules.fail("203.0.113.9", times=1) != []


def test_bans_double_and_decay() -> None:
    """Each ban is twice as long as the last one, up to a maximum; it is halved for each quiet period of its length."""
    rules = Rules()
    lengths = []
    for _ in range(6):
        (ban,) = rules.fail("203.0.113.9")
        lengths.append(ban.length)
        rules.time = ban.until
    assert lengths == [60, 120, 240, 480, 960, 1000]
    rules.time += 2500
    (ban,) = rules.fail("203.0.113.9")
    assert ban.length == 500
    rules.time = ban.until + 10**9
    (ban,) = rules.fail("203.0.113.9")
    assert ban.length == 60


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:203.0.113.9", "203.0.113.9", True),
        ("203.0.113.9", "203.0.113.8", False),
        ("fe80::1%2", "fe80::2%2", False),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, together: bool) -> None:
    """IPv6 addresses count by /64, and IPv4-mapped ones as IPv4."""
    rules = Rules()
    rules.fail(one)
    assert (rules.address_ban(at(other)) is not None) == together


def test_the_allow_list() -> None:
    """Addresses on the allow list are never banned, nor do they get a name banned. Loopback is on it by default."""
    rules = Rules(allow=(ipaddress.ip_network("203.0.113.0/24"), ipaddress.ip_network("2001:db8::/32")))
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::1"):
        assert rules.fail(address) == []
    assert rules.fail("127.0.0.1") != []
    assert Rules().fail("127.0.0.1") == Rules().fail("::1") == []
    assert Rules(attempts=0).fail("203.0.113.9", times=50) == []


def test_one_address_locks_no_user_out() -> None:
    """One address cannot get a user name banned, however often it fails."""
    rules = Rules()
    for _ in range(20):
        assert {ban.kind for ban in rules.fail("203.0.113.9")} <= {"address"}
        rules.time += 30
    rules.check(at("198.51.100.1"), "alice")


def test_a_name_that_many_guess() -> None:
    """A name that many addresses guess is banned for strangers.

    Addresses where the user has logged in within a month are still admitted.
    """
    rules = Rules()
    rules.record_login(HOME, "alice")
    made = [ban for host in range(3) for ban in rules.fail(f"198.51.100.{host}", times=1)]
    assert [(ban.kind, ban.subject) for ban in made] == [("user", "alice")]
    with pytest.raises(Refusal, match="530"):
        rules.check(at("192.0.2.1"), "alice")
    rules.check(at("192.0.2.1"), "bob")
    rules.check(HOME, "alice")
    rules.time += KNOWN
    [rules.fail(f"198.51.100.{host}", times=1) for host in range(3)]
    with pytest.raises(Refusal, match="530"):
        rules.check(HOME, "alice")


def sites(*addresses: str) -> Rules:
    """Return rules under which each of the addresses has failed once for alice."""
    rules = Rules()
    for address in addresses:
        rules.fail(address, times=1)
    return rules


@pytest.mark.parametrize("prefix", ["2001:db8:1:{:x}::1", "2001:db8:1:{:x}00::1", "fd00:1:2:{:x}::1"])
def test_networks_of_one_site_ban_no_name_for_others(prefix: str) -> None:
    """A name that networks of one /48 guess is banned for strangers from that /48 only, for longer each time."""
    rules = Rules()
    known = at(prefix.format(0xFE))
    rules.record_login(known, "alice")
    made = [ban for net in range(90) for ban in rules.fail(prefix.format(net), times=1)]
    inside = f"{ipaddress.ip_network(prefix.format(0) + '/48', strict=False)} alice"
    assert {(ban.kind, ban.subject) for ban in made} == {("site", inside)}
    with pytest.raises(Refusal, match="530"):
        rules.check(at(prefix.format(0xFF)), "alice")
    rules.check(known, "alice")
    rules.check(at(prefix.format(0xFF)), "bob")
    for stranger in (HOME, at("2001:db8:2::1")):
        rules.check(stranger, "alice")
    rules.time = made[-1].until
    rules.check(at(prefix.format(0xFF)), "alice")
    (ban,) = [ban for net in range(3) for ban in rules.fail(prefix.format(net), times=1)]
    assert ban.length == 2 * made[0].length


def test_a_site_has_as_many_guesses_as_an_address() -> None:
    """All networks of a /48 together have as many guesses as one IPv4 address."""
    rules = Rules(attempts=10)
    guesses = 0
    for net in range(1000):
        address = at(f"2001:db8:1:{net:x}::1")
        try:
            rules.check(address, "alice")
        except Refusal:
            continue
        guesses += 1
        rules.record_failure(address, "alice")
    assert guesses == 10


def test_one_network_locks_no_site_out() -> None:
    """One /64 cannot get its /48 banned from a name, however often it fails."""
    rules = Rules()
    for _ in range(20):
        assert {ban.kind for ban in rules.fail("2001:db8:1:1::1")} <= {"address"}
        rules.time += 150
    rules.check(at("2001:db8:1:2::1"), "alice")


def test_many_sites_get_a_name_banned() -> None:
    """A name is banned for all strangers when as many /48s or IPv4 addresses as `attempts` have failed for it."""
    rules = sites("2001:db8:1::1", "2001:db8:2::1", "203.0.113.1")
    with pytest.raises(Refusal, match="530"):
        rules.check(at("198.51.100.1"), "alice")
    sites("2001:db8:1::1", "2001:db8:1:ffff::1", "203.0.113.1").check(at("198.51.100.1"), "alice")


def test_mistakes_at_a_known_address_ban_no_name() -> None:
    """Failures from an address where the user has logged in recently count for the address only."""
    rules = Rules()
    homes = [f"198.51.100.{host}" for host in range(5)]
    for home in homes:
        rules.record_login(at(home), "alice")
    assert [ban for home in homes for ban in rules.fail(home, times=1)] == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses and names fail, only a limited number is remembered: the latest."""
    monkeypatch.setattr(ban_list, "CAPACITY", 50)
    monkeypatch.setattr(known_addresses, "MAX_TOTAL", 50)
    rules = Rules()
    for number in range(1000):
        address = str(ipaddress.IPv4Address(number + (1 << 30)))
        rules.fail(address, "x" * 5000 + str(number))
        rules.record_login(at(address), f"user{number}")
        rules.fail(str(ipaddress.IPv6Address(number << 64)), f"user{number}", times=1)
    assert len(rules.bans.table) == len(rules.bans.failures["address"]) == len(rules.bans.failures["user"]) == 50
    assert rules.address_ban(at(address)) is not None
    assert rules.bans.is_known("user999", address)
    assert not rules.bans.is_known("user9", str(ipaddress.IPv4Address(9 + (1 << 30))))


def test_users_do_not_displace_each_others_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who logs in from many addresses loses the oldest of them; no other user loses a known address."""
    rules = Rules()
    rules.record_login(HOME, "alice")
    for number in range(200):
        rules.record_login(at(f"198.51.100.{number}"), "mallory")
    assert rules.bans.is_known("alice", "203.0.113.9")
    assert [rules.bans.is_known("mallory", f"198.51.100.{number}") for number in (0, 149, 150, 199)] == [
        False,
        False,
        True,
        True,
    ]
    monkeypatch.setattr(known_addresses, "MAX_TOTAL", 60)
    for number in range(30):
        rules.record_login(at(f"192.0.2.{number}"), f"user{number}")
    assert rules.bans.is_known("alice", "203.0.113.9")
    assert all(rules.bans.is_known(f"user{number}", f"192.0.2.{number}") for number in range(30))
    assert len(list(rules.bans.known_addresses())) == 60


def test_a_reload_keeps_the_bans() -> None:
    """A reload applies to existing bans, too: an address on the new allow list is admitted."""
    rules = Rules()
    rules.fail("203.0.113.9")
    after = BanPolicy(BanSettings(allow=(ipaddress.ip_network("203.0.113.0/24"),)), rules.bans)
    after.check(HOME, "alice")
    assert BanPolicy(BanSettings(), rules.bans).address_ban(HOME) is not None


# --- kept over a restart -----------------------------------------------------------------------------


class Kept:
    """A ban list and its store; the test sets the clocks `now` and `wall`."""

    def __init__(self, store: Store, now: float, wall: float) -> None:
        self.now, self.wall = now, wall
        self.bans = BanList(lambda: self.now)
        self.ban_store = BanStore(store, self.bans, lambda: self.wall, Hub(Clock()))
        self.ban_store.restore()
        self.ban_store.check()
        self.rules = BanPolicy(BanSettings(attempts=1, duration=600), self.bans)


class AtOnce(Store):
    """A store that makes each call before `put` returns, with the thread's order and results."""

    def put(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call."""
        return execute(call, *arguments).addErrback(self._failed)


@pytest.mark.parametrize(("jump", "left"), [(0, 500), (400, 100), (700, None), (-(10**9), 600), (10**9, None)])
def test_clocks_that_jump(jump: float, left: float | None) -> None:
    """Setting the clock changes no ban of a running daemon. After a restart, no ban is longer than it was made."""
    store = AtOnce(None)  # type: ignore[arg-type]
    first = Kept(store, 50, 1_700_000_000)
    first.rules.record_failure(HOME, "alice")
    first.rules.record_login(HOME, "bob")
    first.now += 100
    first.wall += 100 + jump
    ban = first.rules.address_ban(HOME)
    assert ban is not None and ban.until - first.now == 500
    second = Kept(store, 7, first.wall)
    ban = second.rules.address_ban(HOME)
    assert (ban and ban.until - second.now) == left
    assert second.bans.is_known("bob", "203.0.113.9") == (jump < KNOWN)


def test_growth_survives_a_restart() -> None:
    """A ban that is over still makes the next one longer after a restart, until it is forgotten."""
    store = AtOnce(None)  # type: ignore[arg-type]
    first = Kept(store, 0, 1_700_000_000)
    first.rules.record_failure(HOME, "alice")
    second = Kept(store, 0, 1_700_000_000 + 700)
    assert [ban.length for ban in second.rules.record_failure(HOME, "alice") if ban.kind == "address"] == [1200]
    third = Kept(store, 0, 1_700_000_000 + 60 * DAY)
    assert len(third.bans.table) == 0


@pytest.mark.parametrize("wrong", [-(10**9), -3600, 3600, 10 * DAY])
def test_a_clock_that_is_set_right_after_the_start(wrong: int) -> None:
    """At a start with a wrong clock a ban may be too short or too long.

    When the clock is corrected, it is not too short, and no longer than it was made. Known addresses are known again.
    """
    store = AtOnce(None)  # type: ignore[arg-type]
    first = Kept(store, 0, 1_700_000_000)
    first.rules.record_failure(HOME, "alice")
    first.rules.record_login(HOME, "bob")
    second = Kept(store, 7, 1_700_000_100 + wrong)
    second.wall -= wrong
    second.ban_store.check()
    for kept in (second, Kept(store, 50, second.wall)):
        ban = kept.rules.address_ban(HOME)
        assert ban is not None and ban.until - kept.now == (500 if wrong > 0 else 600)
        assert kept.bans.is_known("bob", "203.0.113.9")


def test_known_addresses_are_as_many_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known address that makes room is deleted from the file, too, and a file with too many is read in part."""
    monkeypatch.setattr(known_addresses, "MAX_PER_USER", 3)
    store = AtOnce(None)  # type: ignore[arg-type]
    first = Kept(store, 0, 1_700_000_000)
    for number in range(9):
        first.rules.record_login(at(f"198.51.100.{number}"), "alice")
        first.now, first.wall = first.now + 1, first.wall + 1
    assert store.state.execute("SELECT count(*) FROM known_addresses") == [(3,)]
    monkeypatch.setattr(known_addresses, "MAX_PER_USER", 2)
    second = Kept(store, 0, first.wall)
    assert store.state.execute("SELECT count(*) FROM known_addresses") == [(2,)]
    assert second.bans.is_known("alice", "198.51.100.8") and not second.bans.is_known("alice", "198.51.100.6")


def test_changes_that_could_not_be_stored() -> None:
    """What could not be stored is stored at the next check, and bans lifted meanwhile stay lifted."""
    store = AtOnce(None)  # type: ignore[arg-type]
    first = Kept(store, 0, 1_700_000_000)
    first.rules.record_failure(HOME, "alice")
    store.state.execute("ALTER TABLE bans RENAME TO away")
    first.rules.record_failure(at("203.0.113.10"), "alice")
    store.state.execute("ALTER TABLE away RENAME TO bans")
    store.state.execute("UPDATE bans SET length = 0 WHERE subject = '203.0.113.9'")
    first.ban_store.check()
    for kept in (first, Kept(store, 0, 1_700_000_000)):
        assert kept.rules.address_ban(HOME) is None
        assert kept.rules.address_ban(at("203.0.113.10")) is not None


#: What makes lftp send the same password again after a 530: the default of its `ftp:retry-530`.
LFTP_TRIES_AGAIN = (
    r"too many|overloaded|try (again |back )?later|is restricted to|maximum number|number of connect|"
    r"only.*session.*allowed|more connection|already connected|simultaneous login"
)


@pytest.mark.parametrize("text", [ADDRESS_BLOCKED, NAME_BLOCKED])
def test_a_ban_invites_no_client_to_try_again(text: str) -> None:
    """No reply after a wrong password has words that lftp takes for a temporary refusal."""
    assert not re.search(LFTP_TRIES_AGAIN, text, re.IGNORECASE)


# --- the daemon --------------------------------------------------------------------------------------

STRICT: dict[str, Any] = {"bans": {"attempts": 4, "allow": []}, "state": {"directory": "."}}


def guess(daemon: Daemon, source: str, times: int, user: str = "alice") -> list[str]:
    """Try wrong passwords from an address, two in each session. Return the replies."""
    replies: list[str] = []
    while len(replies) < times:
        with FtpClient(daemon, source=source) as client:
            for _ in range(min(2, times - len(replies))):
                client.expect(331, f"USER {user}")
                replies.append(client.command("PASS wrong")[:3])
    return replies


def greeting(daemon: Daemon, source: str) -> str:
    """Return the first reply to a new connection."""
    with FtpClient(daemon, greeting=False, source=source) as client:
        return client.reply()


def logs_in(daemon: Daemon, source: str, user: str = "alice") -> str:
    """Return the reply to a right password, or to the connection if it is refused."""
    with FtpClient(daemon, greeting=False, source=source) as client:
        first = client.reply()
        if not first.startswith("220"):
            return first
        client.expect(331, f"USER {user}")
        return client.command("PASS secret")


def command(
    daemon: Daemon, *arguments: str, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `ftpsd bans` for this daemon."""
    words = ["bans", "-c", str(daemon.config), *arguments]
    complete = {**os.environ, **environment}
    if not prefix:
        return forkserver.run(words, environment=complete)
    return subprocess.run([*prefix, *ftpsd(*words)], capture_output=True, text=True, check=False, env=complete)


@pytest.fixture
def strict(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that bans loopback addresses, too, after four failures."""
    return make_daemon(merge(PLAIN, STRICT))


def test_a_ban(strict: Daemon) -> None:
    """The fourth failure ends the session; then the address gets 421 when it connects. Other addresses are served."""
    with FtpClient(strict, source="127.0.0.2") as waiting:
        waiting.expect(331, "USER alice")
        assert guess(strict, "127.0.0.2", 4) == ["530"] * 4
        for _ in range(3):
            with FtpClient(strict, greeting=False, source="127.0.0.2") as refused:
                assert ends(refused) == "421 Too many failed logins from your address: try again later.\r\n"
        assert waiting.command("PASS secret") == f"530 {ADDRESS_BLOCKED}"  # right, and not told so
        assert ends(waiting) == ""
    assert logs_in(strict, "127.0.0.3").startswith("230")
    assert strict.log.count("(127.0.0.2)> banned for 600 seconds: ") == 1
    assert strict.log.count("Logged once per ban") == 1


def ask_at_once(daemon: Daemon, source: str, user: str, passwords: list[str]) -> list[str]:
    """Send each password in a session of its own, all before a reply is read. Return the replies."""
    clients = [FtpClient(daemon, source=source) for _ in passwords]
    for client in clients:
        client.expect(331, f"USER {user}")
    for client, password in zip(clients, passwords, strict=True):
        client.send(f"PASS {password}")
    replies = [client.reply() for client in clients]
    for client in clients:
        client.socket.close()
    return replies


def test_many_guesses_at_once(strict: Daemon) -> None:
    """Of many passwords sent at the same time, only as many are checked as a ban permits.

    Those that a thread was checking already are the exception; with several processes also those that begin until the
    last failure has reached the supervisor.
    """
    replies = ask_at_once(strict, "127.0.0.2", "alice", ["wrong"] * 60)
    assert {reply[:3] for reply in replies} == {"530"}
    checked = (os.cpu_count() or 1) * (1 if WORKERS == 1 else 2 * WORKERS)
    assert strict.log.count("login failed for alice") <= 4 + checked
    assert logs_in(strict, "127.0.0.3").startswith("230")


@one_process("the log has the lines of each worker in their order, not all lines in one order")
@pytest.mark.parametrize("user", ["expired", "full"])
def test_a_right_password_after_a_ban(make_daemon: Callable[..., Daemon], user: str) -> None:
    """A client that was banned meanwhile does not learn that one of its passwords was right."""
    users = {"expired": {"expires": "2020-01-01"}, "full": {"limits": {"sessions": 1}}}
    daemon = make_daemon(merge(PLAIN, STRICT), users={"alice": {}, **users})
    with FtpClient(daemon, source="127.0.0.3") as inside:
        inside.command(f"USER {user}")
        inside.command("PASS secret")
        ask_at_once(daemon, "127.0.0.2", user, ["wrong"] * 20 + ["secret"] * 20)
    behind = daemon.log.partition("(127.0.0.2)> banned for ")[2]
    assert f"PASS ********: 530 {ADDRESS_BLOCKED}" in behind
    assert "This account has expired" not in behind and "of this user" not in behind


def test_waiting_logins_take_turns() -> None:
    """Waiting keys are served round-robin, and thousands of callers that release immediately need no recursion."""
    semaphore, order = FairSemaphore(1), list[str]()
    assert semaphore.acquire("first").called
    for name in [*["a"] * 3000, "b", "c"]:

        def proceed(_: None, name: str = name) -> None:
            order.append(name)
            semaphore.release()

        semaphore.acquire(name).addCallback(proceed)
    assert not order
    semaphore.release()
    assert order[:4] == ["a", "b", "c", "a"]
    assert len(order) == 3002
    assert semaphore.acquire("last").called


def test_sessions_that_are_logged_in_stay(strict: Daemon) -> None:
    """A ban does not end sessions that are logged in: they may be other clients behind the same NAT."""
    with FtpClient(strict, source="127.0.0.2").login("bob") as neighbour:
        guess(strict, "127.0.0.2", 4)
        neighbour.expect(200, "NOOP")


def test_other_refusals_do_not_count(make_daemon: Callable[..., Daemon]) -> None:
    """Other refusals than that of a wrong password do not count.

    These are one session too many, a login without TLS, and accounts that are disabled, expired, or for other networks
    or hours.
    """
    refused = {**{user: GUESTS[user] for user in REFUSED}, "full": {"limits": {"sessions": 1}}}
    daemon = make_daemon(merge(STRICT, {"limits": {"sessions_per_address": 1}}), users={"alice": {}, **refused})
    with secured(daemon, "full"):
        for user in refused:
            for _ in range(6):
                with FtpClient(daemon, source="127.0.0.3") as client:
                    client.start_tls()
                    client.expect(331, f"USER {user}")
                    assert re.match("421 Too many|530 (Account|Login not)", client.command("PASS secret"))
    with FtpClient(daemon, source="127.0.0.2") as client:
        for _ in range(6):
            assert greeting(daemon, "127.0.0.2").startswith("421 Too many sessions")
            client.expect(530, "USER alice")
        client.start_tls()
        for _ in range(6):
            client.login()
    assert "banned" not in daemon.log


def test_a_guessed_user_is_admitted_from_a_known_address(strict: Daemon) -> None:
    """A name that four addresses guess is refused for strangers, but not for the user's own address.

    A restart does not change that.
    """
    assert logs_in(strict, "127.0.0.9").startswith("230")
    for host in range(2, 6):
        guess(strict, f"127.0.0.{host}", 1)
    strict.wait_for_log("strangers may not log in as alice for 600 seconds")
    for _ in range(2):
        assert logs_in(strict, "127.0.0.8") == f"530 {NAME_BLOCKED}"
        assert logs_in(strict, "127.0.0.9").startswith("230")
        assert logs_in(strict, "127.0.0.8", "bob").startswith("230")
        strict.stop()
        strict.start()
    assert "user     alice" in command(strict).stdout
    assert command(strict, "lift", "alice").returncode == 0
    wait_until(lambda: logs_in(strict, "127.0.0.8").startswith("230"), "the lift")


def test_replies_do_not_show_which_names_exist(strict: Daemon) -> None:
    """The replies do not show whether a name exists."""
    for host in range(2, 6):
        guess(strict, f"127.0.0.{host}", 1, "nobody")
    assert logs_in(strict, "127.0.0.8", "nobody") == f"530 {NAME_BLOCKED}"


def test_a_name_that_does_not_exist_costs_the_same(make_daemon: Callable[..., Daemon]) -> None:
    """A wrong password costs the processor as much for an unknown name as for a known one, since it is hashed, too."""
    users = {"alice": {"password": hashes.make("secret")}, "bob": {"password": hashes.make("secret")}}
    daemon = make_daemon(PLAIN, users=users)

    def cost(user: str) -> float:
        before = processor_time(daemon)
        assert guess(daemon, "127.0.0.1", 6, user) == ["530"] * 6
        return processor_time(daemon) - before

    guess(daemon, "127.0.0.1", 1)  # the first hash loads the library
    known_addresses, unknown = cost("alice"), cost("nobody")
    assert known_addresses / 3 < unknown < known_addresses * 3


def processor_time(daemon: Daemon) -> float:
    """Return the seconds of CPU time of all processes of the daemon."""
    ticks = 0
    for pid in (daemon.pid, *daemon.workers()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def test_strange_names(strict: Daemon) -> None:
    """Names in any bytes are counted, stored, shown and lifted, without harm to the log or the terminal."""
    raw = b"USER \xff\xfe\x1b[31m' OR 1=1 --" + b"x" * 500
    for host in range(2, 6):
        with FtpClient(strict, source=f"127.0.0.{host}") as client:
            client.expect(331, raw)
            client.expect(530, "PASS wrong")
    wait_until(lambda: "user" in command(strict).stdout, "the ban in the file")
    shown = command(strict).stdout
    assert "\x1b" not in shown and "OR 1=1" in shown
    assert "Traceback" not in strict.log and "cannot be saved" not in strict.log


@pytest.mark.parametrize("whom", ["alice", "2001:db8:1::/48", "2001:db8:1:77::1", None])
def test_the_ban_of_a_site_is_kept_and_lifted(tmp_path: Path, whom: str | None) -> None:
    """The ban of a site survives a restart.

    It is lifted by the name, by the site, by any address of the site, and with all.
    """
    state = State(tmp_path / FILE)
    state.define(BANS)
    for subject in ("2001:db8:1::/48 alice", "2001:db8:2::/48 bob"):
        state.execute("INSERT INTO bans VALUES ('site', ?, 1e12, 600.0)", subject)
    assert [each[1] for each in current(state, 0)] == ["2001:db8:1::/48 alice", "2001:db8:2::/48 bob"]
    assert lift(state, whom) == (2 if whom is None else 1)
    assert [each[1] for each in current(state, 0)] == ([] if whom is None else ["2001:db8:2::/48 bob"])
    assert lift(state, "carol") == 0
    state.close()


def test_restart_and_lift(strict: Daemon) -> None:
    """Bans are listed and lifted while the daemon runs and while it does not, and survive a restart and SIGKILL."""
    assert "Nobody" in command(strict).stderr
    guess(strict, "127.0.0.2", 4)
    wait_until(lambda: "127.0.0.2" in command(strict, "list").stdout, "the ban in the file")
    strict.process.kill()  # type: ignore[union-attr]
    strict.process.wait()  # type: ignore[union-attr]
    assert "127.0.0.2" in command(strict).stdout
    (ban,) = json.loads(command(strict, "list", "--json").stdout)
    assert (ban["kind"], ban["subject"]) == ("address", "127.0.0.2") and ban["until"] > time.time()
    assert json.loads(command(strict, "--json").stdout) == [ban]
    strict.start()
    assert greeting(strict, "127.0.0.2").startswith("421 ")
    assert "is not banned" in command(strict, "lift", "127.0.0.99").stderr
    assert command(strict, "lift", "127.0.0.2").stdout == "1 lifted.\n"
    wait_until(lambda: greeting(strict, "127.0.0.2").startswith("220"), "the lift")
    strict.wait_for_log("the ban of address 127.0.0.2 was lifted")
    assert guess(strict, "127.0.0.2", 3) == ["530"] * 3  # it begins anew
    guess(strict, "127.0.0.2", 1)
    guess(strict, "127.0.0.3", 4)
    strict.stop()
    assert command(strict, "lift", "--all").stdout == "2 lifted.\n"
    assert command(strict, "lift", "--all").returncode == 1
    strict.start()
    assert greeting(strict, "127.0.0.2").startswith("220")
    assert greeting(strict, "127.0.0.3").startswith("220")


def test_reload_takes_new_settings(strict: Daemon) -> None:
    """After a reload, a banned address on the allow list is admitted; with `attempts: 0` nobody is banned."""
    guess(strict, "127.0.0.2", 4)
    strict.settings["bans"] = {"attempts": 4, "allow": ["127.0.0.2/32"]}
    strict.write()
    strict.reload()
    assert logs_in(strict, "127.0.0.2").startswith("230")
    guess(strict, "127.0.0.3", 4)
    assert greeting(strict, "127.0.0.3").startswith("421 ")
    strict.settings["bans"] = {"attempts": 0, "allow": []}
    strict.write()
    strict.reload()
    assert guess(strict, "127.0.0.3", 6) == ["530"] * 6


def test_a_ban_ends(make_daemon: Callable[..., Daemon]) -> None:
    """When the ban is over, the address is served again."""
    daemon = make_daemon(merge(merge(PLAIN, STRICT), {"bans": {"duration": 1}}))
    guess(daemon, "127.0.0.2", 4)
    wait_until(lambda: logs_in(daemon, "127.0.0.2").startswith("230"), "the end of the ban")


def test_ipv6(make_daemon: Callable[..., Daemon]) -> None:
    """An IPv6 address is banned by its /64, and lifted with the address or the network."""
    try:
        daemon = make_daemon(merge(PLAIN, STRICT), address="::1")
    except AssertionError:
        pytest.skip("no IPv6 here")
    for name in ("::1", "::/64"):
        guess(daemon, "::1", 4)
        assert greeting(daemon, "::1").startswith("421 ")
        wait_until(lambda: " ::/64 " in command(daemon).stdout, "the ban in the file")
        assert command(daemon, "lift", name).returncode == 0
        wait_until(lambda: greeting(daemon, "::1").startswith("220"), "the lift")


def test_many_at_once(strict: Daemon) -> None:
    """Simultaneous guesses are no more than guesses in a row."""
    replies = ask_at_once(strict, "127.0.0.2", "alice", ["wrong"] * 20)
    assert replies.count(f"530 {ADDRESS_BLOCKED}") == 17
    assert {reply[:3] for reply in replies} == {"530"}


def test_without_a_file(make_daemon: Callable[..., Daemon]) -> None:
    """Bans work without a state directory; the command says why it cannot show them."""
    daemon = make_daemon(merge(PLAIN, {"bans": STRICT["bans"]}))
    guess(daemon, "127.0.0.2", 4)
    assert greeting(daemon, "127.0.0.2").startswith("421 ")
    unreachable = command(daemon)
    assert "set state.directory" in unreachable.stderr and unreachable.returncode == 3
    daemon.config.write_text("nonsense: [\n")
    assert command(daemon, "lift", "--all").returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_command_works_as_the_owner_of_the_file(strict: Daemon) -> None:
    """Run by root, the command works as the owner of the file."""
    strict.stop()
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        State(Path(place, FILE)).close()
        os.chown(Path(place, FILE), 12345, 12345)
        strict.settings["state"] = {"directory": place}
        strict.write()
        assert "Nobody" in command(strict).stderr
        assert {file.stat().st_uid for file in Path(place).iterdir()} == {12345}


@pytest.mark.parametrize("what", ["a link to a file", "a link to nothing", "a FIFO", "a directory"])
def test_links_and_devices_are_refused(strict: Daemon, tmp_path: Path, what: str) -> None:
    """If the state file was replaced by a link or device, root's command follows nothing.

    It prints a sentence, and its exit status is 3.
    """
    strict.stop()
    place, target = tmp_path / "place", tmp_path / "target"
    place.mkdir()
    if what == "a FIFO":
        os.mkfifo(place / FILE)
    elif what == "a directory":
        (place / FILE).mkdir()
    else:
        (place / FILE).symlink_to(target)
    if what == "a link to a file":
        target.touch()
    if os.geteuid() == 0:
        os.chown(place, 12345, 12345)
        os.chown(place / FILE, 12345, 12345, follow_symlinks=False)
    strict.settings["state"] = {"directory": str(place)}
    strict.write()
    for arguments in ((), ("lift", "--all")):
        result = command(strict, *arguments)
        assert result.returncode == 3
        assert re.fullmatch("ftpsd bans: .* is not a regular file: .*\n", result.stderr)
    assert target.exists() == (what == "a link to a file")
    assert not target.exists() or target.read_bytes() == b""


def test_names_that_cannot_be_shown(strict: Daemon) -> None:
    """Characters that a terminal cannot show are escaped, and any text can be given to lift."""
    for host in range(2, 6):
        guess(strict, f"127.0.0.{host}", 1, "\u4e2d")
    wait_until(lambda: "\u4e2d" in command(strict, PYTHONIOENCODING="utf-8").stdout, "the ban in the file")
    assert "\\u4e2d" in command(strict, PYTHONIOENCODING="ascii").stdout
    for nobody in ("\udcff", "", "\x1b[31m"):
        result = command(strict, "lift", nobody)
        assert result.returncode == 1
        assert "banned\n" in result.stderr and "Traceback" not in result.stderr and "\x1b" not in result.stderr
    assert command(strict, "lift", "\u4e2d").returncode == 0


def test_a_ban_for_ever(make_daemon: Callable[..., Daemon]) -> None:
    """A ban beyond the year 9999 is shown, like all others, and can be lifted."""
    daemon = make_daemon(merge(PLAIN, STRICT))
    guess(daemon, "127.0.0.2", 4)
    daemon.settings["bans"] = {**STRICT["bans"], "duration": 10**12, "longest": 10**12}
    daemon.write()
    daemon.reload()
    guess(daemon, "127.0.0.3", 4)
    wait_until(lambda: "127.0.0.3" in command(daemon).stdout, "the ban in the file")
    assert re.search(r"127\.0\.0\.2 +until .*\n.*127\.0\.0\.3 +permanently\n", command(daemon).stdout)
    assert command(daemon, "lift", "127.0.0.3").returncode == 0
    wait_until(lambda: greeting(daemon, "127.0.0.3").startswith("220"), "the lift")
