"""The state file: its content survives, and no damage prevents the daemon from serving."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpsd.config.settings import StateSettings
from ftpsd.system.state import FILE, State, directory, open_state
from tests.daemon import Daemon
from tests.ftpclient import secured

TABLE = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY)"


def filled(place: Path, *names: str) -> State:
    """Return a state with a table."""
    state = open_state(place)
    state.define(TABLE)
    for name in names:
        state.execute("INSERT INTO things VALUES (?)", name)
    return state


def things(state: State) -> list[str]:
    """Return the rows of that table."""
    state.define(TABLE)
    return [name for (name,) in state.execute("SELECT name FROM things ORDER BY name")]


def test_rows_survive_a_restart(tmp_path: Path) -> None:
    """What was written is there after a restart, in a file that only the owner can read."""
    filled(tmp_path, "a", "b").close()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert things(open_state(tmp_path)) == ["a", "b"]


def test_a_killed_process_leaves_what_it_committed(tmp_path: Path) -> None:
    """After SIGKILL during a transaction, the committed rows are there, and none of the others."""
    script = f"""
import os, pathlib, signal
from ftpsd.system.state import State
state = State(pathlib.Path({str(tmp_path / FILE)!r}))
state.define({TABLE!r})
state.execute("INSERT INTO things VALUES ('kept')")
with state.transaction() as execute:
    execute("INSERT INTO things VALUES ('half')")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert things(open_state(tmp_path)) == ["kept"]


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    """A failure within a transaction undoes all of it, and the next transaction works."""
    state = filled(tmp_path, "a")
    with pytest.raises(sqlite3.IntegrityError):
        with state.transaction() as execute:
            execute("INSERT INTO things VALUES ('b')")
            execute("INSERT INTO things VALUES ('a')")
    with state.transaction() as execute:
        execute("INSERT INTO things VALUES ('c')")
    assert things(state) == ["a", "c"]


def test_changes_of_others_are_seen(tmp_path: Path) -> None:
    """`version` changes when another process has written, and not when this one has."""
    mine, theirs = filled(tmp_path), open_state(tmp_path)
    before = mine.version()
    mine.execute("INSERT INTO things VALUES ('mine')")
    assert mine.version() == before
    theirs.execute("INSERT INTO things VALUES ('theirs')")
    assert mine.version() != before
    assert things(mine) == ["mine", "theirs"]


def garbage(path: Path) -> None:
    """Write something that is no SQLite file."""
    path.write_bytes(b"This is no database." * 1000)


def torn(path: Path) -> None:
    """Overwrite the second half of the file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))


@pytest.mark.parametrize("damage", [garbage, torn])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A damaged file is renamed with all files beside it, and a new one is made."""
    filled(tmp_path, *(f"{n:050}" for n in range(500))).close()
    damage(tmp_path / FILE)
    damaged = (tmp_path / FILE).read_bytes()
    (tmp_path / f"{FILE}-wal").write_bytes(b"what belongs to the damaged one")
    state = filled(tmp_path, "new")
    assert things(state) == ["new"]
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == damaged


def test_a_file_of_a_later_release_is_not_touched(tmp_path: Path) -> None:
    """After a downgrade the state is in memory, and the file is not changed."""
    state = filled(tmp_path, "later")
    state.execute("PRAGMA user_version = 99")
    state.close()
    assert things(filled(tmp_path, "now")) == ["now"]
    (found,) = sqlite3.connect(tmp_path / FILE).execute("SELECT name FROM things").fetchall()
    assert found == ("later",)


def test_no_directory(tmp_path: Path) -> None:
    """If there is no directory for the file, the state is in memory."""
    assert things(filled(tmp_path / "nowhere", "a")) == ["a"]
    (tmp_path / FILE).mkdir()
    assert things(filled(tmp_path, "a")) == ["a"]


def test_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is that of the setting, else the first one of systemd, else there is none."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert directory(StateSettings()) is None
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert directory(StateSettings()) == Path("/var/lib/one")
    assert directory(StateSettings(Path("/srv/state"))) == Path("/srv/state")


@pytest.mark.parametrize("trouble", ["garbage", "a directory", "not writable"])
def test_the_daemon_starts_all_the_same(make_daemon: Callable[..., Daemon], tmp_path: Path, trouble: str) -> None:
    """Whatever has the name of the state file, the daemon serves and says what is wrong."""
    place = tmp_path / "state"
    place.mkdir()
    if trouble == "garbage":
        garbage(place / FILE)
    elif trouble == "a directory":
        (place / FILE).mkdir()
    else:
        (place / FILE).symlink_to("/proc/version")
    daemon = make_daemon({"state": {"directory": str(place)}})
    with secured(daemon) as client:
        client.expect(200, "NOOP")
    daemon.wait_for_log("is damaged .*: renamed to" if trouble == "garbage" else "will not survive a restart")
    assert "Traceback" not in daemon.log


def test_damage_while_it_runs(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """When the file is overwritten while the daemon runs, it is logged, and logins work."""
    daemon = make_daemon({"state": {"directory": str(tmp_path)}})
    with secured(daemon):
        pass
    for name in os.listdir(tmp_path):
        # Not SQLite's shared memory: who truncates what a process has mapped ends it (SIGBUS), whatever it does.
        if name.startswith(FILE) and not name.endswith("-shm"):
            garbage(tmp_path / name)
    with secured(daemon, "bob"):
        pass
    daemon.stop()
    assert "Traceback" not in daemon.log
    daemon.start()
    with secured(daemon, "bob"):
        pass
