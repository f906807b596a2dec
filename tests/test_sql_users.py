"""Users in SQL as administrators and clients meet them: `ftpsd sql`, `ftpsd user --source`, and a real daemon."""

from __future__ import annotations

import ftplib
import json
import os
import re
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftpsd.cli.main import main
from tests.authority import make_chain
from tests.daemon import PATIENCE, SECRET, Daemon
from tests.databases import Database, database, own_server, postgresql, server, sqlite
from tests.ftpclient import FtpClient, secured
from tests.postgresql import PostgresqlServer, requires_postgresql

__all__ = ["database", "own_server", "server"]  # fixtures

Make = Callable[..., Daemon]

Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[1]


def configured(make_daemon: Make, database: Database, start: bool = True, **source: Any) -> Daemon:
    """Return a daemon with bob in users.yaml, and others in a database."""
    daemon = make_daemon(
        {"users": {"sources": [{"type": "sql", "url": database.url, "timeout": 2, **source}]}}, {"bob": {}}, start=False
    )
    daemon.settings["sandbox"] = {"homes": [str(daemon.directory / "homes")]}
    daemon.settings["bans"] = {"attempts": 3, "allow": []}
    daemon.write()
    return daemon.start() if start else daemon


def run(daemon: Daemon, *words: str) -> int:
    """Run a command in this process; return the exit status."""
    command, action, *rest = words
    return main([command, action, "-c", str(daemon.config), *rest])


def add(daemon: Daemon, name: str, *options: str) -> int:
    """Add a user to the database, whose password is "secret"."""
    home = str(daemon.home(name))
    return run(daemon, "user", "add", name, "--source", "sql", "--home", home, "--set", f"password={SECRET}", *options)


def log_in(daemon: Daemon, name: str = "alice", password: str = "secret") -> str:
    """Return the code of the reply to the password."""
    with FtpClient(daemon) as client:
        client.start_tls()
        client.expect(331, f"USER {name}")
        return client.command(f"PASS {password}")[:3]


def wait_for(code: str, daemon: Daemon, name: str = "alice") -> None:
    """Try to log in until the reply has this code."""
    deadline = time.monotonic() + PATIENCE
    while (found := log_in(daemon, name)) != code:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_the_tables_are_made(make_daemon: Make, database: Database, capsys: Capture) -> None:
    """`ftpsd sql init` makes the tables once; `migrate` has nothing to do then. Both say it in JSON, too."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "migrate") == 1
    assert "run `ftpsd sql init`" in capsys.readouterr().err
    assert run(daemon, "user", "add", "carol", "--source", "sql", "--home", "/tmp", "--set", f"password={SECRET}") == 1
    assert "run `ftpsd sql init`" in capsys.readouterr().err
    assert run(daemon, "sql", "init", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"source": "sql[0]", "before": 0, "version": 1}]
    for action in ("init", "migrate"):
        assert run(daemon, "sql", action) == 0
        assert "are at version 1 already" in capsys.readouterr().out


def test_a_user_from_add_to_remove(make_daemon: Make, database: Database, capsys: Capture) -> None:
    """Each change holds at the next login, without a reload; what a client may do is what the row says."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    daemon.start()
    assert log_in(daemon) == "530"
    assert add(daemon, "alice", "--permissions", "list,download,upload") == 0
    assert "alice is added: sql[0]" in capsys.readouterr().out
    with ftplib.FTP_TLS(context=_no_verification()) as client:
        client.connect(daemon.host, daemon.port, PATIENCE)
        client.login("alice", "secret")
        with pytest.raises(ftplib.error_perm, match="550"):
            client.mkd("x")
    for words, code in (
        (["disable", "alice"], "530"),
        (["enable", "alice"], "230"),
        (["set", "alice", "--set", "networks.allow=[192.0.2.0/24]"], "530"),
        (["set", "alice", "--unset", "networks.allow", "--set", "quota.bytes=1K"], "230"),
        (["passwd", "alice", "--generate"], "530"),
        (["set", "alice", "--set", f"password={SECRET}"], "230"),
        (["remove", "alice"], "530"),
    ):
        assert run(daemon, "user", *words) == 0, words
        assert "It holds from the next login on." in capsys.readouterr().out
        assert log_in(daemon) == code, words
        assert run(daemon, "user", "enable", "bob") == 1  # bob is in users.yaml, and stays there
        assert "change it there" in capsys.readouterr().err
    assert run(daemon, "user", "enable", "alice") == 1
    assert "there is no user alice" in capsys.readouterr().err
    assert daemon.home("alice").is_dir()
    assert "reloaded" not in daemon.log


