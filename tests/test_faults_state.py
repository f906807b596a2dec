"""The state file cannot be written or read, or is wrong: bans hold all the same, and are stored later."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import ftpsd as package
from ftpsd.system.state import FILE
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, ftpsd, merge
from tests.disks import SmallDisk, read_only
from tests.hostile import wait_until
from tests.test_bans import STRICT, command, greeting, guess, logs_in
from tests.test_faults_clock import SETTINGS, Clock

DAY = 86_400


def shown(daemon: Daemon, address: str) -> Callable[[], bool]:
    """Return whether `ftpsd bans` shows an address."""
    return lambda: f" {address} " in command(daemon).stdout


def restarted(daemon: Daemon, prefix: tuple[str, ...] = ()) -> Daemon:
    """Kill the daemon, and start it again."""
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    return daemon.start(prefix)


def entering(daemon: Daemon) -> tuple[str, ...]:
    """Return a command that runs another one where a daemon sees its disk."""
    user = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
    return ("nsenter", f"--target={daemon.pid}", "--mount", *user, f"--wd={os.getcwd()}")


@pytest.fixture
def strict(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that bans loopback addresses, and has banned 127.0.0.2 before it was stopped."""
    daemon = make_daemon(merge(PLAIN, STRICT))
    guess(daemon, "127.0.0.2", 4)
    wait_until(shown(daemon, "127.0.0.2"), "the ban in the file")
    daemon.stop()
    return daemon


@contextmanager
def locked(daemon: Daemon, *before: str) -> Iterator[None]:
    """Let another process hold the file locked."""
    with closing(sqlite3.connect(daemon.directory / FILE, isolation_level=None)) as other:
        for statement in (*before, "BEGIN EXCLUSIVE"):
            other.execute(statement)
        yield


def test_the_state_file_is_locked(strict: Daemon) -> None:
    """A ban that could not be stored is stored when the lock ends.

    It is shown then, survives a restart, and can be lifted.
    """
    strict.start()
    with locked(strict):
        assert guess(strict, "127.0.0.3", 4)[-1] == "530"
        strict.wait_for_log("the state cannot be saved: database is locked")
    strict.wait_for_log("the state is saved again")
    assert shown(strict, "127.0.0.3")()
    restarted(strict)
    assert greeting(strict, "127.0.0.3").startswith("421")
    assert command(strict, "lift", "127.0.0.3").returncode == 0
    wait_until(lambda: greeting(strict, "127.0.0.3").startswith("220"), "the lift")
    assert greeting(strict, "127.0.0.2").startswith("421")


@pytest.mark.parametrize("how", ["for writers", "for readers too"])
def test_the_state_file_is_locked_at_start(strict: Daemon, how: str) -> None:
    """Stored bans hold when the lock ends, at the latest, and new ones are stored then."""
    with locked(strict, *(["PRAGMA locking_mode = EXCLUSIVE"] if how == "for readers too" else [])):
        strict.start()
        assert guess(strict, "127.0.0.3", 4)[-1] == "530"
        assert how == "for readers too" or greeting(strict, "127.0.0.2").startswith("421")
    wait_until(shown(strict, "127.0.0.3"), "the ban in the file")
    assert shown(strict, "127.0.0.2")()
    for _ in range(2):
        assert greeting(strict, "127.0.0.2").startswith("421")
        assert greeting(strict, "127.0.0.3").startswith("421")
        restarted(strict)


