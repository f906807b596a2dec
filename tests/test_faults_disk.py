"""A disk that is full, over its quota or broken: the reply says which, and the old file stays."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.disks import FaultyDisk, SmallDisk
from tests.ftpclient import read_all, secured

OLD = b"the old file\n" * 1000
PRIVATE = ".ftpsd-part-"


def parts(directory: Path) -> list[str]:
    """Return the part files in a directory."""
    return [name for name in os.listdir(directory) if name.startswith(PRIVATE)]


@pytest.fixture
def broken(make_daemon: Callable[..., Daemon]) -> Iterator[tuple[Daemon, FaultyDisk]]:
    """A daemon whose user alice has a disk that fails on request."""
    daemon = make_daemon(start=False)
    disk = FaultyDisk(daemon.home())
    (disk.backing / "old").write_bytes(OLD)
    yield daemon.start(disk.prefix), disk
    disk.work()


def refused_upload(daemon: Daemon, line: str, data: bytes) -> str:
    """Return the final reply to an upload that the server may end at any time."""
    with secured(daemon) as client:
        connection = client._open(line)
        try:
            connection.sendall(data)
            connection.unwrap().close()  # type: ignore[attr-defined]
        except OSError:
            connection.close()
        reply = client.reply()
        client.expect(257, "PWD")  # the session goes on
    return reply


def test_the_disk_is_full(make_daemon: Callable[..., Daemon]) -> None:
    """A full disk gets 452. The old file stays, the part file uses no space, and an upload that fits is accepted."""
    daemon = make_daemon(start=False)
    disk = SmallDisk(daemon.home(), 1 << 20)
    daemon.start(disk.prefix)
    home = disk.inside(daemon.pid)
    (home / "old").write_bytes(OLD)
    for line in ("STOR old", "STOR new", "APPE old"):
        assert refused_upload(daemon, line, bytes(3 << 20)) == "452 No space left on the disk."
        assert os.listdir(home) == ["old"]
        assert (home / "old").read_bytes() == OLD
    with secured(daemon) as client:
        assert client.upload("STOR old", b"fits").startswith("226")
    assert (home / "old").read_bytes() == b"fits"
    daemon.wait_for_log("STOR old: 452 No space left on the disk.")
    assert "Traceback" not in daemon.log


def test_the_disk_is_read_only(make_daemon: Callable[..., Daemon]) -> None:
    """A read-only file system gets 550, and downloads work."""
    daemon = make_daemon(start=False)
    disk = FaultyDisk(daemon.home())
    (disk.backing / "old").write_bytes(OLD)
    daemon.start(disk.prefix)
    disk.fail(CREATE="EROFS", MKDIR="EROFS")
    with secured(daemon) as client:
        connection = client.connect_data()
        assert client.command("STOR new") == "550 Read-only file system."
        connection.close()
        client.expect(550, "MKD d")
        assert client.download("RETR old") == OLD
    daemon.wait_for_log("STOR new: 550 Read-only file system.")
    assert "Traceback" not in daemon.log


#: Faults, the reply, and how many parts are kept to be gone on with: none of which nothing was written.
WRITING = {
    "quota": ({"WRITE": "EDQUOT"}, "552 Disk quota exceeded.", 0),
    "too large": ({"WRITE": "EFBIG"}, "552 File too large for the file system.", 0),
    "write error": ({"WRITE": "EIO"}, "451 Disk I/O error.", 0),
    "error at the end": ({"RENAME": "EIO"}, "451 Disk I/O error.", 1),
    "full at the end": ({"RENAME": "ENOSPC"}, "452 No space left on the disk.", 1),
    "stale NFS handle": ({"WRITE": "ESTALE"}, "451 File system error.", 0),
}


@pytest.mark.parametrize(("rules", "reply", "kept"), WRITING.values(), ids=WRITING.keys())
def test_writing_fails(broken: tuple[Daemon, FaultyDisk], rules: dict[str, str], reply: str, kept: int) -> None:
    """An upload that fails because of the disk gets the reason. The old file stays, and the next upload replaces it."""
    daemon, disk = broken
    disk.fail(**rules)
    assert refused_upload(daemon, "STOR old", bytes(300_000)) == reply
    assert (disk.backing / "old").read_bytes() == OLD
    assert len(parts(disk.backing)) == kept
    disk.work()
    with secured(daemon) as client:
        assert client.upload("STOR old", b"new").startswith("226")
    assert (disk.backing / "old").read_bytes() == b"new"
    assert parts(disk.backing) == []
    daemon.wait_for_log(f"STOR old: {reply}")
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("protection", ["P", "C"])
def test_reading_fails(broken: tuple[Daemon, FaultyDisk], protection: str) -> None:
    """A download that fails because of the disk gets 451, not 426 as for a broken connection.

    Under TLS it ends without close_notify, so that nobody takes it for the whole file. The session continues.
    """
    daemon, disk = broken
    daemon.settings["tls"]["require"] = {"data": False}
    daemon.write()
    daemon.reload()
    disk.fail(READ="EIO")
    with secured(daemon) as client:
        client.expect(200, f"PROT {protection}")
        connection = client.connect_data()
        client.expect(150, "RETR old")
        if protection == "P":
            with pytest.raises(ssl.SSLError, match="EOF"):  # Python 3.11.2 has no SSLEOFError for it
                read_all(client.secure_data(connection, ragged=False))
        else:
            assert len(read_all(connection)) < len(OLD)
        assert client.reply() == "451 Disk I/O error."
        disk.work()
        client.expect(200, "PROT P")
        assert client.download("RETR old") == OLD
    daemon.wait_for_log("RETR old: 451 Disk I/O error.")
    assert "Traceback" not in daemon.log


def test_listing_fails(broken: tuple[Daemon, FaultyDisk]) -> None:
    """A directory that cannot be read gets 451."""
    daemon, disk = broken
    with secured(daemon) as client:
        disk.fail(OPENDIR="EIO")
        connection = client.connect_data()
        assert client.command("LIST") == "451 Disk I/O error."
        connection.close()
        disk.work()
        assert b"old" in client.download("LIST")
    daemon.wait_for_log("LIST: 451 Disk I/O error.")
    assert "Traceback" not in daemon.log


def test_a_tree_that_cannot_be_removed_to_the_end(make_daemon: Callable[..., Daemon]) -> None:
    """What RMDA leaves of a tree, here because a disk is mounted in it, is visible.

    A client without RMDA can remove it.
    """
    daemon = make_daemon(start=False)
    busy = daemon.home().joinpath("top", *["d"] * 80)
    with secured(daemon.start(SmallDisk(busy, 1 << 20).prefix)) as client:
        client.expect(450, "RMDA top")
    daemon.stop()
    with secured(daemon.start()) as client:
        path = "top"
        while below := client.download(f"NLST {path}").split():
            path += f"/{below[0].decode().rpartition('/')[2]}"
        assert "/d/d/d" in path
        for left in (path, *map(str, list(Path(path).parents)[:-1])):
            client.expect(250, f"RMD {left}")
    assert not (daemon.home() / "top").exists()
