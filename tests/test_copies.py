"""The cost of continuing a large file: no unnecessary copies, and within the limits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpsd.storage.local.pinned import Pinned
from tests.daemon import Daemon
from tests.disks import with_mount
from tests.ftpclient import secured
from tests.hostile import MIB, open_transfer, withstands
from tests.test_publishing import store
from tests.test_resuming import begin_and_cut

Make = Callable[..., Daemon]

GIB = 1024 * MIB


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """The user slow may upload one MiB per second."""
    users = {"alice": {}, "slow": {"limits": {"upload_rate": "1M"}}}
    daemon = Daemon(tmp_path_factory.mktemp("copies"), certificate, users=users)
    daemon.start()
    yield daemon
    daemon.stop()


def sparse(path: Path, size: int, islands: tuple[int, ...]) -> None:
    """Make a sparse file with a few bytes of data."""
    with path.open("wb") as file:
        for offset in islands:
            file.seek(offset)
            file.write(b"island")
        file.truncate(size)


@pytest.mark.parametrize("tail", [b"0123456789", b"x" * 10_000], ids=["short", "long"])
@pytest.mark.parametrize("islands", [(), (0, GIB, 4 * GIB - 6), (4 * GIB - 5000,)], ids=["holes", "islands", "end"])
def test_holes_stay_holes(daemon: Daemon, tail: bytes, islands: tuple[int, ...]) -> None:
    """APPE to a sparse file of 4 GiB, and REST within it, need neither minutes nor 4 GiB of the disk."""
    path = daemon.home() / "sparse"
    sparse(path, 4 * GIB, islands)
    before = time.monotonic()
    with withstands(daemon), secured(daemon) as client:
        assert store(client, "APPE sparse", tail).startswith("226 ")
        assert path.stat().st_size == 4 * GIB + len(tail)
        client.expect(350, f"REST {2 * GIB}")
        assert store(client, "STOR sparse", tail).startswith("226 ")
    assert time.monotonic() - before < 10
    assert path.stat().st_size == 2 * GIB + len(tail)
    assert path.stat().st_blocks * 512 < MIB
    with path.open("rb") as file:
        for offset in islands:
            if offset < 2 * GIB:
                file.seek(offset)
                assert file.read(6) == b"island"
        file.seek(2 * GIB)
        assert file.read() == tail


@pytest.mark.parametrize(
    ("size", "tail", "copied"),
    [(5000, 1, False), (4096, 4096, False), (4095, 1, False), (4095, 2, True), (5000, 10_000, True), (5000, 0, False)],
)
def test_a_few_bytes_are_appended_in_place(daemon: Daemon, size: int, tail: int, copied: bool) -> None:
    """A few bytes are appended in place: the file keeps its inode, owner and attributes."""
    path = daemon.home() / "log"
    path.write_bytes(b"o" * size)
    number = path.stat().st_ino
    with secured(daemon) as client:
        assert store(client, "APPE log", b"t" * tail).startswith("226 ")
    assert path.read_bytes() == b"o" * size + b"t" * tail
    assert (path.stat().st_ino != number) == copied
    assert not [each for each in os.listdir(daemon.home()) if each.startswith(".")]


def test_other_names_of_the_file_keep_the_old_content(daemon: Daemon) -> None:
    """APPE does not change other hard links of the file, which may be snapshots."""
    path = daemon.home() / "current"
    path.write_bytes(b"old,")
    os.link(path, daemon.home() / "snapshot")
    with secured(daemon) as client:
        assert store(client, "APPE current", b"new").startswith("226 ")
        assert client.download("RETR snapshot") == b"old,"
        assert client.download("RETR current") == b"old,new"


def test_append_drops_set_user_id(daemon: Daemon) -> None:
    """APPE to a file with set-user-ID makes a new file without it."""
    path = daemon.home() / "program"
    path.write_bytes(b"old,")
    path.chmod(0o6755)
    with secured(daemon) as client:
        assert store(client, "APPE program", b"new").startswith("226 ")
    assert path.stat().st_mode & 0o7777 == 0o755


def test_the_copy_keeps_to_the_rate(daemon: Daemon) -> None:
    """Bytes that APPE copies are charged to the upload's rate limit."""
    path = daemon.home("slow") / "f"
    path.write_bytes(os.urandom(2 * MIB))
    with withstands(daemon), secured(daemon, "slow") as client:
        before = time.monotonic()
        assert store(client, "APPE f", b"t" * 5000).startswith("226 ")
        assert time.monotonic() - before > 1.5
        # A transfer that copies can be aborted like any other.
        path.write_bytes(os.urandom(50 * MIB))
        client.expect(350, f"REST {50 * MIB - 1}")
        data = open_transfer(client, "STOR f")
        client.expect(426, "ABOR")
        assert client.reply().startswith("226 ")
        data.close()
    assert os.listdir(path.parent) == ["f"]
    assert path.stat().st_size == 50 * MIB


def test_a_copy_that_does_not_fit(make_daemon: Make) -> None:
    """APPE to a file larger than the free space of the disk is refused, and leaves nothing."""
    daemon = make_daemon(start=False)
    daemon.start(with_mount(f"mount -t tmpfs -o size=8M none {daemon.home()}"))
    with withstands(daemon), secured(daemon) as client:
        assert store(client, "STOR f", b"o" * 5 * MIB).startswith("226 ")
        assert store(client, "APPE f", b"t" * 10_000).startswith("452 ")
        assert store(client, "APPE f", b"t" * 10).startswith("226 ")  # in place
        client.expect(213, "SIZE f")
        assert client.download("NLST").split() == [b"f"]
        begin_and_cut(client, "STOR g", b"x")


def test_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system with reflinks, nothing is copied."""
    (tmp_path / "f").write_bytes(b"o" * 9000)
    directory = os.open(tmp_path, os.O_RDONLY)
    pinned = Pinned(directory, "f")
    pinned.open()
    with (tmp_path / "part").open("w+b") as part:

        def ioctl(target: int, request: int, source: int) -> None:
            assert (target, request) == (part.fileno(), 0x40049409)
            os.copy_file_range(source, target, 9000)

        monkeypatch.setattr("fcntl.ioctl", ioctl)
        assert pinned.clone(part.fileno(), 100)
        part.seek(0)
        assert part.read() == b"o" * 100
    pinned.close()
    os.close(directory)