def test_users_are_shown(make_daemon: Make, database: Database, capsys: Capture) -> None:
    """`ftpsd user list` and `show` know the users of a database, and say that a setting comes from there."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    assert add(daemon, "alice", "--set", "quota.bytes=1K") == 0
    capsys.readouterr()
    assert run(daemon, "user", "list", "--json") == 0
    shown = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert sorted(shown) == ["alice", "bob"]
    assert shown["alice"]["file"] == "sql[0]"
    assert shown["alice"]["quota"]["bytes"] == 1024
    assert run(daemon, "user", "show", "alice", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["origins"]["quota.bytes"][0]["layer"] == "source sql[0]"
    assert found["settings"]["home"] == str(daemon.home("alice"))
    assert run(daemon, "user", "show", "alice") == 0
    assert "source sql[0]" in capsys.readouterr().out
    assert run(daemon, "user", "show", "carol") == 1
    database.execute("DROP TABLE ftpsd_users", "DROP TABLE ftpsd_schema")
    assert run(daemon, "user", "list") == 0
    output = capsys.readouterr()
    assert "bob" in output.out and "users of sql[0] are missing: " in output.err


def test_a_change_with_a_fault_is_not_made(make_daemon: Make, database: Database, capsys: Capture) -> None:
    """What the daemon could not use is not stored, and a home that was made for it is removed again."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    for fault in ("quota.bytes=many", "shoe_size=43", "groups=[nobody]", "umask=22"):
        assert add(daemon, "alice", "--set", fault) == 1
        assert fault.partition("=")[0] in capsys.readouterr().err
    assert not daemon.home("alice").exists()
    assert run(daemon, "user", "enable", "alice") == 1
    assert add(daemon, "alice") == 0
    assert run(daemon, "user", "set", "alice", "--set", "limits.sessions=many") == 1
    assert run(daemon, "user", "set", "alice", "--home", "/tmp/elsewhere/alice") == 1
    assert not Path("/tmp/elsewhere").exists()
    capsys.readouterr()
    for name in ("alice", "ALICE", "bob", "Bob"):
        assert add(daemon, name) == 1
        assert "already" in (error := capsys.readouterr().err) or "differs only in case" in error
    for source in ("ldap", "sql[1]", ""):
        assert run(daemon, "user", "add", "carol", "--source", source, "--home", "/x", "--generate") == 2
        assert "there is sql[0]" in capsys.readouterr().err


def test_hostile_logins(make_daemon: Make, database: Database) -> None:
    """Names that mean something to SQL are refused like other unknown names, and what they name is untouched."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    assert add(daemon, "alice") == 0
    daemon.settings["bans"] = {"attempts": 0}
    daemon.write()
    daemon.start()
    for name in ("' OR '1'='1", "alice'; DROP TABLE ftpsd_users; --", "%", "%(name)s", "\\", "$1", "a" * 1000, "ALICE"):
        assert log_in(daemon, name) == "530", name
    assert log_in(daemon) == "230"
    assert "Traceback" not in daemon.log


def test_a_migration_while_sessions_run(make_daemon: Make, database: Database) -> None:
    """A later release migrates: sessions go on; logins get 451, the log says why, and nobody is banned."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    assert add(daemon, "alice") == 0
    daemon.start()
    with secured(daemon) as session:
        database.execute("UPDATE ftpsd_schema SET version = 2", "ALTER TABLE ftpsd_users ADD COLUMN shoe_size integer")
        for _ in range(5):
            assert log_in(daemon, "carol") == "451"
        daemon.wait_for_log("have version 2, which is of a later release of ftpsd")
        session.expect(257, "PWD")
        database.execute("UPDATE ftpsd_schema SET version = 1", "ALTER TABLE ftpsd_users DROP COLUMN shoe_size")
        wait_for("230", daemon)


