"""Fast logins: passwords that were right recently, and everything that makes the daemon forget them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ftpsd.accounts import hash_verifier, hashes, remembered
from ftpsd.accounts.hash_verifier import HashVerifier
from ftpsd.accounts.remembered import Claim, RememberedPasswords
from ftpsd.accounts.user_store import UnknownUser, User, UserStore, WrongPassword
from ftpsd.config.users.loader import load_users
from ftpsd.limits.bans.policy import ADDRESS_BLOCKED
from tests.conftest import PLAIN
from tests.daemon import SECRET, Daemon, ftpsd, merge
from tests.ftpclient import FtpClient
from tests.inprocess import DirectCalls
from tests.test_user_store import PEER, admit, result

CLAIM = Claim("yaml", "alice", SECRET, "secret")

#: Seconds of processor time that a login with a remembered password may cost. It is 0.2 ms on the machine of the tests.
FAST = 0.001


@pytest.fixture
def clock() -> Clock:
    """Return the clock of the daemon."""
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> RememberedPasswords:
    """Return what remembers passwords for 300 seconds."""
    made = RememberedPasswords(clock)
    made.use(300)
    return made


def test_a_password_is_remembered_for_some_time(memory: RememberedPasswords, clock: Clock) -> None:
    """A password is forgotten after `users.cache.seconds`, however often it was used, and needs no memory then."""
    assert not memory.matches(CLAIM)
    memory.remember(CLAIM)
    for _ in range(299):
        clock.advance(1)
        assert memory.matches(CLAIM)
    clock.advance(1)
    assert not memory.matches(CLAIM) and len(memory) == 0


@given(st.lists(st.text(max_size=3), min_size=4, max_size=4))
def test_everything_counts(parts: list[str]) -> None:
    """A claim that differs in any part, or in the borders between them, is another one."""
    memory = RememberedPasswords(Clock())
    memory.use(300)
    memory.remember(Claim("a", "b", "ab", "ba"))
    other = Claim(*parts)
    assert memory.matches(other) == (other == ("a", "b", "ab", "ba"))


def test_the_key_differs_between_processes(memory: RememberedPasswords, clock: Clock) -> None:
    """Two daemons keep different digests of the same password, and neither is the password."""
    other = RememberedPasswords(clock)
    assert memory._digest(CLAIM) != other._digest(CLAIM)
    memory.remember(CLAIM)
    assert "'secret'" not in repr(memory._entries)


def test_memory_is_bounded(memory: RememberedPasswords, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password that was verified first is forgotten if there are too many."""
    monkeypatch.setattr(remembered, "MOST", 3)
    claims = [CLAIM._replace(name=str(number)) for number in range(5)]
    for claim in [*claims[:3], claims[0], *claims[3:]]:
        memory.remember(claim)
    assert [memory.matches(claim) for claim in claims] == [True, False, False, True, True]
    assert len(memory) == 3


def test_a_shorter_time_holds_at_once(memory: RememberedPasswords, clock: Clock) -> None:
    """A reload with a shorter time shortens it for what is remembered; 0 forgets everything; a longer one extends nothing."""
    memory.remember(CLAIM)
    memory.use(1000)
    clock.advance(290)
    memory.use(5)
    clock.advance(4)
    assert memory.matches(CLAIM)
    clock.advance(1)
    assert not memory.matches(CLAIM)
    memory.remember(CLAIM)
    memory.use(0)
    assert not memory.matches(CLAIM) and len(memory) == 0
    memory.remember(CLAIM)
    assert len(memory) == 0


def test_a_change_of_the_source(memory: RememberedPasswords) -> None:
    """Users whose stored hash has changed are forgotten, others are not, and an old hash is remembered no more."""
    claims = [CLAIM._replace(name=name) for name in ("alice", "bob", "carol")]
    elsewhere = CLAIM._replace(source="sql", name="bob")
    for claim in [*claims, elsewhere]:
        memory.remember(claim)
    now = {"alice": SECRET, "bob": "$5$another"}
    memory.follow("yaml", now.get)
    assert [memory.matches(claim) for claim in claims] == [True, False, False]
    assert memory.matches(elsewhere) and len(memory) == 2
    memory.remember(claims[1])  # a session that began before the change
    assert not memory.matches(claims[1]) and len(memory) == 2


