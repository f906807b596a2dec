"""Users in PostgreSQL and SQLite: what the source promises, with real databases that fail, lie, and come back."""

from __future__ import annotations

import importlib
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import attrs
import pytest

from ftpsd.accounts.sources.source import Answer, Question, SourceFailed, UnusableSettings
from ftpsd.accounts.sources.sql import schema
from ftpsd.accounts.sources.sql.source import SqlUsers, make
from ftpsd.config.sections.sources import SqlSource
from ftpsd.config.settings import UserSettings
from ftpsd.protocol.addresses import plain_address
from tests.authority import make_chain
from tests.daemon import PATIENCE
from tests.databases import Database, database, own_server, postgresql, server, sqlite
from tests.postgresql import PostgresqlServer, requires_postgresql

__all__ = ["database", "own_server", "server"]  # fixtures

PEER = plain_address("192.0.2.1")

#: Names that mean something to SQL, to psycopg, or to a shell.
HOSTILE = [
    "' OR '1'='1", '" OR 1=1 --', "'; DROP TABLE ftpsd_users; --", "%", "%s", "%(name)s", "%%", "\\", "\\'", "$1", ":name",
    "?", "_", "*", "alice\t", " alice", "alice ", "ALICE", "E'\\x27'", "x" * 1000, "é" * 500, "😀", "\x7f", "\u202e",
]  # fmt: skip

#: What no name in a database can be.
IMPOSSIBLE = ["a\0b", "\udcff", "x" * 10_240, ""]


def ask(source: SqlUsers, name: str) -> Answer | None:
    """Ask as a login does."""
    return source.ask(Question(name, "secret", PEER))


def failure(source: SqlUsers, name: str = "alice") -> str:
    """Return why the source fails."""
    with pytest.raises(SourceFailed) as failed:
        ask(source, name)
    assert "\n" not in str(failed.value)
    return str(failed.value)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    before = time.monotonic()
    call()
    return time.monotonic() - before


# --- users ----------------------------------------------------------------------------------------


def test_every_key_of_a_user_has_a_column() -> None:
    """What can stand in users.yaml can stand in the tables of ftpsd."""
    assert {field.name for field in attrs.fields(UserSettings)} <= set(schema.COLUMNS)


def test_a_user_with_every_key(database: Database) -> None:
    """The keys of a user come out as they went in, and a column that is NULL is no key."""
    values = {
        "password": "{SSHA}x", "home": "[in]", "enabled": False, "expires": "2027-01-31", "permissions": ["list", "download"],
        "paths": {"/in": "upload-only"}, "groups": ["staff"], "folders": {"/shared": {"path": "/srv/shared"}},
        "quota": {"bytes": "10G", "files": 7}, "limits": {"sessions": 2, "transfers": None}, "networks": {"allow": ["10.0.0.0/8"]},
        "hours": ["Mon-Fri 08:00-18:00"], "names": {"deny": ["*.exe"], "encoding": "cp1252"}, "umask": "022",
        "tls": {"data_session": "allow"}, "certificates": ["ab:cd"], "totp": "JBSWY3DPEHPK3PXP",
    }  # fmt: skip
    assert set(values) == set(schema.COLUMNS)
    database.migrate()
    database.put("alice", **values)
    database.put("bob", permissions="read-only")
    source = database.source()
    assert ask(source, "alice") == Answer("alice", values, verified=False)
    assert ask(source, "bob") == Answer("bob", {"permissions": "read-only"}, verified=False)
    assert ask(source, "carol") is None
    assert list(source.names()) == ["alice", "bob"]
    source.probe()


