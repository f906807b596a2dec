"""A block device with I/O errors, below ext4: every reply says it, and 226 is only for what is on the disk."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.disks import FailingDevice, FaultyDisk
from tests.ftpclient import FtpClient, read_all, secured

OLD = b"the old file\n" * 1000
NAMES = [f"name-{number:04}" for number in range(2000)]
READ_ONLY = "550 Read-only file system."
BROKEN = "451 Disk I/O error."

UPLOADS = [("STOR old", b"new" * 50_000), ("STOR new", b"new"), ("APPE appended", bytes(50_000)), ("APPE few", b"few")]


def _device(daemon: Daemon, journal: bool = True) -> FailingDevice:
    home = daemon.home()
    for name in ("appended", "few", "old", "read", "sized"):
        (home / name).write_bytes(OLD)
    (home / "large").write_bytes(OLD * 200)
    (home / "many").mkdir()
    for name in NAMES:
        (home / "many" / name).touch()
    return FailingDevice(home, journal)


def _transfer(client: FtpClient, line: str, data: bytes | None = None) -> str:
    """Return the final reply to a transfer. Unless it is 226, there is no close_notify."""
    connection = client.connect_data()
    with connection:
        reply = client.command(line)
        if not reply.startswith("150"):
            return reply
        stream, ended = client.secure_data(connection, ragged=False), True
        try:
            if data is None:
                read_all(stream)
            else:
                stream.sendall(data)
            stream.unwrap()
        except OSError:
            ended = False
    reply = client.reply()
    assert ended == reply.startswith("226"), reply
    return reply


def test_reading_fails(make_daemon: Callable[..., Daemon]) -> None:
    """What cannot be read is 451, also in the middle of a listing, which would look complete with a 226."""
    daemon = make_daemon(start=False)
    device = _device(daemon)
    lines = [
        "SIZE sized",
        "MDTM sized",
        "MLST sized",
        "HASH large",
        "STAT many",
        "DELE sized",
        "RNFR sized",
        "RMDA many",
    ]
    lines += ["MFMT 20200101000000 sized", "SITE CHMOD 600 sized"]
    downloads = ["RETR large", "RETR read", "LIST", "LIST -R", "NLST -R", "MLSD", "MLSD many"]
    with secured(daemon.start(device.prefix)) as client:
        device.fail(READ="EIO")
        for line in lines:
            assert client.command(line) == BROKEN, line
        for line in downloads:
            assert _transfer(client, line) == BROKEN, line
        for line in ("STOR old", "APPE appended", "APPE few"):
            assert _transfer(client, line, b"new") == BROKEN, line
        device.work()
        for line in downloads:
            assert _transfer(client, line).startswith("226 "), line
        assert client.expect(213, "SIZE sized") == f"213 {len(OLD)}"
    assert "Traceback" not in daemon.log


def test_writing_fails(make_daemon: Callable[..., Daemon]) -> None:
    """With `uploads.fsync` no upload gets 226 while the device does not write, and the old files stay as they were.

    When it writes again, what gets 226 is on it.
    """
    daemon = make_daemon({"uploads": {"fsync": True}}, start=False)
    device = _device(daemon, journal=False)
    with secured(daemon.start(device.prefix)) as client:
        for name in ("appended", "few", "old"):
            assert client.download(f"RETR {name}") == OLD
        device.fail(WRITE="EIO")
        for line, data in [*UPLOADS, ("STOU", b"new")]:
            assert _transfer(client, line, data) == BROKEN, line
        for name in ("appended", "few", "old"):
            assert client.download(f"RETR {name}") == OLD
        client.expect(550, "SIZE new")
        device.work()
        for line, data in UPLOADS:
            assert _transfer(client, line, data).startswith("226 "), line
    daemon.stop()
    for line, data in UPLOADS:
        verb, name = line.split()
        assert device.content(name) == (OLD if verb == "APPE" else b"") + data, name
    assert "Traceback" not in daemon.log


def test_the_journal_cannot_be_written(make_daemon: Callable[..., Daemon]) -> None:
    """When ext4 cannot write its journal, it becomes read-only: uploads and changes get 550, downloads work."""
    daemon = make_daemon({"uploads": {"fsync": True}}, start=False)
    device = _device(daemon)
    with secured(daemon.start(device.prefix)) as client:
        device.fail(WRITE="EIO")
        deadline = time.monotonic() + PATIENCE
        while READ_ONLY not in (replies := [_transfer(client, *upload) for upload in UPLOADS]):
            assert not set(replies) - {BROKEN, READ_ONLY} and time.monotonic() < deadline, replies
        for line in ("MKD new", "DELE sized", "RMD many"):
            client.expect(550, line)
        for name in ("appended", "old", "read"):
            assert client.download(f"RETR {name}") == OLD
    daemon.stop()
    device.work()
    assert device.content("old") == OLD
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("error", ["EIO", "ESTALE", "ENOSPC", "EROFS"])
def test_the_name_cannot_be_written(make_daemon: Callable[..., Daemon], error: str) -> None:
    """An upload whose name cannot be written to the disk gets no 226, although the new file may have the name."""
    daemon = make_daemon({"uploads": {"fsync": True}}, start=False)
    disk = FaultyDisk(daemon.home())
    (disk.backing / "old").write_bytes(OLD)
    with secured(daemon.start(disk.prefix)) as client:
        disk.fail(FSYNCDIR=error)
        for line in ("STOR old", "STOR new", "APPE old", "STOU"):
            assert _transfer(client, line, bytes(10_000))[:4] in ("451 ", "452 ", "550 "), line
        disk.work()
        assert _transfer(client, "STOR old", b"whole").startswith("226 ")
        assert (disk.backing / "old").read_bytes() == b"whole"
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EACCES"])
def test_a_directory_that_cannot_be_read_to_the_end(make_daemon: Callable[..., Daemon], error: str) -> None:
    """A listing that fails in the middle of a directory, or below the first one, is no 226."""
    daemon = make_daemon(start=False)
    disk = FaultyDisk(daemon.home())
    for directory in ("", "below"):
        (disk.backing / directory).mkdir(exist_ok=True)
        for name in NAMES[:1200]:  # more than fit into one request
            (disk.backing / directory / name).touch()
    with secured(daemon.start(disk.prefix)) as client:
        for line in ("LIST", "MLSD below", "NLST -R", "LIST name-*"):
            disk.fail(READDIR=f"{error}/1")
            reply = _transfer(client, line)
            assert reply[:4] == ("550 " if error == "EACCES" else "451 "), f"{line}: {reply}"
            disk.work()
            assert _transfer(client, line).startswith("226 "), line
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("error", ["EIO", "ENOTCONN", "ESTALE"])
def test_a_mounted_disk_that_does_not_work(make_daemon: Callable[..., Daemon], error: str) -> None:
    """The home of a user in which another disk is mounted, and fails, is listed; what is on that disk is 451."""
    daemon = make_daemon(start=False)
    mounted = daemon.home() / "mounted"
    disk = FaultyDisk(mounted)
    with secured(daemon.start(disk.prefix)) as client:
        disk.fail(GETATTR=error, LOOKUP=error, OPENDIR=error)
        assert b" mounted" in client.download("LIST")
        assert b"; mounted" in client.download("MLSD")
        assert client.command("CWD mounted").startswith("451 ")
        assert _transfer(client, "LIST -R").startswith("451 ")
    assert "Traceback" not in daemon.log
