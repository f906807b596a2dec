"""Old part files are removed, but never those of running uploads; `fsync` writes everything to the disk before 226."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from ftpsd.data.endpoints import Pause
from ftpsd.protocol.paths import outermost
from ftpsd.storage.local.part_files import PRIVATE, part_name
from ftpsd.storage.local.sweeper import pause, sweep
from ftpsd.storage.local.tree import directories
from tests.daemon import Daemon
from tests.disks import deep_tree
from tests.ftpclient import secured
from tests.hostile import cut, open_transfer, wait_until, withstands
from tests.test_publishing import finish, names, store, tampered

Make = Callable[..., Daemon]

DAY = 86_400


def leave(path: Path, age: float, content: bytes = b"part") -> Path:
    """Make a file that was last written to this many seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file in another process, as a daemon that stops gracefully would."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_part_files_at_the_start(make_daemon: Make, tmp_path: Path) -> None:
    """At the start, part files that are old or cannot be resumed are removed.

    Younger ones, locked ones, other files and the targets of links stay.
    """
    daemon = make_daemon(start=False)
    home, outside = daemon.home(), tmp_path / "outside"
    gone = [
        leave(home / part_name("old"), 8 * DAY),
        leave(home / "deep" / "er" / part_name("old"), 8 * DAY),
        leave(daemon.home("bob") / part_name("old"), 8 * DAY),
        leave(home / (part_name("killed") + "-0123456789abcdef"), 1),
        leave(home / (part_name("empty")), 1, b""),
        leave(home / ".ftpsd-part-of-another-release", 8 * DAY),
    ]
    kept = [
        leave(home / part_name("young"), 6 * DAY),
        leave(home / "file", 8 * DAY),
        leave(home / ".ftpsd", 8 * DAY),
        leave(outside / part_name("outside"), 8 * DAY),
        busy := leave(home / part_name("busy"), 8 * DAY),
        copy := leave(home / (part_name("busy") + "-0123456789abcdef"), 8 * DAY),
    ]
    (home / "way").symlink_to(outside)
    (home / part_name("link")).symlink_to(outside / part_name("outside"))
    os.mkfifo(home / part_name("fifo"))
    (home / part_name("folder")).mkdir()
    published = leave(home / "published", 1)
    os.link(published, home / part_name("published"))
    with locked(busy), locked(copy):
        daemon.start()
        daemon.wait_for_log("removed old part files: ")
        with withstands(daemon):
            wait_until(lambda: not any(path.exists() for path in gone), "the parts are gone")
            wait_until(lambda: published.stat().st_nlink == 1, "the second name is gone")
        assert all(path.exists() for path in kept)
    assert "Traceback" not in daemon.log


def test_a_home_whose_names_are_locked(tmp_path: Path) -> None:
    """A sweep waits once for a home whose names are locked, not for each part file there, and waiting is no progress."""
    parts = [leave(tmp_path / part_name(f"file {number}"), 8 * DAY) for number in range(3)]

    def changing(*_: object) -> AbstractContextManager[None]:
        raise BlockingIOError(errno.EAGAIN, "names are being changed")

    steps = list(sweep(str(tmp_path), time.time(), time.time(), [], changing))
    assert 0 < sum(step.seconds for step in steps if isinstance(step, Pause)) < 70
    assert all(isinstance(step, Pause) for step in steps)
    assert all(path.exists() for path in parts)


def test_part_files_expire(make_daemon: Make) -> None:
    """The part file of a cut upload can be resumed until `keep_parts` seconds have passed, and is removed then."""
    daemon = make_daemon({"uploads": {"keep_parts": 2}})
    part = daemon.home() / part_name("file")
    with withstands(daemon), secured(daemon) as client:
        data = open_transfer(client, "STOR file")
        data.sendall(b"some of it")
        cut(data)
        assert client.reply().startswith("426 ")
        assert part.read_bytes() == b"some of it"
        wait_until(lambda: not part.exists(), "it is gone")
        client.expect(550, "SIZE file")


def test_null_keeps_part_files(make_daemon: Make) -> None:
    """With `keep_parts: null` part files stay forever, except those that cannot be resumed."""
    daemon = make_daemon({"uploads": {"keep_parts": None}}, start=False)
    kept = leave(daemon.home() / part_name("kept"), 4000 * DAY)
    leave(daemon.home() / (part_name("killed") + "-0123456789abcdef"), 1)
    daemon.start()
    daemon.wait_for_log("removed old part files: 1, 4 bytes")
    assert kept.exists()


