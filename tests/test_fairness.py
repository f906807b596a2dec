"""Work that one user causes for disk and threads is limited, and delays no other user."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpsd.protocol.paths import MAX_DEPTH
from ftpsd.storage.local import tree
from ftpsd.storage.local.part_files import part_name
from ftpsd.storage.local.tree import STEP, Below, delete, directories, remove
from ftpsd.system.file_systems import may_have_short_names
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon, merge
from tests.disks import FaultyDisk
from tests.ftpclient import FtpClient
from tests.hostile import plain_login, reset, wait_until, withstands
from tests.test_quota import counted, on_disk
from tests.test_remembered import processor_seconds

MakeDaemon = Callable[..., Daemon]

#: Seconds within which the neighbour's commands end, on a machine that does much else: alone they take milliseconds.
SOON = 2.0


def crowd(directory: Path, count: int, name: Callable[[str], str] = str) -> None:
    """Make a directory with `count` entries, all links to one file, which is fast; `name` makes their names."""
    directory.mkdir(parents=True)
    first = directory / name("first")
    first.touch()
    for number in range(count - 1):
        os.link(first, directory / name(f"name-{number}"))


def slowest(daemon: Daemon, client: FtpClient) -> float:
    """Return the longest duration of many SIZE commands or a login, in seconds."""
    longest = 0.0
    for number in range(30):
        start = time.monotonic()
        client.expect(213, "SIZE f")
        if number % 10 == 0:
            plain_login(daemon, "bob").socket.close()
        longest = max(longest, time.monotonic() - start)
    return longest


@pytest.mark.parametrize("quota", [{}, {"quota": {"files": 1_000_000}}], ids=["", "quota"])
@pytest.mark.parametrize("line", ["STAT /big/zz*", "STAT -R /", "LIST /big/zz*", "RMDA /tree{}", "RMD /big"])
def test_walks_delay_no_other_user(make_daemon: MakeDaemon, line: str, quota: dict[str, Any]) -> None:
    """While 50 sessions of one user walk through directories, SIZE and login of another user are fast.

    The log does not blame the disk. When the sessions end, their walks end.
    """
    daemon = make_daemon(merge(PLAIN, {"timeouts": {"stalled": 5}}), {"alice": quota, "bob": {}}, start=False)
    crowd(daemon.home() / "big", 20_000)
    for number in range(50 if "RMDA" in line else 0):
        crowd(daemon.home() / f"tree{number}", 400)
    (daemon.home("bob") / "f").touch()
    daemon.start()
    with withstands(daemon), plain_login(daemon, "bob") as bob:
        sessions = [plain_login(daemon) for _ in range(20 if "LIST" in line else 50)]
        connections = [each.connect_data() for each in sessions if "LIST" in line]
        for number, each in enumerate(sessions):
            each.send(*[line.format(number)] * (100 if "RMD /" in line else 1))
        assert slowest(daemon, bob) < SOON
        for each in (*sessions, *(each for each in connections)):
            reset(each.socket if isinstance(each, FtpClient) else each)
        assert slowest(daemon, bob) < SOON
    assert "disk" not in daemon.log
    assert "Traceback" not in daemon.log


def test_a_name_like_a_short_one(make_daemon: MakeDaemon) -> None:
    """A name of the form of FAT's short names (`A~1`) costs no walk through its directory on a disk without these.

    So sessions of one user that ask for it delay nobody.
    """
    daemon = make_daemon(PLAIN, start=False)
    home = os.open(daemon.home(), os.O_RDONLY)
    has_short_names = may_have_short_names(home)
    os.close(home)
    if has_short_names:
        pytest.skip("the tests run on a disk that may have short names, such as that of a container")
    crowd(daemon.home() / "big", 60_000, lambda name: "a~1" if name == "first" else name)
    with withstands(daemon.start()), plain_login(daemon) as client:
        before = processor_seconds(daemon)
        client.send(*["SIZE big/a~1"] * 100)
        for _ in range(100):
            assert client.reply() == "213 0"
        assert processor_seconds(daemon) - before < 1.0


def test_a_directory_of_many_directories(make_daemon: MakeDaemon) -> None:
    """LIST -R lists more directories than are kept in memory, each once.

    A quota counts them all, and RMDA removes them all.
    """
    daemon = make_daemon(PLAIN, {"alice": {"quota": {"files": 1_000_000}}}, start=False)
    for number in range(9_000):
        (daemon.home() / "top" / f"d{number}").mkdir(parents=True)
    for number in (0, 4_000, 8_999):
        (daemon.home() / "top" / f"d{number}" / "below" / "deep").mkdir(parents=True)
    with withstands(daemon.start()), plain_login(daemon) as client:
        client.socket.settimeout(3 * PATIENCE)
        assert counted(client) == (0, 9_007)
        headings = [line for line in client.download("LIST -R top").split(b"\r\n") if line.endswith(b":")]
        assert len(headings) == len(set(headings)) == 9_006
        assert b"/top/d8999/below/deep:" in headings
        client.expect(250, "RMDA top")
        assert counted(client) == (0, 0) == on_disk(daemon.home())


def test_a_large_directory_far_below(tmp_path: Path) -> None:
    """A walk scans a directory of many directories a few times only, however deep it is, and visits each of them once."""
    top, count = tmp_path / "top", 6_000
    large = top.joinpath(*"abcdefgh")
    large.mkdir(parents=True)
    for number in range(count):
        (large / f"{number}").mkdir()
    pieces = list(directories(str(top)))
    visited = [piece.parts for piece in pieces if piece.descriptor >= 0]
    assert len(visited) == len(set(visited)) + count // STEP - 1
    steps_of_scans = sum(piece.descriptor < 0 for piece in pieces)
    assert steps_of_scans <= 27 * (count // STEP)


@pytest.mark.quick
@pytest.mark.parametrize("total", [5, 99, 100, 124, 1_624, 6_024])
def test_how_often_a_directory_is_scanned(total: int) -> None:
    """A directory of which a walk holds few names is scanned 27 times at most, and each name is found once."""
    names, scans = [f"{number}" for number in range(total)], list[None]()

    def scan() -> list[list[str]]:
        scans.append(None)
        return [names]

    below = Below(MAX_DEPTH)
    below.add(names[:5])
    below.add(names[5:])
    assert sorted(filter(None, below.names(scan))) == sorted(names)
    assert len(scans) <= 27


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_deep_tree_is_walked_level_by_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A walk leaves a directory by its parent: the way from the top would take as long as the tree is deep, each time."""
    levels, others = 300, {"a", "b", "c"} - {name}
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(levels):
        for each in (name, *others):
            os.mkdir(each, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    from_the_top = list[list[str]]()
    descend = tree._descend
    monkeypatch.setattr(tree, "_descend", lambda root, path: from_the_top.append(path) or descend(root, path))
    pieces = [piece for piece in directories(str(tmp_path)) if piece.descriptor >= 0]
    assert sum(len(piece.directories) for piece in pieces) == 3 * levels
    assert len(from_the_top) <= 1


def test_parts_in_a_directory_that_is_removed(make_daemon: MakeDaemon) -> None:
    """RMD of a directory with nothing but part files removes them and their count; with another file they stay."""
    daemon = make_daemon(PLAIN, {"alice": {"quota": {"files": 1000}}}, start=False)
    directory = daemon.home() / "d"
    directory.mkdir()
    for number in range(300):
        (directory / part_name(f"{number}")).write_bytes(b"cut")
    (directory / "file").touch()
    with withstands(daemon.start()), plain_login(daemon) as client:
        assert counted(client) == (900, 302)
        client.expect(550, "RMD d")
        assert counted(client) == (900, 302)
        client.expect(250, "DELE d/file")
        client.expect(250, "RMD d")
        assert counted(client) == (0, 0) == on_disk(daemon.home())


def test_a_walk_ends_with_its_session(make_daemon: MakeDaemon) -> None:
    """RMDA stops when its client is disconnected: what is left is visible, and the log says why."""
    daemon = make_daemon(PLAIN, start=False)
    crowd(daemon.home() / "big", 30_000)
    daemon.start()
    client = plain_login(daemon)
    client.send("RMDA big")
    wait_until(
        lambda: not (daemon.home() / "big" / "first").exists() or len(os.listdir(daemon.home() / "big")) < 30_000,
        "it goes",
    )
    reset(client.socket)
    daemon.wait_for_log("disconnected")

    def is_over() -> bool:
        left = len(os.listdir(daemon.home() / "big"))
        time.sleep(0.2)
        return len(os.listdir(daemon.home() / "big")) == left

    wait_until(is_over, "the step that a thread takes ends, and no other one follows")
    assert os.listdir(daemon.home() / "big")


@pytest.mark.parametrize("line", ["RMD big", "RMDA big", "STAT big/zz*", "LIST big/zz*"])
def test_abor_ends_a_walk(make_daemon: MakeDaemon, line: str) -> None:
    """ABOR ends a command that reads a large directory: 426 for the command, 226 for ABOR, and the session continues."""
    daemon = make_daemon(PLAIN, start=False)
    # RMD reads a directory to the end only if it finds nothing but part files.
    crowd(daemon.home() / "big", 60_000, part_name if line.startswith("RMD ") else str)
    daemon.start()
    with plain_login(daemon) as client:
        data = client.connect_data() if line.startswith("LIST") else None
        client.send(line, "ABOR")
        first = client.reply()[:3]
        if data is not None and first == "150":  # unless ABOR came before the directory was open
            first = client.reply()[:3]
        assert [first, client.reply()[:3]] == ["426", "226"]
        if data is not None:
            data.close()
        assert os.listdir(daemon.home() / "big")
        client.expect(200, "NOOP")


def test_removal_ends_while_names_are_added(tmp_path: Path) -> None:
    """RMDA of a directory to which another program adds names all the time ends, and is refused."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0").touch()
    numbers = iter(range(1, 1_000_000))

    def refill(directory: int, name: str, is_directory: bool) -> None:
        delete(directory, name, is_directory)
        if not is_directory:
            (tmp_path / "full" / str(next(numbers))).touch()

    top = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="not empty"):
            for _ in remove(top, "full", refill):
                pass
    finally:
        os.close(top)
    assert next(numbers) < 100_000


@pytest.mark.parametrize(
    ("line", "code"),
    [("MKD d{}/new", "257"), ("RMD d{}/empty", "250"), ("RMDA d{}/tree", "250"), ("STOR d{}/new", "150")],
)
def test_changes_that_wait_occupy_no_threads(make_daemon: MakeDaemon, line: str, code: str) -> None:
    """While the disk takes long for a change in a home with a quota, 60 sessions wait to change other names in it.

    SIZE and login of a user with another home are fast meanwhile. In the end all changes are made, and counted.
    """
    shared = {"home": "homes/shared", "quota": {"files": 1_000_000}}
    many = 25 if "STOR" in line else 60  # each needs a passive port
    users = {"alice": {}, "bob": {}, **{f"user{number}": shared for number in range(many)}}
    daemon = make_daemon(PLAIN, users, start=False)
    disk = FaultyDisk(daemon.home("shared"))
    for number in range(many):
        for name in ("tree/below", "empty"):
            (disk.backing / f"d{number}" / name).mkdir(parents=True)
        (disk.backing / f"d{number}" / "old").touch()
    (daemon.home("bob") / "f").touch()
    daemon.start(disk.prefix)
    with withstands(daemon), plain_login(daemon, "bob") as bob:
        sessions = [plain_login(daemon, f"user{number}") for number in range(many)]
        disk.fail(UNLINK="STALL")
        try:
            sessions[0].send("DELE d0/old")
            time.sleep(0.2)
            connections = [each.connect_data() for each in sessions[1:] if "STOR" in line]
            for number, each in enumerate(sessions[1:], start=1):
                each.send(line.format(number))
            assert slowest(daemon, bob) < SOON
        finally:
            disk.work()
        for each in connections:
            each.close()
        assert [each.reply()[:3] for each in sessions] == ["250", *[code] * (many - 1)]
        assert [each.reply()[:3] for each in sessions[1:] if connections] == ["226"] * len(connections)
        assert counted(sessions[0]) == on_disk(disk.backing)
        for each in sessions:
            each.socket.close()
    assert "disk" not in daemon.log
    assert "Traceback" not in daemon.log