@requires_postgresql
def test_a_server_that_is_killed(make_daemon: Make, own_server: PostgresqlServer) -> None:
    """While the server is down, logins get 451 without a ban; recent users get in. Afterwards all do."""
    database = Database(own_server.url, own_server.sql)
    database.migrate()
    own_server.stop()
    daemon = configured(make_daemon, database)
    assert [log_in(daemon) for _ in range(4)] == ["451"] * 4
    assert log_in(daemon, "bob") == "230"
    own_server.start()
    for name in ("alice", "carol"):
        assert add(daemon, name) == 0
    wait_for("230", daemon)
    own_server.kill()
    assert [log_in(daemon, "carol") for _ in range(4)] == ["451"] * 4
    assert log_in(daemon) == "230"
    assert log_in(daemon, "alice", "wrong") == "451"
    own_server.start()
    wait_for("230", daemon, "carol")
    assert log_in(daemon, "alice", "wrong") == "530"
    assert "Traceback" not in daemon.log


@requires_postgresql
def test_a_change_reaches_the_daemon(make_daemon: Make, own_server: PostgresqlServer) -> None:
    """A user who changes, by whichever program, is forgotten at once: also if the server is down at the next login."""
    database = Database(own_server.url, own_server.sql)
    database.migrate()
    daemon = configured(make_daemon, database)
    for name in ("alice", "carol", "dave"):
        assert add(daemon, name) == 0
    own_server.restart()  # the connection that listens is replaced, and what it was told is past
    wait_until_listening(own_server)
    for name in ("alice", "carol", "dave"):
        wait_for("230", daemon, name)
    own_server.sql("UPDATE ftpsd_users SET enabled = false WHERE name = 'alice'")
    own_server.sql("DELETE FROM ftpsd_users WHERE name = 'dave'")
    time.sleep(2)
    own_server.kill()
    assert log_in(daemon, "alice") == "451"
    assert log_in(daemon, "dave") == "451"
    assert log_in(daemon, "carol") == "230", daemon.log
    assert "Traceback" not in daemon.log


def wait_until_listening(server: PostgresqlServer) -> None:
    """Wait until a connection has told the server that it listens."""
    deadline = time.monotonic() + PATIENCE
    while server.sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN ftpsd_users'") == "0":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@requires_postgresql
def test_a_server_that_stands_still(make_daemon: Make, own_server: PostgresqlServer) -> None:
    """While the server is stopped, logins of its users get 451 in time, and nobody else waits."""
    database = Database(own_server.url, own_server.sql)
    database.migrate()
    daemon = configured(make_daemon, database)
    assert add(daemon, "alice") == 0
    assert log_in(daemon) == "230"
    own_server.signal(signal.SIGSTOP)
    before = time.monotonic()
    assert log_in(daemon, "carol") == "451"
    assert time.monotonic() - before < 6
    before = time.monotonic()
    assert log_in(daemon, "bob") == "230"
    assert time.monotonic() - before < 2
    own_server.signal(signal.SIGCONT)
    wait_for("230", daemon)


