"""An upload that continues a file is published only if that file is still exactly the same."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpsd.storage.local.part_files import PRIVATE
from ftpsd.storage.local.upload import Target, begin_upload
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import MIB, open_transfer, withstands
from tests.test_publishing import finish, store, tampered
from tests.test_resuming import begin_and_cut

Make = Callable[..., Daemon]

#: What continues the file "OLD-" at its end, or within, by the bytes that it keeps.
WAYS = {"APPE": (None, b"OLD-"), "REST": (3, b"OLD")}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """alice may do everything; bob has her home, and may only add to it."""
    users = {"alice": {}, "bob": {"permissions": ["list", "download", "upload", "append"], "home": "homes/alice"}}
    users["carol"] = {"quota": {"bytes": "10M", "files": 100}}
    daemon = Daemon(tmp_path_factory.mktemp("conflicts"), certificate, users=users)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def path(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the path of the file "OLD-", in a home without other files."""
    for each in daemon.home().iterdir():
        each.unlink() if not each.is_dir() else os.rmdir(each)
    path = daemon.home() / "f"
    path.write_bytes(b"OLD-")
    with withstands(daemon):
        yield path


def begin(client: FtpClient, way: str, tail: bytes = b"tail") -> ssl.SSLSocket:
    """Begin an upload that continues the file. Return the data connection."""
    offset, _ = WAYS[way]
    if offset is not None:
        client.expect(350, f"REST {offset}")
    data = open_transfer(client, "STOR f" if offset is not None else "APPE f")
    data.sendall(tail)
    assert isinstance(data, ssl.SSLSocket)
    return data


def stores(path: Path, other: FtpClient) -> None:
    """Another session stores a file of the same size."""
    assert store(other, "STOR f", b"NEW-").startswith("226 ")


def renames(path: Path, other: FtpClient) -> None:
    """Another session renames another file to the name."""
    assert store(other, "STOR g", b"NEW-").startswith("226 ")
    other.expect(350, "RNFR g")
    other.expect(250, "RNTO f")


def deletes(path: Path, other: FtpClient) -> None:
    """Another session deletes the file."""
    other.expect(250, "DELE f")


def appends(path: Path, other: FtpClient) -> None:
    """Another program appends to the file."""
    with path.open("ab") as file:
        file.write(b"local")


def overwrites(path: Path, other: FtpClient) -> None:
    """Another program writes into the file, and sets its time back."""
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"NEW-")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def makes_a_directory(path: Path, other: FtpClient) -> None:
    """A directory gets the name."""
    other.expect(250, "DELE f")
    other.expect(257, "MKD f")


def replaces_the_same(path: Path, other: FtpClient) -> None:
    """A file with the same content and time, but another inode, gets the name."""
    times = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(b"OLD-")
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.rename(path)


CHANGES = [stores, renames, deletes, appends, overwrites, makes_a_directory, replaces_the_same]


def state(path: Path) -> bytes | None:
    """Return the content of a file, or None if it is none."""
    return path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [4, 3 * MIB], ids=["short", "long"])
def test_changes_made_meanwhile_stay(
    daemon: Daemon, path: Path, way: str, change: Callable[[Path, FtpClient], None], size: int
) -> None:
    """If anybody changes the file meanwhile, the upload gets 450, and the change is not lost."""
    with secured(daemon) as client, secured(daemon) as other:
        data = begin(client, way, b"t" * size)
        change(path, other)
        there = state(path)
        finish(data)
        assert client.reply().startswith("450 ")
        assert state(path) == there
        # What was received can be put there, if the client says so.
        kept = WAYS[way][1] + b"t" * size
        if path.is_dir():
            path.rmdir()
        client.expect(350, f"REST {len(kept)}")
        assert store(client, "STOR f", b"").startswith("226 ")
        if change not in (appends, overwrites):
            assert path.read_bytes() == kept
        assert path.stat().st_size == len(kept)
    assert os.listdir(path.parent) == ["f"]


@pytest.mark.parametrize("change", [stores, appends, deletes], ids=lambda change: change.__name__)
def test_appe_is_repeated(daemon: Daemon, path: Path, change: Callable[[Path, FtpClient], None]) -> None:
    """APPE repeated after 450 adds to the present file, once."""
    with secured(daemon) as client, secured(daemon) as other:
        data = begin(client, "APPE")
        change(path, other)
        there = state(path) or b""
        finish(data)
        assert client.reply().startswith("450 ")
        assert store(client, "APPE f", b"tail").startswith("226 ")
    assert path.read_bytes() == there + b"tail"
    assert os.listdir(path.parent) == ["f"]


def test_rest_is_repeated(daemon: Daemon, path: Path) -> None:
    """REST and STOR repeated after 450 continue the present file."""
    with secured(daemon) as client, secured(daemon) as other:
        data = begin(client, "REST")
        stores(path, other)
        finish(data)
        assert client.reply().startswith("450 ")
        client.expect(350, "REST 3")
        assert store(client, "STOR f", b"tail").startswith("226 ")
    assert path.read_bytes() == b"NEWtail"


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_append_to_a_new_name(daemon: Daemon, path: Path, user: str) -> None:
    """APPE to a new name does not replace a file that was stored there meanwhile."""
    path.unlink()
    with secured(daemon, user) as client, secured(daemon) as other:
        data = begin(client, "APPE")
        stores(path, other)
        finish(data)
        assert client.reply().startswith("450 ")
        assert path.read_bytes() == b"NEW-"
        assert store(client, "APPE f", b"tail").startswith("226 ")
    assert path.read_bytes() == b"NEW-tail"


