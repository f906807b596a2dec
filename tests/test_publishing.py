"""Uploads to unusual disks: late errors, no link(), no renameat2(), no read permission.

strace makes the daemon's own system calls fail as such a disk would.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpsd.storage.local.part_files import part_name
from ftpsd.storage.local.upload import Target, begin_upload
from ftpsd.storage.local.write_behind import PIECE
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import open_transfer, withstands

#: Calls that give a file a second name, or one that nothing has.
LINK, RENAME = "linkat", "renameat2"

#: The number of cachestat(2), the same on all machines.
CACHESTAT = 451

#: For a daemon that runs as root, as the tests may, but may not do all that root may.
ORDINARY = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
    if os.geteuid() == 0
    else ()
)

Make = Callable[..., Daemon]


def tampered(make_daemon: Make, *rules: str, path: Path | None = None, fsync: bool = False) -> Daemon:
    """Make a daemon whose system calls fail by rule; with `path`, only those on that file."""
    users = {"alice": {}, "bob": {"permissions": ["upload", "list", "download"]}}
    daemon = make_daemon({"uploads": {"fsync": fsync}}, users, start=False)
    if not rules:
        return daemon.start()
    if shutil.which("strace") is None or subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode:
        pytest.skip("strace is not to be had")
    calls = ",".join(rule.partition(":")[0] for rule in rules)
    line = ["strace", "-D", "-f", "-y", "-qq", "-o", str(daemon.directory / "strace"), "-e", f"trace={calls}"]
    line += [word for rule in rules for word in ("-e", f"inject={rule}")]
    return daemon.start((*line, "-P", str(path)) if path is not None else (*line, "--seccomp-bpf"))


def store(client: FtpClient, line: str, content: bytes) -> str:
    """Upload, and return the final reply. A server that refuses sends no close_notify."""
    data = open_transfer(client, line)
    assert isinstance(data, ssl.SSLSocket)
    data.sendall(content)
    finish(data)
    return client.reply()


def finish(data: ssl.SSLSocket) -> None:
    """Send close_notify, and wait for that of the server or the end of the connection."""
    try:
        data.unwrap()
    except (ssl.SSLError, OSError):
        pass
    data.close()


def names(daemon: Daemon, user: str = "alice") -> set[str]:
    """Return all names in a home, hidden ones included."""
    return set(os.listdir(daemon.home(user)))


WAYS = {
    "renameat2": [],
    "link": [f"{RENAME}:error=EINVAL"],
    "neither": [f"{RENAME}:error=EINVAL", f"{LINK}:error=EPERM"],
}


@pytest.mark.parametrize("rules", WAYS.values(), ids=WAYS)
def test_publishing_without_replacing(make_daemon: Make, rules: list[str]) -> None:
    """On any file system, STOU and a user without `overwrite` make new files and replace none."""
    daemon = tampered(make_daemon, *rules)
    home = daemon.home("bob")
    with withstands(daemon), secured(daemon, "bob") as client, secured(daemon, "bob") as other:
        assert client.upload("STOR new", b"new").startswith("226 ")
        assert client.upload("STOU", b"unique").startswith("226 ")
        data = open_transfer(client, "STOR raced")
        assert isinstance(data, ssl.SSLSocket)
        data.sendall(b"second")
        assert store(other, "STOR raced", b"first").startswith("226 ")
        finish(data)
        assert client.reply().startswith("553 ")
        client.passive_port()
        client.expect(550, "STOR new")
    assert (home / "new").read_bytes() == b"new"
    assert (home / "raced").read_bytes() == b"first"
    assert len(names(daemon, "bob")) == 3
    unique = next(name for name in names(daemon, "bob") if name.startswith("upload."))
    assert (home / unique).read_bytes() == b"unique"


@pytest.mark.parametrize(("error", "code"), [("ENOSPC", 452), ("EDQUOT", 552), ("EIO", 451)])
def test_an_error_of_close(make_daemon: Make, tmp_path: Path, error: str, code: int) -> None:
    """An error that close() reports publishes nothing, and keeps no part file."""
    part = tmp_path / "daemon0" / "homes" / "alice" / part_name("file")
    daemon = tampered(make_daemon, f"close:error={error}", path=part)
    (daemon.home() / "file").write_bytes(b"old")
    with withstands(daemon), secured(daemon) as client:
        assert store(client, "STOR file", b"new").startswith(str(code))
        assert client.download("RETR file") == b"old"
    assert names(daemon) == {"file"}


def test_an_error_of_the_disk_during_an_upload(make_daemon: Make, tmp_path: Path) -> None:
    """With `uploads.fsync`, an error of the disk that shows before the end publishes nothing, and keeps no part file."""
    part = tmp_path / "daemon0" / "homes" / "alice" / part_name("file")
    daemon = tampered(make_daemon, "sync_file_range:error=EIO", path=part, fsync=True)
    with withstands(daemon), secured(daemon) as client:
        assert store(client, "STOR file", bytes(PIECE + 1)).startswith("451")
    assert names(daemon) == set()


@pytest.mark.parametrize("fsync", [True, False])
def test_little_is_left_for_the_end_of_an_upload(tmp_path: Path, fsync: bool) -> None:
    """A large file is written to the disk while it arrives if that must be done in the end.

    With `uploads.fsync`, the reply waits for it. ext4 does it for a file that replaces another one.
    """
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    if not fsync:
        (tmp_path / "file").write_bytes(b"old")
    upload = begin_upload(Target(directory, "file", False, "anything", 0o022, fsync), 0)
    try:
        part = os.open(tmp_path / part_name("file"), os.O_RDONLY)
        upload.write(bytes(4096))
        os.fsync(part)
        os.close(part)
        if any(unwritten(tmp_path / part_name("file"))):
            pytest.skip("files are in memory here, or the kernel does not tell what is on the disk")
        for _ in range(64):
            upload.write(bytes(1024 * 1024))
        waiting, being_written = unwritten(tmp_path / part_name("file"))
        assert waiting <= 2 * PIECE
        assert being_written <= 2 * PIECE or not fsync
    finally:
        upload.close()


def unwritten(path: Path) -> tuple[int, int]:
    """Return the bytes of a file that wait for the disk, and those that are being written (cachestat(2)).

    1 and 1 if the kernel does not tell.
    """
    span, found = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)()
    with path.open("rb") as file:
        failed = ctypes.CDLL(None).syscall(CACHESTAT, file.fileno(), span, found, 0)
    page = resource.getpagesize()
    return (1, 1) if failed else (found[1] * page, found[2] * page)


def test_a_part_file_that_is_the_published_file(shared: Daemon) -> None:
    """After a kill between link() and unlink(), the next upload does not change the published file.

    It is replaced when that upload is complete.
    """
    home = shared.home()
    (home / "linked").write_bytes(b"published")
    os.link(home / "linked", home / part_name("linked"))
    with withstands(shared), secured(shared) as client:
        with client.connect_data() as data:
            client.expect(150, "STOR linked")
            client.secure_data(data).sendall(b"new")
            assert (home / "linked").read_bytes() == b"published"
        assert client.reply().startswith("426 ")
        assert client.download("RETR linked") == b"published"


def test_chmod_000_can_be_undone(make_daemon: Make) -> None:
    """SITE CHMOD sets the mode of a file that the daemon itself may not open."""
    daemon = make_daemon(start=False).start(ORDINARY)
    (daemon.home() / "file").write_bytes(b"content")
    (daemon.home() / "folder").mkdir()
    with withstands(daemon), secured(daemon) as client:
        for name in ("file", "folder"):
            client.expect(200, f"SITE CHMOD 000 {name}")
            client.expect(200, f"SITE CHMOD 750 {name}")
            assert (daemon.home() / name).stat().st_mode & 0o7777 == 0o750
        client.expect(200, "SITE CHMOD 000 file")
        client.passive_port()
        client.expect(550, "RETR file")
        client.expect(200, "SITE CHMOD 600 file")
        assert client.download("RETR file") == b"content"


def test_the_later_of_two_uploads_wins(shared: Daemon) -> None:
    """Of two simultaneous uploads to one name, both get 226, and the file is that of the later one, whole."""
    path = shared.home() / "contested"
    with withstands(shared), secured(shared) as one, secured(shared) as other:
        first, second = open_transfer(one, "STOR contested"), open_transfer(other, "STOR contested")
        for _ in range(4):
            first.sendall(b"1" * 50_000)
            second.sendall(b"2" * 30_000)
        assert isinstance(second, ssl.SSLSocket)
        finish(second)
        assert other.reply().startswith("226 ")
        assert path.read_bytes() == b"2" * 120_000
        assert isinstance(first, ssl.SSLSocket)
        finish(first)
        assert one.reply().startswith("226 ")
        assert path.read_bytes() == b"1" * 200_000
    assert "contested" in names(shared)


def test_a_part_file_that_size_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload resumes its part file even while SIZE in another session has it locked."""
    part = tmp_path / part_name("f")
    part.write_bytes(bytes(500))
    with part.open("rb") as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        # While the upload waits a moment, SIZE has had its answer.
        monkeypatch.setattr(time, "sleep", lambda seconds: seconds and fcntl.flock(asked, fcntl.LOCK_UN))
        directory = os.open(tmp_path, os.O_RDONLY)
        upload = begin_upload(Target(directory, "f", False, "anything", 0o022, False), 500)
    upload.write(bytes(500))
    upload.publish()
    upload.close()
    assert (tmp_path / "f").stat().st_size == 1000