def test_an_existing_table(database: Database) -> None:
    """`find` reads any table: a column is a key, with a dot or two underscores one of a section; name is canonical."""
    database.execute(
        "CREATE TABLE accounts (login varchar(50), hash text, dir text, active smallint, mb bigint, nets text)",
        "INSERT INTO accounts VALUES ('Alice', '$5$x$y', '/srv/alice', 1, 1073741824, '[\"10.0.0.0/8\"]')",
        "INSERT INTO accounts VALUES ('Bob', NULL, '/srv/bob', 0, NULL, NULL)",
    )
    source = database.source(
        find="SELECT login AS name, hash AS password, dir AS home, active AS enabled, mb AS quota__bytes, 3 AS limits__sessions,"
        " nets AS \"networks.allow\" FROM accounts WHERE lower(login) = lower(%(name)s) AND login NOT LIKE 'x%%'",
        names="SELECT login FROM accounts WHERE login NOT LIKE 'x%%' ORDER BY login",
    )
    values = {"password": "$5$x$y", "home": "/srv/alice", "enabled": True, "quota": {"bytes": 1 << 30},
              "limits": {"sessions": 3}, "networks": {"allow": ["10.0.0.0/8"]}}  # fmt: skip
    assert ask(source, "ALICE") == Answer("Alice", values, verified=False)
    assert ask(source, "bob") == Answer("Bob", {"home": "/srv/bob", "enabled": False, "limits": {"sessions": 3}}, False)
    assert ask(source, "xaver") is None
    assert list(source.names()) == ["Alice", "Bob"]
    source.probe()


def test_names_need_a_statement(database: Database) -> None:
    """Without `names`, users of other tables can log in, but are not listed."""
    database.execute("CREATE TABLE accounts (name text)")
    with pytest.raises(SourceFailed, match="set names"):
        list(database.source(find="SELECT name FROM accounts WHERE name = %(name)s").names())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(database: Database, name: str) -> None:
    """A name is a value: it finds the user who has exactly this name, and changes nothing."""
    database.migrate()
    database.put("alice", password="x")
    source = database.source()
    assert ask(source, name) is None
    database.put(name, home="/srv/hostile")
    assert ask(source, name) == Answer(name, {"home": "/srv/hostile"}, verified=False)
    assert sorted(source.names()) == sorted(["alice", name])


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_names(database: Database, name: str) -> None:
    """What no database can hold is the name of nobody; the source has not failed."""
    database.migrate()
    database.put("alice", password="x")
    source = database.source()
    assert ask(source, name) is None
    assert ask(source, "alice") is not None


# --- faults of the configuration ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"find": "SELECT * FROM users"}, "find: does not use the name of the user. Write WHERE name = %(name)s"),
        ({"find": "SELECT * FROM users WHERE name = '%(name)s'"}, "find: has %(name)s in quotes"),
        ({"find": "SELECT * FROM users -- %(name)s"}, "find: has %(name)s in quotes or in a comment"),
        (
            {"find": "SELECT 1 WHERE a = %(name)s AND b = %(password)s"},
            "find: has “%(password)s”, which is no parameter",
        ),
        ({"find": "SELECT 1 WHERE a = %(name)s AND b LIKE 'x%'"}, "find: has “%”, which is no parameter"),
        ({"find": "SELECT 1 WHERE a = %s"}, "find: has “%s”"),
        ({"find": "SELECT 1 WHERE a = %(name)d"}, "find: has “%(name)d”"),
        ({"find": "SELECT 1 WHERE a = %(name"}, "find: has “%”"),
        ({"find": ""}, "find: does not use the name"),
        ({"find": "SELECT 1 WHERE a = {name}"}, "find: does not use the name"),
        ({"find": "SELECT 1 WHERE a = %(name)s", "names": "SELECT %(name)s"}, "names: must list the names"),
        ({"find": "SELECT 1 WHERE a = %(name)s", "names": " "}, "names: must list the names"),
        ({"names": "SELECT name FROM users"}, "names: needs find"),
        ({"url": "mysql://localhost/ftpsd"}, "url: names no supported database"),
        ({"url": "sqlite:users.sqlite"}, "url: does not name an absolute path"),
        ({"url": "sqlite:/a%00b"}, "url: does not name an absolute path"),
        ({"url": "sqlite://users.sqlite"}, "url: does not name an absolute path"),
        ({"url": "postgresql://ftpsd@[::1"}, "url: is not valid"),
        ({"url": "postgresql://localhost/ftpsd?ssl=yes"}, "url: is not valid"),
        ({"url": "postgresql://ftpsd:secret@localhost/ftpsd"}, "url: contains a password"),
        ({"url": "postgresql://localhost/ftpsd?password=secret"}, "url: contains a password"),
    ],
)
def test_faults_of_settings(settings: dict[str, str], problem: str) -> None:
    """What cannot work is a fault when the configuration is loaded, with the key and a remedy, and without secrets."""
    with pytest.raises(UnusableSettings) as fault:
        make(SqlSource(**{"url": "sqlite:/tmp/users.sqlite", **settings}), {})
    assert str(fault.value).startswith(problem)
    assert "secret" not in str(fault.value)


