"""Listings show cut uploads, with the size that has arrived, to users who may resume them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpsd.storage.local.part_files import PRIVATE, part_name
from tests.daemon import Daemon
from tests.disks import with_mount
from tests.ftpclient import FtpClient, secured
from tests.hostile import cut, open_transfer, wait_until, withstands
from tests.test_publishing import store
from tests.test_resuming import begin_and_cut

Make = Callable[..., Daemon]

USERS = {
    "alice": {},
    "reader": {"permissions": ["list", "download", "delete"]},
    "dropper": {"permissions": ["upload"]},
    "drawer": {"permissions": "read-only", "paths": {"/in": "read-write"}},
    "blind": {"names": {"hide": ["secret*"]}},
}

LISTINGS = ("LIST", "MLSD", "NLST", "STAT")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Daemon]:
    """All users have the same home, with different permissions."""
    users = {name: {"home": "homes/alice", **values} for name, values in USERS.items()}
    daemon = Daemon(tmp_path_factory.mktemp("incomplete"), certificate, users=users)
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def place(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a directory for this test only."""
    name = re.sub(r"\W+", "-", request.node.name)
    (daemon.home() / name).mkdir()
    with withstands(daemon):
        yield name


def listed(client: FtpClient, place: str) -> dict[str, list[str]]:
    """Return the names in each kind of listing."""
    long = client.download(f"LIST {place}").decode().splitlines()
    facts = client.download(f"MLSD {place}").decode().splitlines()
    return {
        "LIST": [line.split(maxsplit=8)[8] for line in long],
        "MLSD": [line.split(" ", 1)[1] for line in facts],
        "NLST": [name.rpartition("/")[2] for name in client.download(f"NLST {place}").decode().splitlines()],
        "STAT": [line.split(maxsplit=8)[8] for line in client.command(f"STAT {place}").splitlines()[1:-1]],
    }


def test_the_name_is_listed_until_a_file_has_it(daemon: Daemon, place: str) -> None:
    """LIST, MLSD, NLST and STAT show a cut upload with the size that SIZE returns, and APPE resumes it."""
    with secured(daemon) as client:
        begin_and_cut(client, f"STOR {place}/film.mkv", b"a" * 1000)
        assert listed(client, place) == {each: ["film.mkv"] for each in LISTINGS}
        (line,) = client.download(f"MLSD {place}").decode().splitlines()
        assert line.startswith("type=file;size=1000;")
        assert "perm=adw;" in line
        assert line.endswith("X.incomplete=1; film.mkv")
        assert client.download(f"LIST {place}").split()[4] == b"1000"
        assert "size=1000;" in client.expect(250, f"MLST {place}/film.mkv")
        assert client.download(f"NLST {place}/*.mkv")
        client.expect(213, f"SIZE {place}/film.mkv")
        assert store(client, f"APPE {place}/film.mkv", b"b" * 500).startswith("226 ")
        (line,) = client.download(f"MLSD {place}").decode().splitlines()
        assert line.startswith("type=file;size=1500;")
        assert "X.incomplete" not in line
    assert (daemon.home() / place / "film.mkv").read_bytes() == b"a" * 1000 + b"b" * 500
    assert os.listdir(daemon.home() / place) == ["film.mkv"]


def test_incomplete_files_can_only_be_resumed_or_deleted(daemon: Daemon, place: str) -> None:
    """A cut upload cannot be read, renamed, dated or hashed; DELE removes it."""
    with secured(daemon) as client:
        begin_and_cut(client, f"STOR {place}/f", b"a" * 1000)
        for line in ("HASH", "RNFR", "MDTM", "MFMT 20200101000000", "SITE CHMOD 644", "CWD", "RMD"):
            client.expect(550, f"{line} {place}/f")
        client.passive_port()
        assert "is incomplete" in client.expect(550, f"RETR {place}/f")
        client.expect(250, f"DELE {place}/f")
        assert listed(client, place)["MLSD"] == []
        client.expect(550, f"MLST {place}/f")
    assert os.listdir(daemon.home() / place) == []


def test_an_upload_that_runs_is_not_listed(daemon: Daemon, place: str) -> None:
    """A running upload is not listed as a cut one."""
    with secured(daemon) as sending, secured(daemon) as client:
        data = open_transfer(sending, f"STOR {place}/f")
        data.sendall(b"a" * 1000)
        part = daemon.home() / place / part_name("f")
        wait_until(lambda: part.exists() and part.stat().st_size == 1000, "it has arrived")
        assert listed(client, place)["MLSD"] == []
        client.expect(550, f"MLST {place}/f")
        cut(data)
        assert sending.reply().startswith("426 ")
        assert listed(client, place)["MLSD"] == ["f"]


def test_a_file_of_that_name_is_listed_instead(daemon: Daemon, place: str) -> None:
    """A listing has each name once: the file or directory, if there is one, and not the cut upload."""
    (daemon.home() / place / "f").write_bytes(b"old")
    with secured(daemon) as client:
        begin_and_cut(client, f"STOR {place}/f", b"new, longer")
        begin_and_cut(client, f"STOR {place}/d", b"new, longer")
        (daemon.home() / place / "d").mkdir()
        assert listed(client, place)["MLSD"] == ["d", "f"]
        assert b"X.incomplete" not in client.download(f"MLSD {place}")
        assert client.download(f"RETR {place}/f") == b"old"


