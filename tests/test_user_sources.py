"""`ftpsd user` where other sources and programs have users, too: which homes are deleted, and who is changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.sql.tables import Values, open_tables
from tests.daemon import PATIENCE, SECRET, Daemon
from tests.databases import Database, database, postgresql, server, sqlite
from tests.postgresql import PostgresqlServer, requires_postgresql
from tests.test_sql_users import add, configured, log_in, run

__all__ = ["database", "server"]  # fixtures

Make = Callable[..., Daemon]

Capture = pytest.CaptureFixture[str]


def test_a_home_of_users_in_a_database_is_kept(make_daemon: Make, database: Database, capsys: Capture) -> None:
    """`--delete-home` deletes no home or folder of users in a database, and none while the database is not known."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    homes = {name: daemon.home(name) for name in ("shared", "folder", "own")}
    for name, home in homes.items():
        password, add_user = f"password={SECRET}", ("user", "add", f"yaml-{name}", "--home", str(home))
        assert run(daemon, *add_user, "--set", password) == 0
        assert run(daemon, "user", "add", name, "--source", "sql", "--home", str(home), "--set", password) == 0
        (home / "file").write_text("kept")
    (homes["folder"] / "inside").mkdir()
    folders = f"folders={{/f: {{path: {homes['folder'] / 'inside'}}}}}"
    assert run(daemon, "user", "set", "shared", "--set", folders) == 0
    for name in ("folder", "own"):
        assert run(daemon, "user", "remove", name) == 0
    for name in ("yaml-shared", "yaml-folder"):
        assert run(daemon, "user", "remove", name, "--delete-home", "--yes") == 1
        assert "is kept: it contains" in capsys.readouterr().err
    database.execute("INSERT INTO ftpsd_users (name, home) VALUES ('broken', '/elsewhere')")
    assert run(daemon, "user", "remove", "yaml-own", "--delete-home", "--yes") == 1
    assert f"{homes['own']} is kept: sql[0] may have users with it: " in capsys.readouterr().err
    assert all((home / "file").exists() for home in homes.values())
    database.execute("DELETE FROM ftpsd_users WHERE name = 'broken'")
    assert add(daemon, "own") == 0
    assert run(daemon, "user", "remove", "own", "--delete-home", "--yes") == 0
    assert not homes["own"].exists()


@pytest.mark.parametrize(
    ("names", "reason"),
    [(None, "the source cannot list"), ("SELECT 'b'", "it lists b, but"), ("SELECT a FROM nothing", "nothing")],
)
def test_a_home_is_kept_if_a_source_does_not_tell_its_users(
    make_daemon: Make, tmp_path: Path, capsys: Capture, names: str | None, reason: str
) -> None:
    """The answer of `--delete-home` names the source, which cannot list, lists more than it finds, or fails."""
    statements = {"find": "SELECT 'a' AS name WHERE 'a' = %(name)s"} | ({"names": names} if names else {})
    daemon = configured(make_daemon, sqlite(tmp_path / "users.sqlite"), start=False, **statements)
    home = daemon.home("alice")
    assert run(daemon, "user", "add", "alice", "--home", str(home), "--set", f"password={SECRET}") == 0
    assert run(daemon, "user", "remove", "alice", "--delete-home", "--yes") == 1
    error = capsys.readouterr().err
    assert f"{home} is kept: sql[0] may have users with it: " in error and reason in error
    assert home.is_dir()


def ordered(make_daemon: Make, tmp_path: Path, **first: str) -> tuple[Daemon, Database]:
    """Return a daemon whose logins ask a database before the YAML files; both have a user alice."""
    database = sqlite(tmp_path / "users.sqlite")
    database.migrate()
    daemon = configured(make_daemon, database, start=False, **first)
    daemon.settings["users"]["sources"].append({"type": "yaml"})
    daemon.write()
    (daemon.directory / "users.d").mkdir(mode=0o750)
    file = daemon.directory / "users.d" / "alice.yaml"
    file.write_text(yaml.safe_dump({"password": SECRET, "home": str(daemon.home("alice"))}))
    file.chmod(0o640)
    daemon.home().mkdir(parents=True, exist_ok=True)
    database.execute(f"INSERT INTO ftpsd_users (name, password, home) VALUES ('alice', '{SECRET}', '{daemon.home()}')")
    return daemon, database