@pytest.mark.parametrize("url", ["sqlite:/a b", "sqlite:///a%20b", "sqlite:////a%20b"])
def test_urls_of_files(url: str) -> None:
    """A file may be written in the forms of other programs."""
    assert Path(str(SqlSource(url=url).file)).resolve() == Path("/a b")


@requires_postgresql
def test_servers_of_other_hosts_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to another host is encrypted and its certificate verified, unless the URL says otherwise."""
    from ftpsd.accounts.sources.sql.postgresql import PostgreSql

    monkeypatch.delenv("PGHOST", raising=False)

    def mode(url: str, ca_file: Path | None = None) -> tuple[str | None, str | None]:
        parameters = PostgreSql(url, None, ca_file)._parameters
        return parameters.get("sslmode"), parameters.get("sslrootcert")

    system = "/etc/ssl/certs/ca-certificates.crt"
    assert mode("postgresql://db.example.com/ftpsd") == ("verify-full", system)
    assert mode("postgresql://db.example.com/ftpsd", Path("/ca.pem")) == ("verify-full", "/ca.pem")
    assert mode("postgresql://localhost,192.0.2.1/ftpsd") == ("verify-full", system)
    assert mode("postgresql:///ftpsd?hostaddr=192.0.2.1") == ("verify-full", system)
    assert mode("postgresql:///?service=ftpsd") == ("verify-full", system)
    assert mode("postgresql://db.example.com/ftpsd?sslmode=require") == ("require", None)
    for local in ("postgresql://localhost/x", "postgresql:///x", "postgresql://[::1]/x", "postgresql:///x?host=/run/p"):
        assert mode(local) == (None, None)


# --- databases that lie ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("NULL AS name", "has no name"),
        ("'' AS name", "has no name"),
        ("7 AS name", "has no name"),
        ("'x' AS password", "has no name"),
        ("'alice' AS name, '{\"a\":' AS limits", "the column limits cannot be used"),
        ("'alice' AS name, '[\"\\ud800\"]' AS hours", "half of a surrogate pair"),
        ("'alice' AS name, 'x' AS limits, 1 AS limits__sessions", "sets to a plain value"),
        ("'alice' AS name, 1 AS home, 2 AS home", "two columns are named home"),
        ("'alice' AS name, 'x' AS home UNION ALL SELECT 'alice', 'y'", "more than one row"),
    ],
)
def test_rows_that_lie(database: Database, columns: str, problem: str) -> None:
    """A row that makes no user is a failure of the source with a reason, and no false answer."""
    first, union, rest = columns.partition(" UNION")
    statement = f"SELECT {first} WHERE %(name)s <> ''{union}{rest}"
    assert problem in failure(database.source(find=statement))


@pytest.mark.parametrize("end", ["", " ;\n", " -- all"])
def test_a_statement_that_finds_everyone(database: Database, end: str) -> None:
    """Two rows are fetched at most: a careless LIKE does not load the whole table, which has no end here."""
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'user' || i AS name FROM n"
    source = database.source(find=f"{rows} WHERE 'user' || i LIKE %(name)s{end}")
    assert "more than one row" in failure(source, "%")
    assert "more than one row" in failure(source, "user1%")


def test_how_a_statement_may_end(database: Database) -> None:
    """A semicolon or a comment after `find` changes nothing, and a semicolon may be in it."""
    for end in ("", ";", " ;\n", " -- users", "; -- users", " /* a; b */", " AND 'a;b' = 'a;b'"):
        source = database.source(find=f"SELECT 'alice' AS name WHERE %(name)s = 'alice'{end}")
        assert ask(source, "alice") == Answer("alice", {}, verified=False), end
        assert ask(source, "bob") is None
        source.probe()


def test_huge_rows(database: Database) -> None:
    """A value of some megabytes is refused, and so is JSON without end."""
    big = "repeat('x', 5000000)" if "postgresql" in database.url else "hex(zeroblob(2500000))"
    assert "larger than 1 MiB" in failure(
        database.source(find=f"SELECT 'alice' AS name, {big} AS home WHERE %(name)s <> ''")
    )
    deep = "[" * 50_000
    assert "limits cannot be used" in failure(
        database.source(find=f"SELECT 'alice' AS name, '{deep}' AS limits WHERE %(name)s <> ''")
    )


def test_a_statement_that_is_wrong(database: Database) -> None:
    """A statement that the database refuses is a failure that says why, when it is asked and when it is probed."""
    for statement in (
        "SELECT name FROM nothing WHERE name = %(name)s",
        "SELEC %(name)s",
        "SELECT 'x' WHERE %(name)s = '1'; SELECT 1",
        "DELETE FROM accounts WHERE name = %(name)s",
        "SELECT 1 AS login WHERE %(name)s = 'x'",
    ):
        database.execute("DROP TABLE IF EXISTS accounts", "CREATE TABLE accounts (name text)")
        with pytest.raises(SourceFailed):
            database.source(find=statement).probe()


def test_the_daemon_only_reads(database: Database) -> None:
    """A statement cannot change anything, even if the role of the daemon may."""
    database.execute("CREATE TABLE accounts (name text)", "INSERT INTO accounts VALUES ('alice')")
    source = database.source(find="DELETE FROM accounts WHERE name = %(name)s RETURNING name")
    assert "read" in failure(source)
    assert ask(database.source(find="SELECT name FROM accounts WHERE name = %(name)s"), "alice") is not None


@requires_postgresql
def test_types_of_postgresql(server: PostgresqlServer) -> None:
    """Values of PostgreSQL's own types become what stands in users.yaml."""
    database = postgresql(server)
    source = database.source(
        find="SELECT 'alice'::char(10) AS name, true AS enabled, 7.0::numeric AS limits__sessions, ARRAY['list'] AS permissions,"
        " '2027-01-31'::date AS expires, ARRAY['10.0.0.0/8'::cidr] AS networks__allow, '{\"deny\": [\"*.exe\"]}'::jsonb AS names,"
        " '\\x2f737276'::bytea AS home, '{\"/in\": [1, null]}'::json AS paths WHERE %(name)s <> ''"
    )
    assert ask(source, "alice") == Answer(
        "alice     ",
        {"enabled": True, "limits": {"sessions": 7}, "permissions": ["list"], "expires": "2027-01-31",
         "networks": {"allow": ["10.0.0.0/8"]}, "names": {"deny": ["*.exe"]}, "home": "/srv", "paths": {"/in": [1, None]}},
        verified=False,
    )  # fmt: skip
    for lie in ("'infinity'::timestamptz AS expires", "'infinity'::numeric AS limits", "'\\xff'::bytea AS home"):
        failure(database.source(find=f"SELECT 'alice' AS name, {lie} WHERE %(name)s <> ''"))


