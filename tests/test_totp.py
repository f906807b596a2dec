"""One-time passwords: six digits behind the password, which are accepted once."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import succeed

from ftpsd.accounts import hashes
from ftpsd.accounts.certificate_checker import LoginIncorrect
from ftpsd.accounts.chain.recent import GUESSES
from ftpsd.accounts.one_time import totp
from ftpsd.accounts.one_time.totp import UsedCodes, matching_step, split
from ftpsd.accounts.password_checker import LoginCredentials, PasswordChecker
from ftpsd.accounts.sources.source import Answer, Question
from ftpsd.accounts.user_store import SourceFailed
from ftpsd.cli.main import main
from ftpsd.config.settings import TotpSecret, UserSettings
from ftpsd.limits.bans.policy import ADDRESS_BLOCKED
from ftpsd.system.state import FILE, State
from tests.conftest import PLAIN
from tests.daemon import Daemon, ftpsd, merge
from tests.ftpclient import FtpClient
from tests.inprocess import Server
from tests.memory_sources import Chain, MemorySource, admit, result
from tests.test_hashes import QUICK, SLOW
from tests.test_spellings import PEER, Memory

pyotp = pytest.importorskip("pyotp")

#: The secret of RFC 6238 appendix B.
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


def code(ahead: int = 0, secret: str = SECRET) -> str:
    """Return the code that an app shows now, or `ahead` steps later."""
    made: str = pyotp.TOTP(secret).at(int(time.time()) + ahead * totp.STEP)
    return made


# --- codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expected"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037")],
)
def test_the_vectors_of_the_rfc(now: int, expected: str) -> None:
    """The codes are those of RFC 6238 appendix B, cut to six digits, within one step before and after."""
    step = now // 30
    for clock, found in ((0, step), (-30, step), (30, step), (-60, None), (60, None)):
        assert matching_step(SECRET, expected, now + clock) == found
    assert matching_step(SECRET, f"{(int(expected) + 1) % 10**6:06}", now) is None
    assert matching_step(None, expected, now) is None


def test_the_digits_are_the_last_six() -> None:
    """Only six ASCII digits at the end are a code."""
    assert split("secret123456") == ("secret", "123456")
    assert split("123456") == ("", "123456")
    assert split("12345678") == ("12", "345678")
    for other in ("", "secret", "12345", "secret12345", "secret12345x", "secret１２３４５６", "secret12345²"):
        assert split(other) is None


class MemoryStore:
    """The state in memory, which is written at once."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State(None)

    def put(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function at once."""
        return succeed(call(*arguments))


def test_a_code_is_used_once() -> None:
    """A step, and every one before it, is refused after it was used; users do not share them."""
    store: Any = MemoryStore()
    used = UsedCodes(store, lambda: 3000.0)
    assert used.use("alice", 100) and not used.use("alice", 100) and not used.use("alice", 99)
    assert used.use("bob", 99) and used.use("bob", 100) and used.use("alice", 101)
    again = UsedCodes(store, lambda: 3000.0)
    again.restore()
    assert not again.use("alice", 101) and not again.use("bob", 100) and again.use("carol", 100)


def test_a_clock_that_was_wrong() -> None:
    """A code that was used in the future, by a wrong clock, does not lock the user out."""
    now = [10_000_000.0]
    store: Any = MemoryStore()
    used = UsedCodes(store, lambda: now[0])
    assert used.use("alice", 10_000_000 // 30)
    now[0] = 3000.0
    assert used.use("alice", 100) and not used.use("alice", 100)


def test_used_codes_need_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that no clock shows any more are removed, in memory and in the file."""
    monkeypatch.setattr(totp, "MANY", 10)
    now = [3000.0]
    store: Any = MemoryStore()
    used = UsedCodes(store, lambda: now[0])
    for number in range(100):
        now[0] += 30
        assert used.use(f"user{number}", int(now[0]) // 30)
    assert len(used._steps) <= 10
    assert len(store.state.execute("SELECT * FROM used_codes")) <= 3


@pytest.mark.parametrize("rows", ["('alice', 'x')", "(7, 100)", "(x'ff', 100)", "('alice', NULL)"])
def test_a_strange_file(rows: str) -> None:
    """Rows that somebody else has written do not keep the daemon from starting."""
    store: Any = MemoryStore()
    store.state.execute("CREATE TABLE used_codes (user, step)")
    store.state.execute(f"INSERT INTO used_codes VALUES {rows}")
    used = UsedCodes(store, lambda: 3000.0)
    used.restore()
    assert used.use("alice", 100)


# --- logins, in this process ------------------------------------------------------------------------


def test_what_logs_in() -> None:
    """Password and code together log in, once each; neither alone does, nor a code of another user or time."""
    other = "NBSWY3DPEB3W64TMMQQGC3TEEBTG64TF"
    users = {"alice": UserSettings(totp=TotpSecret(SECRET)), "bob": UserSettings()}
    server = Server(users=users, settings=_many())
    server.clock.advance(time.time() - server.now())
    client = server.connect()
    client.heard()
    first, second = code(), code(1)
    for password in ("secret", first, f"Secret{first}", f"secret{code(-4)}", f"secret{code(4)}", f"secret{first} "):
        assert _tried(client, "alice", password) == "530"
    assert _tried(client, "alice", f"secret{code(0, other)}") == "530"
    assert _tried(client, "alice", f"secret{first}") == "230"
    assert client.say("REIN").startswith("220")
    assert _tried(client, "alice", f"secret{first}") == "530"
    assert _tried(client, "alice", f"secret{second}") == "230"
    assert client.say("REIN").startswith("220")
    assert _tried(client, "bob", f"secret{first}") == "530"
    assert _tried(client, "bob", "secret") == "230"


def _many() -> dict[str, Any]:
    from ftpsd.config.settings import BanSettings, Limits

    return {"limits": Limits(login_failures=100), "bans": BanSettings(attempts=0)}


def _tried(client: Any, user: str, password: str) -> str:
    client.say(f"USER {user}")
    reply: str = client.say(f"PASS {password}")
    return reply[:3]


def test_a_source_that_is_down(tmp_path: Path) -> None:
    """A right password with a wrong code fails like a wrong password, and counts as a guess like one."""
    source = MemorySource(bob={"plain": "secret", "home": "bob", "totp": SECRET})
    chain = Chain(tmp_path, source)
    memory: Any = Memory()
    checker = PasswordChecker(chain.store, UsedCodes(memory, time.time), time.time)

    def log_in(password: str) -> str:
        result(checker.requestAvatarId(LoginCredentials(b"bob", password.encode(), PEER, admit)))
        return password

    first, second = code(), code(1)
    assert log_in(f"secret{first}")
    source.failure = SourceFailed("down")
    for password in (f"secret{code(5)}", f"secret{first}", "secret", f"wrong{second}", "wrong"):
        with pytest.raises(SourceFailed, match="down"):
            log_in(password)
    assert log_in(f"secret{second}")
    for _ in range(GUESSES):
        with pytest.raises(SourceFailed, match="down"):
            log_in(f"secret{code(5)}")
    with pytest.raises(SourceFailed, match="down"):
        log_in(f"secret{code(-1)}")


def test_a_source_that_fails_once(tmp_path: Path) -> None:
    """A code whose look-up fails is no part of a wrong password, although the source answers the next question: 451."""
    failing = [True]

    class Flapping(MemorySource):
        def ask(self, question: Question) -> Answer | None:
            if failing and question.password is None:
                raise SourceFailed("late")
            return super().ask(question)

    chain = Chain(tmp_path, Flapping(bob={"plain": "secret", "home": "bob", "totp": SECRET}))
    memory: Any = Memory()
    checker = PasswordChecker(chain.store, UsedCodes(memory, time.time), time.time)

    def log_in(password: str) -> None:
        result(checker.requestAvatarId(LoginCredentials(b"bob", password.encode(), PEER, admit)))

    with pytest.raises(SourceFailed, match="late"):
        log_in(f"secret{code()}")
    failing.clear()
    log_in(f"secret{code()}")
    with pytest.raises(LoginIncorrect):
        log_in(f"wrong{code(1)}")


# --- the daemon --------------------------------------------------------------------------------------


def logs_in(daemon: Daemon, password: str, user: str = "alice") -> bool:
    """Return whether a new session logs in."""
    with FtpClient(daemon) as client:
        client.command(f"USER {user}")
        return client.command(f"PASS {password}").startswith("230 ")


def test_no_replay_after_a_restart(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A code that was used is refused in every later session, after a reload, and after a restart."""
    state = tmp_path / "state"
    state.mkdir()
    daemon = make_daemon(merge(PLAIN, {"state": {"directory": str(state)}}), {"alice": {"totp": SECRET}})
    used = code()
    assert logs_in(daemon, f"secret{used}") and not logs_in(daemon, f"secret{used}")
    daemon.write()
    daemon.reload()
    assert not logs_in(daemon, f"secret{used}")
    daemon.stop()
    daemon.start()
    assert not logs_in(daemon, f"secret{used}")
    assert logs_in(daemon, f"secret{code(1)}")
    assert (state / FILE).exists()


def test_two_logins_at_once(make_daemon: Callable[..., Daemon]) -> None:
    """Of two sessions that send the same code at the same time, one logs in."""
    daemon = make_daemon(PLAIN, {"alice": {"totp": SECRET, "password": hashes.make("secret")}})
    used = code()
    clients = [FtpClient(daemon) for _ in range(8)]
    for client in clients:
        client.command("USER alice")
    for client in clients:
        client.send(f"PASS secret{used}")
    replies = sorted(client.reply()[:3] for client in clients)
    for client in clients:
        client.socket.close()
    assert replies == ["230"] + ["530"] * 7


def test_failures_count_towards_bans(make_daemon: Callable[..., Daemon]) -> None:
    """Wrong codes behind the right password ban the client, as wrong passwords do."""
    bans = {"bans": {"attempts": 3, "allow": []}, "limits": {"login_failures": 100}}
    daemon = make_daemon(merge(PLAIN, bans), {"alice": {"totp": SECRET}})
    with FtpClient(daemon) as client, FtpClient(daemon) as waiting:
        waiting.command("USER alice")
        for _ in range(3):
            client.command("USER alice")
            client.command(f"PASS secret{code(5)}")
        assert waiting.command(f"PASS secret{code()}") == f"530 {ADDRESS_BLOCKED}"


def test_the_time_shows_nothing(make_daemon: Callable[..., Daemon]) -> None:
    """Wrong digits, no digits, used digits and a wrong password take equally long: a hash each, never a remembered one."""
    daemon = make_daemon(
        merge(PLAIN, {"limits": {"login_failures": 100}, "bans": {"attempts": 0}}),
        {"alice": {"totp": SECRET, "password": SLOW}},
    )
    used = code()
    with FtpClient(daemon) as client:
        client.command("USER alice")
        client.expect(230, f"PASS secret{used}")
        client.expect(220, "REIN")
        times = {}
        for password in (f"secret{used}", "secret", f"secret{code(5)}", f"wrong{code(1)}", f"wrong{code(5)}", "wrong"):
            client.command("USER alice")
            started = time.monotonic()
            client.expect(530, f"PASS {password}")
            times[password] = time.monotonic() - started
    assert min(times.values()) > 0.05, times  # a hash takes 0.17 s here, a remembered password 0.001 s


def test_a_password_that_ends_in_digits(make_daemon: Callable[..., Daemon]) -> None:
    """Users without a secret may have such a password, and it is remembered."""
    daemon = make_daemon(PLAIN, {"alice": {"password": hashes.make("secret123456")}})
    assert logs_in(daemon, "secret123456") and logs_in(daemon, "secret123456")
    assert not logs_in(daemon, "secret")


# --- the configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("secret!secret!secret!secret!secret!", "is not a secret in base32"),
        (12345678, "is not a secret in base32"),
        ("ABCDEFGHIJKLMNOP", "is too short"),
        ("", "is too short"),
    ],
    ids=["base64", "number", "short", "empty"],
)
def test_faults(
    make_daemon: Callable[..., Daemon], capsys: pytest.CaptureFixture[str], value: Any, problem: str
) -> None:
    """A secret that cannot be used is a fault, which does not show it."""
    daemon = make_daemon(start=False, users={"alice": {"totp": value}})
    assert main(["check", "-c", str(daemon.config)]) == 1
    out = "".join(capsys.readouterr())
    assert f"users.alice.totp: {problem}. Let `ftpsd user totp` make one." in out
    assert not value or str(value) not in out


def test_no_default(make_daemon: Callable[..., Daemon], capsys: pytest.CaptureFixture[str]) -> None:
    """Users share no secret: it cannot be a default."""
    daemon = make_daemon(start=False)
    daemon.users_file.write_text(f"defaults: {{totp: {SECRET}}}\n{daemon.users_file.read_text()}")
    assert main(["check", "-c", str(daemon.config)]) == 1
    assert "defaults.totp: cannot be a default. Give each user one." in "".join(capsys.readouterr())


def test_without_the_library(
    make_daemon: Callable[..., Daemon], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Without pyotp, the key is a fault that names the packages."""
    daemon = make_daemon(start=False, users={"alice": {"totp": SECRET}})
    monkeypatch.setitem(sys.modules, "pyotp", None)
    assert main(["check", "-c", str(daemon.config)]) == 1
    out = "".join(capsys.readouterr())
    assert "ftpsd[totp]" in out and "python3-pyotp" in out
    assert main(["user", "totp", "alice", "-c", str(daemon.config)]) == 1
    assert "ftpsd[totp]" in capsys.readouterr().err


def test_the_command(make_daemon: Callable[..., Daemon]) -> None:
    """`ftpsd user totp` makes a secret with which the user logs in, and shows it as a QR code and as an address."""
    daemon = make_daemon(PLAIN)
    options = ["-c", str(daemon.config)]
    home = str(daemon.home("carol"))
    assert main(["user", "add", "carol", *options, "--set", f"password={QUICK}", "--home", home]) == 0
    line = [*ftpsd("user", "totp", "carol", *options), "--issuer", "files.example.com"]
    done = subprocess.run(line, capture_output=True, check=True, timeout=60, env={"PYTHONIOENCODING": "utf-8"})
    printed = done.stdout.decode()
    found = re.search(
        r"^otpauth://totp/files.example.com:carol\?secret=([A-Z2-7]{32})&issuer=files.example.com$", printed, re.M
    )
    assert found is not None, printed
    assert "█" in printed and "carol now logs in" in printed
    assert found[1] in (daemon.directory / "users.d" / "carol.yaml").read_text()
    daemon.reload()
    assert not logs_in(daemon, "secret", "carol")
    assert logs_in(daemon, f"secret{code(0, found[1])}", "carol"), daemon.log
    plain = subprocess.run(line, capture_output=True, check=True, timeout=60, env={"PYTHONIOENCODING": "ascii"})
    assert b"otpauth://" in plain.stdout and found[1].encode() not in plain.stdout  # a new secret


def test_the_secret_is_not_shown(make_daemon: Callable[..., Daemon], capsys: pytest.CaptureFixture[str]) -> None:
    """`ftpsd user show` says that there is one, and no more."""
    daemon = make_daemon(start=False, users={"alice": {"totp": SECRET}, "bob": {}})
    for name, shown in (("alice", "true"), ("bob", "null")):
        for more in ([], ["--json"]):
            assert main(["user", "show", name, "-c", str(daemon.config), *more]) == 0
            out = capsys.readouterr().out
            assert SECRET not in out and re.search(rf'totp"?:? +{shown}', out), out