def test_the_disk_of_the_state_file_is_full(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A ban for which there was no room is stored when there is room again."""
    disk = SmallDisk(tmp_path / "state", 524288)
    settings = merge(STRICT, {"state": {"directory": str(disk.directory)}})
    daemon = make_daemon(merge(PLAIN, settings), start=False).start(disk.prefix)
    with (disk.inside(daemon.pid) / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError):
        while True:
            ballast.write(bytes(1024))
    for host in range(2, 60):  # what SQLite has room for already is used up
        assert guess(daemon, f"127.0.0.{host}", 4)[-1] == "530"
        if "the state cannot be saved" in daemon.log:
            break
    daemon.wait_for_log("the state cannot be saved: database or disk is full")
    (disk.inside(daemon.pid) / "ballast").unlink()
    daemon.wait_for_log("the state is saved again")
    there = entering(daemon)
    assert f" 127.0.0.{host} " in command(daemon, prefix=there).stdout
    assert command(daemon, "lift", f"127.0.0.{host}", prefix=there).returncode == 0
    wait_until(lambda: greeting(daemon, f"127.0.0.{host}").startswith("220"), "the lift")


def test_the_state_directory_is_read_only(strict: Daemon) -> None:
    """Stored bans hold; new ones are stored when the directory can be written."""
    place = strict.directory / "state"
    place.mkdir()
    (strict.directory / FILE).rename(place / FILE)
    strict.settings["state"] = {"directory": str(place)}
    strict.write()
    strict.start(read_only(place))
    strict.wait_for_log("will not survive a restart until")
    strict.wait_for_log("can be read, but not written")
    assert greeting(strict, "127.0.0.2").startswith("421")
    assert guess(strict, "127.0.0.3", 4)[-1] == "530"
    subprocess.run([*entering(strict), "mount", "-o", "remount,bind,rw", str(place)], check=True)
    strict.wait_for_log("the state is saved again")
    assert shown(strict, "127.0.0.3")()
    restarted(strict)
    assert greeting(strict, "127.0.0.2").startswith("421")
    assert greeting(strict, "127.0.0.3").startswith("421")


class Administered:
    """A daemon with an admin API and two bans in its file; what has kept it from the file ends with `repair`."""

    def __init__(self, daemon: Daemon, socket: Path, fault: str) -> None:
        self.daemon = daemon
        self.fault = fault
        self._exits = ExitStack()
        daemon.settings["admin"] = {"socket": str(socket)}
        place = daemon.directory / "state"
        place.mkdir()
        (daemon.directory / FILE).rename(place / FILE)
        daemon.settings["state"] = {"directory": str(place)}
        daemon.write()
        prefix: tuple[str, ...] = ()
        if fault == "read-only":
            prefix = read_only(place)
        if fault == "locked":
            daemon.start()
        if fault == "missing":
            (place / FILE).rename(place / "kept")
            (place / FILE).mkdir()
        elif fault != "read-only":
            other = self._exits.enter_context(closing(sqlite3.connect(place / FILE, isolation_level=None)))
            if fault == "locked for readers at the start":
                other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
        if fault != "locked":
            daemon.start(prefix)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of an administrator."""
        environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
        line = ftpsd(*arguments, "-c", str(self.daemon.config))
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)

    def repair(self) -> None:
        """Let the file be written again."""
        if self.fault == "read-only":
            place = str(self.daemon.directory / "state")
            subprocess.run([*entering(self.daemon), "mount", "-o", "remount,bind,rw", place], check=True)
        if self.fault == "missing":
            file = self.daemon.directory / "state" / FILE
            file.rmdir()
            file.with_name("kept").rename(file)
        self._exits.close()
        self.daemon.wait_for_log("the state is saved again")


@pytest.mark.parametrize(
    "fault", ["locked", "locked at the start", "locked for readers at the start", "missing", "read-only"]
)
def test_changes_by_an_administrator(strict: Daemon, fault: str) -> None:
    """A ban that an administrator lifts or adds while the file cannot be written or read is so for good.

    The commands say that it is not stored yet.
    """
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short:
        given = Administered(strict, Path(short) / "admin.sock", fault)
        lifted = given.command("unban", "127.0.0.2")
        added = given.command("ban", "127.0.0.3")
        assert lifted.returncode == added.returncode == 0, (lifted, added)
        for each in (lifted, added):
            assert "cannot be read or written now" in each.stderr
        for _ in range(2):
            assert greeting(strict, "127.0.0.2").startswith("220")
            assert greeting(strict, "127.0.0.3").startswith("421")
            if fault:
                given.repair()
                fault = ""
        restarted(strict)
        assert greeting(strict, "127.0.0.2").startswith("220")
        assert greeting(strict, "127.0.0.3").startswith("421")
        assert given.command("unban", "127.0.0.3").stderr == ""
        assert given.command("unban", "127.0.0.3").returncode == 1
        assert "Traceback" not in strict.log


def test_all_bans_of_a_file_that_cannot_be_read(strict: Daemon) -> None:
    """What lifts all bans lifts those of a file that can be read only later, too; their end is an event then."""
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short:
        given = Administered(strict, Path(short) / "admin.sock", "missing")
        assert given.command("unban", "--all").stdout == "0 lifted.\n"
        given.repair()
        strict.wait_for_log("the ban of address 127.0.0.2 was lifted")
        assert greeting(strict, "127.0.0.2").startswith("220")
        assert guess(strict, "127.0.0.2", 4)[-1] == "530"  # a later ban is another one
        assert greeting(strict, "127.0.0.2").startswith("421")


WRONG = """
    INSERT INTO bans VALUES ('address', '127.0.0.3', NULL, 600);
    INSERT INTO bans VALUES ('address', '127.0.0.4', 9e12, NULL);
    INSERT INTO bans VALUES ('address', '127.0.0.5', 'soon', 'long');
    INSERT INTO bans VALUES ('address', '127.0.0.6', 9e999, 9e999);
    INSERT INTO bans VALUES ('address', x'00ff', 9e12, 600);
    INSERT INTO bans VALUES ('planet', 'Earth', 9e12, 600);
    INSERT INTO bans VALUES ('planet', 'Mars', 0, 0);
    INSERT INTO known_addresses VALUES ('alice', '127.0.0.3', 'never');
    INSERT INTO known_addresses VALUES ('alice', '127.0.0.4', NULL);
    INSERT INTO known_addresses VALUES (x'00', '127.0.0.3', 9e999);
"""