@requires_postgresql
def test_a_database_of_another_encoding(server: PostgresqlServer) -> None:
    """A name with a letter that the encoding of the database does not have is the name of nobody."""
    whole = postgresql(server)
    whole.call(lambda connection: connection.run("DROP DATABASE IF EXISTS latin"))
    whole.call(
        lambda connection: connection.run(
            "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    )
    database = Database(server.url.replace("/postgres", "/latin"), server.sql)
    database.migrate()
    database.put("é", home="/srv/é")
    for source in (database.source(), database.source(find="SELECT * FROM ftpsd_users WHERE name = %(name)s")):
        assert ask(source, "é") == Answer("é", {"home": "/srv/é"}, verified=False)
        assert ask(source, "😀") is None


# --- databases that fail --------------------------------------------------------------------------


@requires_postgresql
def test_a_server_that_is_down_and_comes_back(own_server: PostgresqlServer) -> None:
    """While the server is down, each question fails at once; the next one after its start succeeds."""
    database = Database(own_server.url, own_server.sql)
    database.migrate()
    database.put("alice", password="x")
    own_server.stop()
    source = database.source()
    assert "Connection refused" in failure(source)
    own_server.start()
    assert ask(source, "alice") is not None
    own_server.kill()
    assert "Connection refused" in failure(source)
    own_server.start()
    assert ask(source, "alice") is not None
    own_server.restart()  # the connection that the source keeps is lost
    assert ask(source, "alice") is not None
    source.close()


@requires_postgresql
def test_a_server_that_stands_still(own_server: PostgresqlServer) -> None:
    """Neither an open connection nor a new one waits longer than `timeout`; later both work."""
    database = Database(own_server.url, own_server.sql)
    database.migrate()
    database.put("alice", password="x")
    used, new = database.source(timeout=2), database.source(timeout=2)
    assert ask(used, "alice") is not None
    own_server.signal(signal.SIGSTOP)
    for source in (used, new):
        assert 1.5 < seconds(lambda source=source: failure(source)) < 4  # type: ignore[misc]
    own_server.signal(signal.SIGCONT)
    for source in (used, new):
        assert ask(source, "alice") is not None


class Silent:
    """The way to a server. Bytes on the first connection are lost from a word on, and nobody closes it."""

    def __init__(self, server: PostgresqlServer, word: bytes) -> None:
        self._server, self._word = server, word
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.url = server.url.replace(f":{server.port}/", f":{self._listener.getsockname()[1]}/")
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._server.port))
                last = self._word if len(self._sockets) == 1 else None
                self._sockets += [client, there]
                for ends in ((client, there, last), (there, client, None)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, here: socket.socket, there: socket.socket, last: bytes | None) -> None:
        with suppress(OSError):
            while (data := here.recv(65536)) and not (last and last in data):
                there.sendall(data)

    def close(self) -> None:
        """Close all connections."""
        for each in self._sockets:
            each.close()


