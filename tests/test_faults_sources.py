"""A source of users that is down, slow, broken or hostile, asked by a real daemon."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.all_sources import fill_sql
from tests.authority import make_chain
from tests.daemon import WORKERS, Daemon
from tests.ftpclient import FtpClient, secured
from tests.postgresql import PostgresqlServer, requires_postgresql
from tests.slapd import PEOPLE, SERVICE, SERVICE_PASSWORD, Slapd, person
from tests.source_daemon import SourceDaemon, attempt, passes, wait_for_source


@pytest.fixture
def daemon(tmp_path: Path, certificate: Path) -> SourceDaemon:
    """Return a daemon that is not started yet."""
    return SourceDaemon(tmp_path, certificate)


@pytest.fixture(autouse=True)
def stopped(daemon: SourceDaemon) -> object:
    """Stop the daemon."""
    yield
    daemon.stop()
    assert "Traceback" not in daemon.log and "internal error" not in daemon.log.replace("internal error: Zero", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a link to another user")
def test_a_home_behind_a_link_of_its_user(daemon: SourceDaemon) -> None:
    """A system user who replaces the home by a link to the home of another one gets 451; links of root are followed."""
    daemon.with_source()
    daemon.start()
    carol, dave = daemon.home("carol"), daemon.home("dave")
    carol.rmdir()
    carol.symlink_to(dave)
    attempt(daemon, 230, "carol")
    os.lchown(carol, 65534, 65534)
    attempt(daemon, 451, "carol")
    daemon.wait_for_log("carol: home: .*/carol is a link that is not root's. Name the directory itself.")


def test_a_source_that_is_down_at_start(daemon: SourceDaemon) -> None:
    """The daemon starts. Users of the source get 451, others log in; when it is up, its users do, too."""
    source = daemon.with_source()
    source.write("down")
    daemon.start()
    daemon.wait_for_log(r"source file\[0\]: connection refused: the source is down")
    for _ in range(5):  # no failed logins: nobody is banned
        attempt(daemon, 451, "carol")
    attempt(daemon, 230, "alice")
    source.write()
    wait_for_source(daemon, "carol")
    with passes(daemon, 230, "carol") as client:
        assert client.upload("STOR f", b"moved").startswith("226 ")
    assert (daemon.home("carol") / "f").read_bytes() == b"moved"
    attempt(daemon, 230, "dave")
    attempt(daemon, 530, "dave", "wrong")


def test_a_source_that_goes_down(daemon: SourceDaemon) -> None:
    """Running sessions go on. A user who logged in recently gets in again with the same password, others get 451."""
    source = daemon.with_source()
    daemon.start()
    with passes(daemon, 230, "carol") as running:
        source.write("down")
        attempt(daemon, 230, "carol")
        attempt(daemon, 451, "carol", "wrong")
        attempt(daemon, 451, "dave")
        assert running.upload("STOR f", b"moved").startswith("226 ")
    began = time.monotonic()
    for _ in range(10):
        attempt(daemon, 451, "dave")
    assert time.monotonic() - began < 2
    assert len(source.asked) < 10  # a source that is down is asked nothing but probes
    source.write()
    wait_for_source(daemon, "dave")


def test_a_source_that_is_slow(daemon: SourceDaemon) -> None:
    """A question that takes too long gets 451. Users of users.yaml and running sessions are not delayed meanwhile."""
    source = daemon.with_source()
    daemon.start()
    with secured(daemon, "alice") as running:
        source.write(["slow", 4])
        waiting = [FtpClient(daemon) for _ in range(6)]
        for each in waiting:
            each.start_tls()
            each.expect(331, "USER carol")
            each.send("PASS secret")
        began = time.monotonic()
        for _ in range(10):
            attempt(daemon, 230, "bob")
            running.expect(200, "NOOP")
        assert time.monotonic() - began < 1.5
        for each in waiting:
            assert each.reply().startswith("451 ")
            each.socket.close()
        assert time.monotonic() - began < 2 * daemon.timeout + 3
    daemon.wait_for_log("no answer within 3 seconds")
    source.write()
    wait_for_source(daemon, "carol")


LIES = {
    "no mapping": ["home", "/"],
    "no home": {},
    "home elsewhere": {"home": "/etc"},
    "home above": {"home": "/"},
    "climbing home": {"home": "homes/../../../../etc"},
    "wrong types": {"home": 5, "quota": "much", "limits": [1], "enabled": "maybe", "permissions": {"a": 1}},
    "unknown keys": {"home": "homes/carol", "admin": True},
    "huge number": {"home": "homes/carol", "quota": {"files": 10**4000}},
    "huge text": {"home": "x" * 1_000_000},
    "huge list": {"home": "homes/carol", "networks": {"allow": ["10.0.0.0/8"] * 100_000}},
    "NUL": {"home": "homes/carol\0"},
    "half a surrogate": {"home": "\ud800"},
    "no text": {"home": "homes/carol", "names": {"deny": [[[[[[[[[["deep"]]]]]]]]]]}},
    "no answer": None,
}


def test_a_source_that_lies(daemon: SourceDaemon) -> None:
    """Answers that cannot be used get 451 and one line in the log that says why; the daemon and others go on."""
    source = daemon.with_source()
    daemon.start()
    for number, lie in enumerate(LIES.values(), 1):
        source.write(["lie", lie])
        attempt(daemon, 451, "carol")
        told = [line for line in daemon.log.splitlines() if "could not be checked" in line]
        assert len(told) == number and len(told[-1]) < 2000, told[-1]
        assert "source file[0]" in told[-1]
    assert "/etc does not lie below any entry of sandbox.homes. Add / to sandbox.homes" in daemon.log
    source.write("crash")
    attempt(daemon, 451, "carol")
    source.path.write_text('{"users":')
    attempt(daemon, 451, "dave")
    source.write()
    wait_for_source(daemon, "carol")
    attempt(daemon, 230, "alice")


def test_a_source_that_is_replaced(daemon: SourceDaemon) -> None:
    """A reload closes a source that is configured no longer; logins that were remembered for it are forgotten.

    One whose settings did not change keeps them.
    """
    source = daemon.with_source()
    daemon.settings["timeouts"]["login"] = 3
    daemon.write()
    daemon.start()
    attempt(daemon, 230, "carol")
    source.write("down")
    daemon.reload()
    attempt(daemon, 230, "carol")
    daemon.settings["users"]["sources"][0]["timeout"] = 3
    daemon.write()
    daemon.reload()
    attempt(daemon, 451, "carol")
    closed, deadline = Path(f"{source.path}.closed"), time.monotonic() + 10
    while not closed.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    source.write()
    daemon.settings["users"] = {}
    daemon.write()
    daemon.reload()
    attempt(daemon, 530, "dave")


def test_a_home_outside_the_sandbox(daemon: SourceDaemon, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A home that no entry of sandbox.homes contains is refused with 451, and the log says what to add."""
    outside = tmp_path_factory.mktemp("elsewhere") / "erin"
    outside.mkdir()
    daemon.with_source(erin={"plain": "secret", "home": str(outside)})
    daemon.start()
    attempt(daemon, 451, "erin")
    daemon.wait_for_log(f"Add {outside.parent} to sandbox.homes in ftpsd.yaml, and restart the daemon")
    daemon.settings["sandbox"]["homes"].append(str(outside.parent))
    daemon.write()
    daemon.reload()
    if "landlock is on" in daemon.log and WORKERS == 1:  # a reload starts workers with another sandbox
        attempt(daemon, 451, "erin")
        daemon.wait_for_log("is outside of the sandbox. Restart the daemon")
        daemon.stop()
        daemon.start()
    with passes(daemon, 230, "erin") as client:
        assert client.upload("STOR f", b"moved").startswith("226 ")
    assert os.listdir(outside) == ["f"]