# --- the store ---------------------------------------------------------------------------------------


class Stores:
    """The stores of one users.yaml, as reloads make them, and the hashes that they have verified."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        workers: Any = DirectCalls()
        self.verifier = HashVerifier(workers, Clock())
        self.verifier.remembered.use(300)
        self.verified: list[str] = []
        verify = hashes.verify

        def count(password: str, hashed: str) -> bool:
            self.verified.append(hashed)
            return verify(password, hashed)

        monkeypatch.setattr(hash_verifier.hashes, "verify", count)

    def load(self, users: str) -> UserStore:
        """Return a store of the users in YAML."""
        (self._directory / "users.yaml").write_text(
            f"defaults: {{password: '{SECRET}', home: '{self._directory}'}}\nusers: {users}\n"
        )
        loaded = load_users(self._directory / "users.yaml", True)
        assert loaded.store is not None, loaded.faults
        loaded.store.start(self.verifier)
        return loaded.store

    def hashes_of(self, store: UserStore, name: str, password: str) -> tuple[object, int]:
        """Return what a login returns or raises, and how many hashes it has cost."""
        before = len(self.verified)
        try:
            found: object = result(store.verify(name, password, PEER, admit))
        except (UnknownUser, WrongPassword) as error:
            found = type(error)
        return found.name if isinstance(found, User) else found, len(self.verified) - before


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    """Return the stores of one file."""
    return Stores(tmp_path, monkeypatch)


def test_the_second_login_costs_no_hash(stores: Stores) -> None:
    """Only the right password is fast; wrong ones and unknown names cost a hash each time, before and after it."""
    store = stores.load("{alice: {}, bob: {}}")
    for expected in (1, 0, 0):
        assert stores.hashes_of(store, "alice", "wrong") == (WrongPassword, 1)
        assert stores.hashes_of(store, "carol", "secret") == (UnknownUser, 1)
        assert stores.hashes_of(store, "alice", "secret") == ("alice", expected)
    assert stores.hashes_of(store, "bob", "secret") == ("bob", 1)


def test_a_reload_keeps_what_did_not_change(stores: Stores) -> None:
    """A reload forgets the users who are changed, disabled or removed, and no others."""
    old = stores.load("{alice: {}, bob: {}, carol: {}, dave: {}}")
    for name in ("alice", "bob", "carol", "dave"):
        stores.hashes_of(old, name, "secret")
    other = hashes.make("secret")
    new = stores.load(f"{{alice: {{permissions: read-only}}, bob: {{password: '{other}'}}, carol: {{enabled: false}}}}")
    assert stores.hashes_of(new, "alice", "secret") == ("alice", 0)
    assert stores.hashes_of(new, "bob", "secret") == ("bob", 1)
    assert stores.hashes_of(new, "dave", "secret") == (UnknownUser, 1)
    # The rules of the account refuse her after the password, and she is not remembered.
    assert [stores.hashes_of(new, "carol", "secret") for _ in range(2)] == [("carol", 1), ("carol", 1)]
    again = stores.load("{alice: {}, bob: {}, carol: {}, dave: {}}")
    assert stores.hashes_of(again, "dave", "secret") == ("dave", 1)
    assert stores.hashes_of(again, "carol", "secret") == ("carol", 1)
    # A session of the first configuration still logs in with what held then, and makes nothing fast.
    stores.load(f"{{bob: {{password: '{other}'}}}}")
    assert [stores.hashes_of(old, "bob", "secret") for _ in range(2)] == [("bob", 1), ("bob", 1)]


def test_a_decoy_is_never_remembered(stores: Stores) -> None:
    """A name that does not exist cannot become fast, even with the password that its decoy has."""
    store = stores.load("{alice: {}}")
    assert [stores.hashes_of(store, "nobody", "secret") for _ in range(3)] == [(UnknownUser, 1)] * 3


# --- the daemon --------------------------------------------------------------------------------------


def processor_seconds(daemon: Daemon) -> float:
    """Return the processor time of the daemon's threads so far, in all processes that serve sessions."""
    tasks = [each for pid in (daemon.pid, *daemon.serving()) for each in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((each / "schedstat").read_text().split()[0]) for each in tasks) / 1e9