def test_running_uploads_are_left_alone(make_daemon: Make) -> None:
    """A sweep never removes the part file of a running upload, however old it looks.

    Tried with a new file, a second upload to the same name, and a copy of an old file.
    """
    daemon = make_daemon({"uploads": {"keep_parts": 1}})
    home = daemon.home()
    (home / "log").write_bytes(b"old, ")
    with withstands(daemon), secured(daemon) as one, secured(daemon) as two, secured(daemon) as three:
        running = [(one, "STOR file"), (two, "STOR file"), (three, "APPE log")]
        transfers = [(client, open_transfer(client, line)) for client, line in running]
        for _, data in transfers:
            data.sendall(b"first, ")
        parts = {name for name in names(daemon) if name.startswith(PRIVATE)}
        wait_until(lambda: sum((home / name).stat().st_size for name in parts) == 5 + 3 * 7, "it has arrived")
        assert len(parts) == 4
        for round in range(2):
            leave(home / (part_name("canary") + "-a"), 9 * DAY)
            for name in parts:
                os.utime(home / name, (0, 0))
            wait_until(lambda: not (home / (part_name("canary") + "-a")).exists(), f"sweep {round} is over")
        assert parts <= names(daemon)
        for client, data in transfers:
            assert isinstance(data, ssl.SSLSocket)
            data.sendall(b"second")
            finish(data)
            assert client.reply().startswith("226 ")
    assert names(daemon) == {"file", "log"}
    assert (home / "file").read_bytes() == b"first, second"
    assert (home / "log").read_bytes() == b"old, first, second"


def test_a_sweep_of_many_directories(make_daemon: Make) -> None:
    """A sweep of a large tree is completed while clients are served."""
    daemon = make_daemon(start=False)
    for number in range(60):
        for folder in range(50):
            (daemon.home() / f"{number}" / f"{folder}").mkdir(parents=True)
        leave(daemon.home() / f"{number}" / "0" / part_name("old"), 8 * DAY)
    daemon.start()
    with withstands(daemon), secured(daemon) as client:
        for number in range(20):
            assert client.upload(f"STOR {number}/new", b"new").startswith("226 ")
        daemon.wait_for_log("removed old part files: 60, 240 bytes")


def test_a_deep_tree_without_part_files(tmp_path: Path) -> None:
    """A sweep of a deep tree takes about as long as a walk: no path is made of all names on the way to a directory."""

    def seconds(steps: Iterable[object]) -> float:
        start = time.thread_time()
        for _ in steps:
            pass
        return time.thread_time() - start

    with deep_tree(tmp_path, 2500):
        walked = min(seconds(directories(str(tmp_path))) for _ in range(3))
        swept = min(seconds(sweep(str(tmp_path), 0.0, 0.0, [], lambda path, measure: nullcontext())) for _ in range(3))
    assert swept < 5 * walked


@pytest.mark.parametrize(("took", "seconds"), [(0.0, 0.0), (0.1, 5.0), (2.0, 100.0), (300.0, 3600)])
def test_the_pause_between_sweeps(took: float, seconds: float) -> None:
    """The pause after a sweep is fifty times its duration, but an hour at most."""
    assert pause(took) == seconds


def test_homes_are_not_walked_all_the_time(make_daemon: Make) -> None:
    """With `keep_parts: 0` a home is not walked every second."""
    daemon = make_daemon({"uploads": {"keep_parts": 0}}, start=False)
    home = daemon.home()
    gone = leave(home / part_name("old"), DAY)
    daemon.start()
    wait_until(lambda: not gone.exists(), "the first sweep is over")
    part = leave(home / part_name("new"), DAY)
    time.sleep(2.5)
    assert part.exists()


def test_homes_within_homes() -> None:
    """A home within another home is walked once, as its own."""
    homes = ["/srv/b", "/srv/a/c", "/srv/a", "/srv/a b", "/srv/a/c/d", "/srv/b", "/srv/bc/x/y"]
    assert outermost(homes) == ["/srv/b", "/srv/a", "/srv/a b", "/srv/bc/x/y"]
    assert outermost(["/srv", "/", "/srv/a"]) == ["/"]


# --- on the disk ---------------------------------------------------------------------------------------

SYNCED = r"fsync\(.*{part}.*\n(.*\n)*?.*renameat.*{part}.*\n(.*\n)*?.*fsync\(\d+<{home}>\)"


def test_fsync(make_daemon: Make) -> None:
    """With `fsync: true` the file is synced before it gets its name, and its directory before 226."""
    daemon = tampered(
        make_daemon, "fsync:delay_enter=1", "renameat:delay_enter=1", "renameat2:delay_enter=1", fsync=True
    )
    with secured(daemon) as client:
        assert client.upload("STOR file", b"new").startswith("226 ")
    calls = (daemon.directory / "strace").read_text()
    assert re.search(SYNCED.format(part=part_name("file"), home=daemon.home()), calls), calls


@pytest.mark.parametrize(("error", "code"), [("ENOSPC", 452), ("EIO", 451)])
def test_an_error_of_fsync(make_daemon: Make, error: str, code: int) -> None:
    """An upload that cannot be synced is refused. The old file stays, and nothing of the new one is kept."""
    daemon = tampered(make_daemon, f"fsync:error={error}", fsync=True)
    (daemon.home() / "file").write_bytes(b"old")
    with withstands(daemon), secured(daemon) as client:
        assert store(client, "STOR file", b"new").startswith(str(code))
    assert (daemon.home() / "file").read_bytes() == b"old"
    assert names(daemon) == {"file"}