def test_the_user_who_logs_in_is_changed(make_daemon: Make, tmp_path: Path) -> None:
    """With `type: yaml` behind a database, a change is of the user in the database; of the one in the file after it."""
    daemon, _ = ordered(make_daemon, tmp_path)
    file = daemon.directory / "users.d" / "alice.yaml"
    before = file.read_bytes()
    daemon.start()
    for action, code in (("disable", "530"), ("enable", "230")):
        assert run(daemon, "user", action, "alice") == 0
        assert log_in(daemon) == code
    assert run(daemon, "user", "passwd", "alice", "--generate") == 0
    assert log_in(daemon) == "530" and file.read_bytes() == before
    assert run(daemon, "user", "remove", "alice") == 0
    assert log_in(daemon) == "230" and file.read_bytes() == before
    assert run(daemon, "user", "disable", "alice") == 0
    assert b"enabled: false" in file.read_bytes()
    assert run(daemon, "user", "disable", "nobody") == 1


def test_users_of_a_source_that_is_asked_first(make_daemon: Make, tmp_path: Path, capsys: Capture) -> None:
    """A user whom a source without tables of ftpsd knows first is not changed elsewhere; if it fails, that is said."""
    find = "SELECT name FROM ftpsd_users WHERE name = %(name)s"
    daemon, database = ordered(make_daemon, tmp_path, find=find)
    file = daemon.directory / "users.d" / "alice.yaml"
    before = file.read_bytes()
    for action in (["disable"], ["passwd", "--generate"], ["set", "--set", "umask=null"], ["remove"]):
        assert run(daemon, "user", action[0], "alice", *action[1:]) == 1
        assert "alice is a user of sql[0], which a login asks first" in capsys.readouterr().err
    assert file.read_bytes() == before
    database.execute("DELETE FROM ftpsd_users")
    assert run(daemon, "user", "disable", "alice") == 0
    assert "sql[0]" not in capsys.readouterr().out
    database.execute("DROP TABLE ftpsd_users")
    assert run(daemon, "user", "enable", "alice") == 0
    assert capsys.readouterr().out.count("sql[0], which a login asks first, does not tell") == 1


def test_changes_of_other_programs_are_kept(make_daemon: Make, database: Database) -> None:
    """Another program's change waits for that of a command, so neither overwrites the other, nor brings a user back."""
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    (table,) = open_tables(str(daemon.config))

    def change_during(statement: str, name: str, keys: Values) -> None:
        """Start a statement of another program between the moments at which a command reads and writes a user."""
        other = threading.Thread(target=database.execute, args=(statement,))

        def edit(before: Values | None) -> Values:
            other.start()
            other.join(0.5)  # it ends only where nothing keeps it from changing the user
            return {**(before or {}), **keys}

        try:
            table.change(name, edit, lambda: None)
        finally:
            other.join(PATIENCE)

    assert add(daemon, "alice") == 0
    change_during("UPDATE ftpsd_users SET enabled = FALSE WHERE name = 'alice'", "alice", {"umask": "027"})
    found = table.values("alice") or {}
    assert (found["enabled"], found["umask"], found["password"]) == (False, "027", SECRET)
    change_during("DELETE FROM ftpsd_users WHERE name = 'alice'", "alice", {"umask": "022"})
    assert table.values("alice") is None


@requires_postgresql
def test_a_user_whom_another_program_adds_meanwhile(make_daemon: Make, server: PostgresqlServer) -> None:
    """The command does not replace a user who was added since it looked for the name."""
    database = postgresql(server)
    daemon = configured(make_daemon, database, start=False)
    assert run(daemon, "sql", "init") == 0
    (table,) = open_tables(str(daemon.config))

    def edit(before: Values | None) -> Values:
        assert before is None
        database.execute("INSERT INTO ftpsd_users (name, umask) VALUES ('alice', '027')")
        daemon.home().mkdir(parents=True, exist_ok=True)
        return {"password": SECRET, "home": str(daemon.home())}

    with pytest.raises(CommandFailed, match="duplicate key"):
        table.change("alice", edit, lambda: None)
    assert table.values("alice") == {"umask": "027"}