def test_the_state_file_has_wrong_values(strict: Daemon) -> None:
    """Rows with impossible values are ignored, and all others hold."""
    with closing(sqlite3.connect(strict.directory / FILE)) as other:
        other.executescript(WRONG)
    assert command(strict).stdout.count("\n") == 1
    strict.start()
    assert greeting(strict, "127.0.0.2").startswith("421")
    for host in range(3, 7):
        assert logs_in(strict, f"127.0.0.{host}").startswith("230")
    assert command(strict, "lift", "--all").stdout == "1 lifted.\n"
    wait_until(lambda: greeting(strict, "127.0.0.2").startswith("220"), "the lift")
    assert "Traceback" not in strict.log and "damaged" not in strict.log


@pytest.mark.parametrize("columns", ["(x)", "(kind, subject, until, length, more NOT NULL)", "(a, b, c, d)"])
def test_the_state_file_has_other_tables(strict: Daemon, columns: str) -> None:
    """An SQLite file with other tables is renamed, and a new one is made, at the first write at the latest."""
    with closing(sqlite3.connect(strict.directory / FILE, isolation_level=None)) as other:
        other.execute("DROP TABLE bans")
        other.execute(f"CREATE TABLE bans {columns}")
    strict.start()
    assert guess(strict, "127.0.0.3", 4)[-1] == "530"
    strict.wait_for_log("is damaged .*: renamed to")
    wait_until(shown(strict, "127.0.0.3"), "the ban in the file")
    restarted(strict)
    assert greeting(strict, "127.0.0.3").startswith("421")
    assert "Traceback" not in strict.log


def test_the_state_file_is_damaged_while_it_is_used(strict: Daemon) -> None:
    """A damaged file is renamed at the next write, and the new one has all bans."""
    strict.start()
    with closing(sqlite3.connect(strict.directory / FILE, isolation_level=None)) as other:
        for statement in ("BEGIN IMMEDIATE", "DROP TABLE bans", "CREATE TABLE bans (x)", "COMMIT"):
            other.execute(statement)
    assert guess(strict, "127.0.0.3", 4)[-1] == "530"
    strict.wait_for_log("is damaged .*: renamed to")
    wait_until(shown(strict, "127.0.0.3"), "the ban in the file")
    assert shown(strict, "127.0.0.2")()
    for host in (4, 5):
        guess(strict, f"127.0.0.{host}", 4)
    wait_until(shown(strict, "127.0.0.5"), "a ban of later")
    restarted(strict)
    for host in range(2, 6):
        assert greeting(strict, f"127.0.0.{host}").startswith("421")


def test_two_daemons_have_one_state_directory(strict: Daemon, make_daemon: Callable[..., Daemon]) -> None:
    """The second daemon reads what the first has stored, writes nothing, and says so.

    When the first has ended, which may take a graceful stop, the second stores its state there.
    """
    strict.start()
    state = {"state": {"directory": str(strict.directory)}}
    second = make_daemon(merge(PLAIN, {**STRICT, **state}))
    second.wait_for_log("will not survive a restart .*: another daemon has its state here")
    assert greeting(second, "127.0.0.2").startswith("421")
    assert guess(second, "127.0.0.4", 4)[-1] == "530"
    assert guess(strict, "127.0.0.3", 4)[-1] == "530"
    wait_until(shown(strict, "127.0.0.3"), "the ban of the first")
    assert not shown(strict, "127.0.0.4")()
    strict.stop()
    second.wait_for_log("the state is saved again")
    restarted(second)
    for host in (2, 3, 4):
        assert greeting(second, f"127.0.0.{host}").startswith("421")
    assert "another daemon" not in second.log


@pytest.mark.parametrize("days", [2, -2], ids=["forth", "back"])
def test_the_time_of_day_is_corrected_while_bans_run(
    make_daemon: Callable[..., Daemon], clock: Clock, days: int
) -> None:
    """When a wrong clock is corrected, the ban is shown with its real end, and survives a restart."""
    clock.jump(-days * DAY)
    daemon = make_daemon(merge(PLAIN, {**STRICT, **SETTINGS}), start=False).start(clock.prefix)
    guess(daemon, "127.0.0.2", 4)
    clock.jump(0)
    wait_until(lambda: "for 9 min" in command(daemon).stdout, "the ban as it runs")
    restarted(daemon, clock.prefix)
    assert greeting(daemon, "127.0.0.2").startswith("421")
    assert command(daemon, "lift", "127.0.0.2").returncode == 0
    wait_until(lambda: greeting(daemon, "127.0.0.2").startswith("220"), "the lift")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that the test can set."""
    return Clock(tmp_path)