@requires_postgresql
def test_a_way_that_is_silent_when_the_daemon_listens(
    server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is lost without a word before it listens is replaced: changes are told again."""
    notifications = importlib.import_module("ftpsd.accounts.sources.sql.notifications")
    postgresql = importlib.import_module("ftpsd.accounts.sources.sql.postgresql")
    monkeypatch.setattr(notifications, "_RETRY", 0.1)
    way, told, stopped = Silent(server, b"LISTEN"), threading.Event(), threading.Event()
    database = postgresql.PostgreSql(way.url, None, None)
    arguments = database, 1.0, lambda names: told.set(), stopped
    thread = threading.Thread(target=notifications.listen, args=arguments, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not told.wait(0.2) and time.monotonic() < deadline:
        server.sql("NOTIFY ftpsd_users, 'alice'")
    stopped.set()
    thread.join(PATIENCE)
    way.close()
    assert told.is_set() and not thread.is_alive()


@requires_postgresql
def test_a_server_that_is_killed_under_load(own_server: PostgresqlServer) -> None:
    """Threads that ask while the server is killed and started get answers or SourceFailed, and nothing else."""
    database = Database(own_server.url, own_server.sql)
    database.migrate()
    database.put("alice", password="x")
    source, outcomes, stop = database.source(timeout=2), [], threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                outcomes.append("found" if ask(source, "alice") else "unknown")
            except SourceFailed:
                outcomes.append("failed")
                time.sleep(0.01)
            except BaseException as error:
                outcomes.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.3)
        own_server.kill()
        time.sleep(0.2)
        own_server.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert set(outcomes) == {"found", "failed"}
    assert ask(source, "alice") is not None


@requires_postgresql
def test_a_statement_that_is_slow(server: PostgresqlServer) -> None:
    """A statement that takes too long, or waits for a lock, ends after `timeout`, on the server, too."""
    database = postgresql(server)
    database.migrate()
    slow = database.source(find="SELECT 'a' AS name FROM pg_sleep(60) WHERE %(name)s <> ''", timeout=1)
    assert seconds(lambda: failure(slow)) < 3
    locked = database.source(timeout=1)
    lock = threading.Thread(target=lambda: server.sql("LOCK TABLE ftpsd_users", "SELECT pg_sleep(3)"))
    lock.start()
    time.sleep(0.5)
    assert seconds(lambda: failure(locked)) < 2.4
    running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ftpsd' AND state = 'active'"
    time.sleep(0.3)
    assert server.sql(running) == "0"
    lock.join()
    assert ask(locked, "alice") is None


@requires_postgresql
def test_many_users_cost_nothing(server: PostgresqlServer) -> None:
    """A login among 100,000 users takes as long as one among ten."""
    database = postgresql(server)
    database.migrate()
    source = database.source()

    def cost() -> float:
        return min(seconds(lambda: ask(source, "user7")) for _ in range(50))

    add = "INSERT INTO ftpsd_users (name, password) SELECT 'user' || n, 'x' FROM generate_series"
    server.sql(f"{add}(1, 10) n")
    few = cost()
    server.sql(f"{add}(11, 100000) n")
    assert ask(source, "user99999") is not None
    assert cost() < 3 * few + 0.002
    assert len(list(source.names())) == 100_000


@requires_postgresql
def test_a_server_with_tls_and_passwords(tmp_path: Path) -> None:
    """The server is verified; a wrong authority, a wrong name or a wrong password fails, and the password is not told."""
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
        make_chain(tmp_path / name)
    secret = tmp_path / "password"
    server = PostgresqlServer(tmp_path / "right").start()
    try:
        Database(server.socket_url, server.sql).migrate()

        def source(host: str, password: str, authority: str = "right", mode: str = "?sslmode=verify-full") -> SqlUsers:
            url = f"postgresql://ftpsd@{host}:{server.port}/postgres{mode}"
            settings = SqlSource(url=url, password_file=secret, ca_file=tmp_path / authority / "ca.pem")
            return make(settings, {secret: password})

        right = server.PASSWORD
        assert ask(source("localhost", right), "alice") is None
        assert "certificate verify failed" in failure(source("localhost", right, "wrong"))
        assert "pg_hba.conf" in failure(source("localhost", right, mode="?sslmode=disable"))
        refused = failure(source("localhost", "battery staple"))
        assert "password authentication failed" in refused and "battery" not in refused
    finally:
        server.remove()


def test_a_file_that_is_locked(tmp_path: Path) -> None:
    """While another process holds the lock of a file, questions fail after `timeout`; then they work."""
    database = sqlite(tmp_path / "users.sqlite")
    database.migrate()
    database.put("alice", password="x")
    source = database.source(timeout=2)
    assert ask(source, "alice") is not None
    with closing(sqlite3.connect(tmp_path / "users.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert seconds(lambda: failure(source)) < 3
        assert "locked" in failure(source)
        other.execute("COMMIT")
    assert ask(source, "alice") is not None


def test_a_slow_statement_of_sqlite(tmp_path: Path) -> None:
    """A statement without end is interrupted."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    source = sqlite(tmp_path / "x").source(find=f"SELECT 'x' AS name WHERE %(name)s = ({endless})", timeout=1)
    assert seconds(lambda: failure(source)) < 2
    assert "no answer within 1 seconds" in failure(source)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A file that is missing, no database, or a directory is named with the reason; it is never created."""
    path = tmp_path / "users.sqlite"
    source = make(SqlSource(url=f"sqlite:{path}"), {})
    assert failure(source) == f"{path}: no such file or directory"
    assert not path.exists()
    path.write_bytes(b"no database" * 1000)
    assert "not a database" in failure(source)
    path.unlink()
    path.mkdir()
    assert str(path) in failure(source)
    path.rmdir()
    sqlite(path)
    assert "run `ftpsd sql init`" in failure(source)
    database = sqlite(path)
    database.migrate()
    assert ask(source, "alice") is None


def test_a_writer_that_was_killed(tmp_path: Path) -> None:
    """What a killed process left is not read, and the text says what undoes it."""
    database = sqlite(tmp_path / "users.sqlite")
    database.migrate()
    for number in range(300):
        database.put(f"user{number}", home="/srv/" + "x" * 500)
    killed = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('PRAGMA cache_size=2');"
        "c.execute('BEGIN IMMEDIATE'); c.execute('UPDATE ftpsd_users SET home = NULL'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed, tmp_path / "users.sqlite"], timeout=PATIENCE)
    source = database.source()
    assert "a process was killed while it wrote, which `ftpsd sql migrate` undoes" in failure(source, "user7")
    assert database.migrate() == (1, 1)
    answer = ask(source, "user7")
    assert answer is not None and answer.values["home"] == "/srv/" + "x" * 500


def test_a_file_that_is_replaced(tmp_path: Path) -> None:
    """A backup that is restored under the name of the file is seen at the next login, and so is one in WAL mode."""
    database = sqlite(tmp_path / "users.sqlite")
    database.migrate()
    source = database.source()
    assert ask(source, "alice") is None
    other = sqlite(tmp_path / "backup.sqlite")
    other.migrate()
    other.put("alice", password="x")
    (tmp_path / "backup.sqlite").rename(tmp_path / "users.sqlite")
    assert ask(source, "alice") is not None
    database.execute("PRAGMA journal_mode = WAL")
    with closing(sqlite3.connect(tmp_path / "users.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO ftpsd_users (name) VALUES ('bob')")
        assert ask(source, "bob") is None  # a writer keeps no reader waiting
        writer.execute("COMMIT")
        assert ask(source, "bob") is not None


# --- migrations -----------------------------------------------------------------------------------


def test_our_tables_are_made_once(database: Database) -> None:
    """Without tables the source says what to do; two processes that make them at the same time make them once."""
    source = database.source()
    assert "run `ftpsd sql init`" in failure(source)
    results: list[tuple[int, int]] = []
    threads = [threading.Thread(target=lambda: results.append(database.migrate())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(0, 1), (1, 1), (1, 1), (1, 1)]
    assert ask(source, "alice") is None


def test_a_migration_while_logins_are_answered(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release refuses tables that it does not know, in both directions, and says what to do. No user is lost."""
    database.migrate()
    database.put("alice", password="x")
    source = database.source()
    assert ask(source, "alice") is not None
    more = [*schema.MIGRATIONS, schema.Migration(["ALTER TABLE ftpsd_users ADD COLUMN shoe_size {json}"])]
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", more)
        assert "have version 1, and this release needs 2: run `ftpsd sql migrate`" in failure(source)
        assert database.migrate() == (1, 2)
        assert ask(source, "alice") == Answer("alice", {"password": "x"}, verified=False)
    assert "have version 2, which is of a later release" in failure(source)
    assert database.migrate() == (2, 2)


def test_a_migration_that_fails(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that cannot be completed changes nothing."""
    database.migrate()
    database.put("alice", password="x")
    broken = schema.Migration(["ALTER TABLE ftpsd_users ADD COLUMN shoe_size {json}", "SELECT nonsense"])
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, broken])
        with pytest.raises(SourceFailed, match="nonsense"):
            database.migrate()
    assert database.migrate() == (1, 1)
    assert ask(database.source(), "alice") == Answer("alice", {"password": "x"}, verified=False)