def cost(daemon: Daemon, client: FtpClient, password: str = "secret") -> float:
    """Return the processor time of the daemon for one PASS."""
    client.command("USER alice")
    before = processor_seconds(daemon)
    assert client.command(f"PASS {password}").startswith("230 " if password == "secret" else "530 ")
    spent = processor_seconds(daemon) - before
    if password == "secret":
        client.expect(220, "REIN")
    return spent


def reload(daemon: Daemon) -> None:
    """Write the configuration again, and wait until the daemon has it."""
    daemon.write()
    daemon.reload()


def test_the_cost_of_a_login(make_daemon: Callable[..., Daemon]) -> None:
    """The first login costs an argon2id hash; the next ones cost the daemon less than a millisecond of processor time."""
    users = {"alice": {"password": hashes.make("secret")}}
    daemon = make_daemon(merge(PLAIN, {"limits": {"login_failures": 100}}), users)
    with FtpClient(daemon) as client:
        first = cost(daemon, client)
        fast = median(cost(daemon, client) for _ in range(25))
        wrong = median(cost(daemon, client, "Secret") for _ in range(5))
        reload(daemon)
        after_reload = cost(daemon, client)
        with FtpClient(daemon) as newer:
            after_reload = max(after_reload, median(cost(daemon, newer) for _ in range(5)))
    print(f"first {first * 1e3:.2f} ms, fast {fast * 1e3:.2f} ms, wrong {wrong * 1e3:.2f} ms")
    assert fast < FAST and after_reload < 5 * FAST
    assert first > 5 * FAST and wrong > 5 * FAST


def test_a_new_password_holds_at_once(make_daemon: Callable[..., Daemon]) -> None:
    """After `ftpsd user passwd` and `disable`, the old password logs nobody in, however recently it did."""
    daemon = make_daemon(PLAIN)
    with FtpClient(daemon) as client:
        client.login()
    home = str(daemon.home("carol"))
    _user(daemon, "add", "carol", "--password-stdin", "--home", home, password="first")
    for password, code in (("first", 230), ("first", 230), ("second", 530)):
        _log_in(daemon, "carol", password, code)
    _user(daemon, "passwd", "carol", "--password-stdin", password="second")
    for password, code in (("first", 530), ("second", 230), ("first", 530), ("second", 230)):
        _log_in(daemon, "carol", password, code)
    _user(daemon, "disable", "carol")
    _log_in(daemon, "carol", "second", 530)
    _user(daemon, "enable", "carol")
    _log_in(daemon, "carol", "second", 230)
    _user(daemon, "remove", "carol")
    _log_in(daemon, "carol", "second", 530)
    _log_in(daemon, "alice", "secret", 230)


def test_a_banned_client_gains_nothing(make_daemon: Callable[..., Daemon]) -> None:
    """A remembered password is refused like any other while the client is banned."""
    daemon = make_daemon(merge(PLAIN, {"bans": {"attempts": 3, "allow": []}, "limits": {"login_failures": 100}}))
    with FtpClient(daemon) as client, FtpClient(daemon) as other:
        client.login()
        for _ in range(3):
            other.command("USER alice")
            other.command("PASS wrong")
        client.expect(220, "REIN")
        client.command("USER alice")
        assert client.command("PASS secret") == f"530 {ADDRESS_BLOCKED}"


def _user(daemon: Daemon, action: str, name: str, *options: str, password: str = "") -> None:
    command = ftpsd("user", action, "-c", str(daemon.config), *options, name)
    if action == "remove":
        command.append("--yes")
    done = subprocess.run(command, input=f"{password}\n".encode(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    daemon.reload()


def _log_in(daemon: Daemon, name: str, password: str, code: int) -> None:
    with FtpClient(daemon) as client:
        client.command(f"USER {name}")
        client.expect(code, f"PASS {password}")
