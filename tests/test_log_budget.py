"""The limits on log lines that clients can cause (`events/log_budget.py`), and user names that the log hides."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpsd.events.log_budget import ALL_STRANGERS, REPORT_INTERVAL, STRANGER, LogBudget
from ftpsd.protocol.printable import LONGEST_TEXT, printable
from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.ftpclient import FtpClient
from tests.hostile import ends, plain_login
from tests.pki import Authority, pem
from tests.test_scheduler import Clock

MakeDaemon = Callable[..., Daemon]


@given(st.text(max_size=1000))
def test_texts_of_clients_are_shortened(text: str) -> None:
    """The escaped text is limited: a control character takes up to ten characters in it."""
    shown = printable(text)
    assert len(shown) <= LONGEST_TEXT + len("… (1000 characters)")
    assert shown.isprintable()
    if len(text) <= LONGEST_TEXT / 10:
        assert "…" not in shown or "…" in text


def test_a_budget() -> None:
    """Each address has a burst of lines and a rate, independent of others; all strangers together have one too."""
    clock = Clock()
    budget = LogBudget(clock)
    assert sum(budget.admits_stranger("192.0.2.1") for _ in range(10_000)) == STRANGER.burst
    clock.turn(10)
    assert sum(budget.admits_stranger("192.0.2.1") for _ in range(10_000)) == 10 * STRANGER.rate
    assert budget.admits_stranger("192.0.2.2")
    clock.turn(REPORT_INTERVAL)
    written = sum(budget.admits_stranger(str(number)) for number in range(100_000))
    assert written == ALL_STRANGERS.burst
    assert budget.admits_user("alice")


def test_strangers_cannot_flood_the_log(make_daemon: MakeDaemon) -> None:
    """However many and however long lines strangers send, the log stays short, and has each failed login."""
    daemon = make_daemon(merge(PLAIN, {"limits": {"commands_per_second_before_login": None}}))
    long = b"USER " + b"\x01" * 8000
    lines = [long, b"CLNT " + b"\x02" * 4000, b"XYZZY \x03", b"\xff\xfe", b"HOST [\x04", b"NOOP"]
    for _ in range(400):
        with FtpClient(daemon, source="127.0.0.9") as client:
            client.send(*lines)
            for _ in lines:
                client.reply()
    with FtpClient(daemon, source="127.0.0.9") as client:
        client.command("USER alice")
        client.expect(530, "PASS wrong")
    daemon.wait_for_log(r"\(127\.0\.0\.9\)> login failed for alice\n")
    assert len(daemon.log.splitlines()) < 2000
    assert len(daemon.log) < 400_000
    assert max(map(len, daemon.log.splitlines())) < 600
    with FtpClient(daemon) as client:  # another address has a bucket of its own
        client.expect(500, "XYZZY")
    daemon.wait_for_log(r"\(127\.0\.0\.1\)> XYZZY: 500")


def test_refusals_of_strangers_have_a_budget(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """Strangers cannot fill the log with refused logins for which they need no password, or with text after AUTH.

    Failed logins are logged all the same.
    """
    authority = tmp_path / "ca.pem"
    authority.write_bytes(pem(Authority("root").certificate))
    certificates = {"client_certificates": {"ca": str(authority), "mode": "required"}}
    limits = {"commands_per_second_before_login": None}
    daemon = make_daemon({"tls": certificates, "limits": limits})
    for _ in range(100):
        with FtpClient(daemon, source="127.0.0.9") as client:
            client.start_tls()
            client.send(*["USER alice"] * 19)
            assert all(client.reply().startswith("530 Client certificate") for _ in range(19))
        with FtpClient(daemon, source="127.0.0.9") as client:
            client.send("AUTH TLS", "NOOP")
            ends(client)
    daemon.wait_for_log("USER alice: 530")
    assert 0 < daemon.log.count("login of alice refused") < 1200
    assert daemon.log.count("plain text after AUTH") < 80


@pytest.mark.parametrize("line", ["SIZE nothing", "RNFR f", "HASH f", "SITE HELP", "RNTO f"])
def test_what_users_change_is_always_logged(make_daemon: MakeDaemon, line: str) -> None:
    """What a user changes or transfers is logged after any number of other commands, of which some are not logged."""
    daemon = make_daemon(PLAIN)
    (daemon.home() / "f").touch()
    started = time.monotonic()
    with plain_login(daemon) as client:
        for _ in range(120):
            client.send(*[line] * 100)
            for _ in range(100):
                client.reply()
        assert client.upload("APPE f", b"1").startswith("226")
        assert client.download("RETR f") == b"1"
        client.expect(213, "MFF UNIX.mode=600; f")
        client.expect(200, "SITE CHMOD 640 f")
        client.expect(250, "DELE f")
    for done in ("APPE f: 226", "RETR f: 226", "MFF UNIX.mode=600; f: 213", "SITE CHMOD 640 f: 200", "DELE f: 250"):
        daemon.wait_for_log(rf"alice \(127\.0\.0\.1\)> {done}")
    assert daemon.log.count(f"{line}:") < 10_100 + 100 * (time.monotonic() - started)


def test_consecutive_errors_end_a_session_without_login(plain: Daemon) -> None:
    """Twenty consecutive errors end a session without a login. A success restarts the count; users have no such limit."""
    with FtpClient(plain) as client:
        for _ in range(3):
            for _ in range(19):
                client.expect(500, "XYZZY")
            client.expect(200, "NOOP")
        client.send(*["XYZZY"] * 30)
        said = ends(client).splitlines()
    assert [line[:3] for line in said] == ["500"] * 20 + ["421"]
    with plain_login(plain) as client:
        for _ in range(30):
            client.expect(500, "XYZZY")


@pytest.mark.parametrize("shown", [False, True], ids=["hide", "show"])
def test_unknown_names_are_hidden(make_daemon: MakeDaemon, shown: bool) -> None:
    """A password that was sent as a user name is not logged, unless `log.unknown_names` is show."""
    daemon = make_daemon({**PLAIN, **({"log": {"unknown_names": "show"}} if shown else {})})
    with FtpClient(daemon) as client:
        client.expect(331, "USER hunter2")
        client.expect(530, "PASS alice")
        client.expect(331, "USER alice")
        client.expect(530, "PASS hunter2")
        for line in ("USER  hunter2", "USER alice hunter2", "PASV hunter2", "REIN hunter2", "ACCT hunter2"):
            client.command(line)
    daemon.wait_for_log("login failed for alice\n")
    time.sleep(0.1)
    assert ("hunter2" in daemon.log) == shown
    assert "USER alice: 331" in daemon.log
    name = "hunter2" if shown else r"\*{8}"
    assert re.search(rf"login failed for {name}\n", daemon.log)


def test_help_of_site_needs_its_exact_name(plain: Daemon) -> None:
    """HELP SITEX is not the help of SITE."""
    with FtpClient(plain) as client:
        client.expect(502, "HELP SITEX")
        for line in ("HELP SITE", "HELP site", "HELP SITE CHMOD"):
            assert "CHMOD" in client.expect(214, line)