@pytest.mark.parametrize("user", ["reader", "drawer", "blind"])
def test_users_who_may_not_resume_see_nothing(daemon: Daemon, place: str, user: str) -> None:
    """Users without `upload` there, or from whom the name is hidden, do not see the cut upload."""
    with secured(daemon) as client:
        begin_and_cut(client, f"STOR {place}/secret", b"a" * 1000)
    with secured(daemon, user) as client:
        assert listed(client, place)["MLSD"] == []
        client.expect(550, f"MLST {place}/secret")
        client.passive_port()
        assert "incomplete" not in client.expect(550, f"RETR {place}/secret")


def test_permissions_of_the_directory_count(daemon: Daemon) -> None:
    """A user who may upload in one directory sees cut uploads there only."""
    (daemon.home() / "in").mkdir()
    with secured(daemon, "drawer") as client:
        begin_and_cut(client, "STOR in/f", b"a" * 1000)
        assert listed(client, "in")["MLSD"] == ["f"]
        assert b"X.incomplete=1; f" in client.download("MLSD in")
    with secured(daemon, "dropper") as client:
        assert client.expect(213, "SIZE in/f") == "213 1000"


NAMES = ["a.b.c", "100%", "%2E", ".hidden", "n" * 255, "é" * 127, "日本", "x" * 127, "x" * 128, "*", "~", "-rf", "a%"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_is_listed(daemon: Daemon, place: str, name: str) -> None:
    """A cut upload is listed under the name that the client gave, whatever the name and its length."""
    with secured(daemon) as client:
        begin_and_cut(client, f"STOR {place}/{name}", b"a" * 1000)
        client.expect(250, f"CWD {place}")
        try:
            os.setxattr(daemon.home() / place, "user.ftpsd.test", b"")
        except OSError:
            if len(os.fsencode(name)) > 127:
                pytest.skip("the disk has no extended attributes")
        assert client.download("MLSD").decode().rstrip().partition(" ")[2] == name
        assert store(client, f"APPE {name}", b"b").startswith("226 ")
    path = daemon.home() / place / name
    assert path.read_bytes() == b"a" * 1000 + b"b"
    assert "user.ftpsd.name" not in os.listxattr(path)
    assert len(os.listdir(path.parent)) == 1


def test_it_is_listed_after_a_kill(make_daemon: Make) -> None:
    """After the daemon was killed during an upload, the upload is listed and can be resumed."""
    daemon = make_daemon()
    with secured(daemon) as client:
        data = open_transfer(client, "STOR f.bin")
        data.sendall(b"a" * 1000)
        part = daemon.home() / part_name("f.bin")
        wait_until(lambda: part.exists() and part.stat().st_size == 1000, "it has arrived")
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
    daemon.start()
    with secured(daemon) as client:
        assert b"size=1000;" in client.download("MLSD")
        assert store(client, "APPE f.bin", b"b").startswith("226 ")
    assert (daemon.home() / "f.bin").read_bytes() == b"a" * 1000 + b"b"


def test_part_files_of_other_programs(daemon: Daemon, place: str) -> None:
    """Files, links and pipes with names of part files are not listed as uploads that cannot exist."""
    home = daemon.home() / place
    for name in (
        "n-..%",
        "n-%2E%2E%",
        "n-%2E%",
        "n-%",
        f"n-{part_name('x')}%",
        f"n-{PRIVATE.replace('.', '%2E')}x%",
        "n-a",
    ):
        (home / (PRIVATE + name)).write_bytes(b"x")
    os.mkfifo(home / part_name("pipe"))
    (home / part_name("link")).symlink_to("/etc/passwd")
    (home / part_name("folder")).mkdir()
    (home / "b").write_bytes(b"x")
    os.link(home / "b", home / part_name("linked"))
    with secured(daemon) as client:
        assert listed(client, place) == {each: ["b"] for each in LISTINGS}


def test_no_part_looks_like_the_file(daemon: Daemon, place: str) -> None:
    """No program that looks for `*.csv` or runs `*.php` takes a part file for a complete file."""
    with secured(daemon) as client:
        for name in ("data.csv", "page.php.txt"):
            begin_and_cut(client, f"STOR {place}/{name}", b"a" * 1000)
    assert not any(
        ".csv" in name or ".php" in name or name.endswith("csv") for name in os.listdir(daemon.home() / place)
    )


def test_a_disk_without_attributes(make_daemon: Make) -> None:
    """On a disk without extended attributes, cut uploads with names of up to 127 bytes are listed."""
    daemon = make_daemon(start=False)
    daemon.start(with_mount(f"mount -t ramfs none {daemon.home()}"))
    with withstands(daemon), secured(daemon) as client:
        for name in ("x" * 127, "y" * 200):
            begin_and_cut(client, f"STOR {name}", b"a" * 1000)
        assert client.download("NLST").split() == [b"x" * 127]
        assert client.expect(213, f"SIZE {'y' * 200}") == "213 1000"
        assert store(client, f"APPE {'y' * 200}", b"b").startswith("226 ")


def test_listings_do_not_disturb_uploads(daemon: Daemon, place: str) -> None:
    """Listings of other sessions never prevent a cut upload from being resumed."""
    with secured(daemon) as client, secured(daemon) as looking:
        begin_and_cut(client, f"STOR {place}/f", b"")
        for turn in range(20):
            looking.send(f"STAT {place}")
            if turn:
                client.expect(350, f"REST {turn}")
            begin_and_cut(client, f"STOR {place}/f", b"x")
            assert looking.reply().startswith("21")
        assert client.expect(213, f"SIZE {place}/f") == "213 20"