@requires_postgresql
def test_two_servers_that_fail(tmp_path: Path, certificate: Path) -> None:
    """A frozen database delays no user of the directory before it. While the directory is dead, users of the database
    get in who did so before.
    """
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("ldap", reason="python-ldap is not installed")
    make_chain(tmp_path)
    slapd = Slapd(tmp_path / "slapd", tmp_path, person("lena")).start()
    database = PostgresqlServer().start()
    daemon = Daemon(tmp_path, certificate)
    try:
        fill_sql(database.url)
        (tmp_path / "password").write_text(SERVICE_PASSWORD)
        (tmp_path / "password").chmod(0o600)
        for name in ("lena", "alice", "bob"):
            daemon.home(name).mkdir(parents=True, exist_ok=True)
        directory = {
            "type": "ldap", "servers": [slapd.tls_url], "ca_file": str(tmp_path / "ca.pem"), "bind_dn": SERVICE,
            "base": PEOPLE, "password_file": str(tmp_path / "password"), "values": {"home": "homes/{user}"},
            "timeout": 2,
        }  # fmt: skip
        sql = {"type": "sql", "url": database.url, "timeout": 2}
        daemon.settings["users"] = {"sources": [directory, sql]}
        daemon.users = {"yann": {}}
        daemon.write()
        daemon.start()
        for name in ("yann", "lena", "alice"):
            attempt(daemon, 230, name)
        database.signal(signal.SIGSTOP)
        try:
            for name, code in (("lena", 230), ("yann", 230), ("lena", 530)):
                began = time.monotonic()
                attempt(daemon, code, name, "secret" if code == 230 else "wrong")
                assert time.monotonic() - began < 1
            attempt(daemon, 451, "bob")
            attempt(daemon, 230, "alice")
        finally:
            database.signal(signal.SIGCONT)
        daemon.wait_for_log(r"source sql\[1\] answers again")
        slapd.kill()
        attempt(daemon, 451, "bob")
        attempt(daemon, 230, "alice")
        attempt(daemon, 530, "alice", "wrong")
        attempt(daemon, 230, "lena")
        slapd.start()
        wait_for_source(daemon, "bob", "source ldap[0]")
    finally:
        daemon.stop()
        slapd.kill()
        database.remove()
