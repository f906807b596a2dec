"""`ftpsd user` where other sources have users, too: whose home is deleted, and which user is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon import SECRET, Daemon
from tests.databases import Database, database, server, sqlite
from tests.test_sql_users import add, configured, run

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