@requires_postgresql
def test_the_example_of_the_document(make_daemon: Make, server: PostgresqlServer) -> None:
    """The statements of docs/users-sql.md work with the table that they are made for, also with curl."""
    text = (ROOT / "docs/users-sql.md").read_text().partition("## Use a table that you have")[2]
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])["users"]["sources"][0]  # type: ignore[index]
    database = postgresql(server)
    server.sql(
        "CREATE TABLE customers (id integer, login text, hash text, active boolean, megabytes integer)",
        f"INSERT INTO customers VALUES (7, 'Alice', '{SECRET}', true, 100)",
    )
    statements = {key: example[key] for key in ("find", "names")}
    daemon = configured(make_daemon, database, start=False, **statements)
    find = str(statements["find"]).replace("/srv/ftp/", f"{daemon.directory}/homes/")
    daemon.settings["users"]["sources"][0]["find"] = find.replace("10.0.0.0/8", "127.0.0.0/8")
    daemon.write()
    (daemon.directory / "homes" / "7").mkdir()
    daemon.start()
    upload = ["curl", "-sk", "--ssl-reqd", "-T", "-", f"ftp://{daemon.host}:{daemon.port}/hello", "-u", "ALICE:secret"]
    assert subprocess.run(upload, input=b"hello", timeout=PATIENCE).returncode == 0
    assert (daemon.directory / "homes" / "7" / "hello").read_bytes() == b"hello"
    assert run(daemon, "check", "--online") == 0


@requires_postgresql
def test_a_server_with_tls_and_a_password(make_daemon: Make, tmp_path: Path) -> None:
    """In its sandbox the daemon reads the authorities; a password that is wrong is a 451, and in no line of the log."""
    make_chain(tmp_path)
    secret = tmp_path / "password"
    secret.write_text(f"{PostgresqlServer.PASSWORD}\n")
    secret.chmod(0o600)
    tls = PostgresqlServer(tmp_path).start()
    try:
        url = f"postgresql://ftpsd@localhost:{tls.port}/postgres?sslmode=verify-full"
        files = {"password_file": str(secret), "ca_file": str(tmp_path / "ca.pem")}
        daemon = configured(make_daemon, Database(url, tls.sql), start=False, **files)
        assert run(daemon, "sql", "init") == 0
        assert add(daemon, "alice") == 0
        daemon.start()
        wait_for("230", daemon)
        secret.write_text("battery staple\n")
        daemon.reload()
        assert log_in(daemon, "carol") == "451"
        daemon.wait_for_log("password authentication failed")
        assert "battery" not in daemon.log and "horse" not in daemon.log
    finally:
        tls.remove()


def test_a_file_in_wal_mode(make_daemon: Make, tmp_path: Path) -> None:
    """In its sandbox the daemon reads a file in WAL mode, also when it is the first to open it."""
    directory = tmp_path / "database"
    directory.mkdir()
    database = sqlite(directory / "users.sqlite")
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    assert add(daemon, "alice") == 0
    database.execute("PRAGMA journal_mode = WAL")
    assert [each.name for each in directory.iterdir()] == ["users.sqlite"]
    daemon.start()
    assert "landlock is on" in daemon.log or "landlock is off" in daemon.log
    assert log_in(daemon) == "230"
    assert run(daemon, "user", "disable", "alice") == 0
    assert log_in(daemon) == "530"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files for others")
def test_a_file_of_another_user(make_daemon: Make) -> None:
    """Root makes the file for the owner of its directory, and never through a link."""
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, 65534, 65534)
        path = Path(place) / "users.sqlite"
        daemon = configured(make_daemon, Database(f"sqlite:{path}", lambda: None), start=False)
        assert run(daemon, "sql", "init") == 0
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (65534, 0o640)
        assert add(daemon, "alice") == 0
        assert {each.stat().st_uid for each in Path(place).iterdir()} == {65534}
        assert os.geteuid() == 0
        secret = daemon.directory / "secret"
        secret.write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(secret)
        assert add(daemon, "carol") == 1


def _no_verification() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