def test_a_resumed_upload_does_not_replace_by_appe(daemon: Daemon, path: Path) -> None:
    """APPE that resumes an upload does not replace a file that got the name meanwhile, and can itself be resumed."""
    path.unlink()
    with secured(daemon) as client, secured(daemon) as other:
        begin_and_cut(client, "STOR f", b"first,")
        data = begin(client, "APPE")
        stores(path, other)
        finish(data)
        assert client.reply().startswith("450 ")
        assert path.read_bytes() == b"NEW-"
        client.passive_port()
        assert "REST 10" in client.expect(550, "APPE f")
        client.expect(350, "REST 10")
        assert store(client, "STOR f", b"").startswith("226 ")
    assert path.read_bytes() == b"first,tail"


@pytest.mark.parametrize("way", WAYS)
def test_reading_is_no_change(daemon: Daemon, path: Path, way: str) -> None:
    """Reading, listing and looking up facts do not count as changes of the file."""
    with secured(daemon) as client, secured(daemon) as other:
        data = begin(client, way)
        assert other.download("RETR f") == b"OLD-"
        for line in ("SIZE f", "MDTM f", "HASH f"):
            other.expect(213, line)
        path.read_bytes()
        finish(data)
        assert client.reply().startswith("226 ")
    assert path.read_bytes() == WAYS[way][1] + b"tail"
    assert os.listdir(path.parent) == ["f"]


def test_a_change_within_the_same_tick(daemon: Daemon, path: Path) -> None:
    """Two writes within one tick of the kernel's clock are still seen as a change."""
    for _ in range(20):
        path.write_bytes(b"OLD-")
        with secured(daemon) as client:
            data = open_transfer(client, "APPE f")
            with path.open("r+b") as file:
                file.write(b"NEW-")
            data.sendall(b"tail")
            assert isinstance(data, ssl.SSLSocket)
            finish(data)
            assert client.reply().startswith("450 ")
        assert path.read_bytes() == b"NEW-"


@pytest.mark.parametrize("size", [1, 3 * MIB])
def test_names_taken_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A file that gets the name between the check and the rename is not replaced."""
    (tmp_path / "f").write_bytes(b"o" * (1 if size > 1 else 5000))

    def look(pinned: object) -> bool:
        (tmp_path / "new").write_bytes(b"NEW-")
        (tmp_path / "new").rename(tmp_path / "f")
        return True

    directory = os.open(tmp_path, os.O_RDONLY)
    upload = begin_upload(Target(directory, "f", size > 1, "anything", 0o022, False), 0 if size > 1 else 1)
    while upload.must_copy(False):
        upload.copy(MIB)
    upload.write(b"t" * size)
    while upload.must_copy(True):
        upload.copy(MIB)
    monkeypatch.setattr("ftpsd.storage.local.pinned.Pinned.is_unchanged", look)
    with pytest.raises(Exception, match="450"):
        upload.publish()
    upload.close()
    assert (tmp_path / "f").read_bytes() == b"NEW-"
    assert len([name for name in os.listdir(tmp_path) if name.startswith(PRIVATE)]) == 1


def test_a_disk_without_exchange(make_daemon: Make) -> None:
    """On a disk that cannot exchange two names, changes are checked, and then the file is replaced."""
    daemon = tampered(make_daemon, "renameat2:error=EINVAL")
    path = daemon.home() / "f"
    path.write_bytes(b"OLD-")
    with withstands(daemon), secured(daemon) as client, secured(daemon) as other:
        for way in WAYS:
            data = begin(client, way, b"t" * MIB)
            stores(path, other)
            finish(data)
            assert client.reply().startswith("450 ")
            assert path.read_bytes() == b"NEW-"
            data = begin(client, way, b"t" * MIB)
            finish(data)
            assert client.reply().startswith("226 ")
            assert path.read_bytes() == {"APPE": b"NEW-", "REST": b"NEW"}[way] + b"t" * MIB
            path.write_bytes(b"OLD-")


def test_a_quota_is_exact(daemon: Daemon) -> None:
    """After conflicts, the quota's count is what the disk holds."""
    home = daemon.home("carol")
    with secured(daemon, "carol") as client, secured(daemon, "carol") as other:
        assert store(client, "STOR f", b"OLD-").startswith("226 ")
        for way in WAYS:
            for tail in (b"t", b"t" * MIB):
                data = begin(client, way, tail)
                assert store(other, "STOR f", b"NEW-").startswith("226 ")
                finish(data)
                assert client.reply().startswith("450 ")
                data = begin(client, way, tail)
                finish(data)
                assert client.reply().startswith("226 ")
        used = sum(each.stat().st_size for each in home.iterdir())
        assert client.expect(213, "AVBL") == f"213 {10 * MIB - used}"
