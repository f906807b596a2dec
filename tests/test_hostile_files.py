"""Hostile clients and users on files: no way leads out of a home, or around a permission."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all, secured
from tests.hostile import attempts, plain_login, snapshot, withstands

SECRET = b"what lies outside"


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory outside of all homes, with a file in it."""
    directory = tmp_path_factory.mktemp("outside")
    (directory / "secret").write_bytes(SECRET)
    (directory / "folder").mkdir()
    (directory / "folder" / "secret").write_bytes(SECRET)
    return directory


# --- out of the root ---------------------------------------------------------------------------------


def test_names_that_lead_out(shared: Daemon, outside: Path) -> None:
    """No `..`, absolute name or encoding of these reaches files outside of the home."""
    (shared.home() / "in").mkdir(exist_ok=True)
    up = os.path.relpath(outside, shared.home())
    encoded = [
        up.replace("..", "%2e%2e"),
        up.replace("..", ".\xff\xf4."),
        up.replace("/", "\\"),
        up.replace("/", "//"),
    ]
    encoded += [up.replace("/", "%2f"), up.replace("/", "\u2215"), "in/" * 50 + up, "/" * 3000 + up]
    encoded += [up.replace("..", "\u2025"), "~", "~root/", "~alice/../bob", "/../" * 900 + str(outside)[1:]]
    before = snapshot(outside)
    with withstands(shared), secured(shared) as client:
        for directory in ("/", "/in"):
            for path in (up, f"{outside}", f"../{up}", f"in/../{up}", f"/{up}/", *encoded):
                client.expect(250, f"CWD {directory}")
                for name in (path, f"{path}/secret", f"{path}/folder"):
                    said = attempts(client, name)
                    assert SECRET.decode() not in said
                    assert "folder/secret" not in said.replace(name, "")
                    assert "451" not in re.findall(r"^\d{3}", said, re.MULTILINE), said
                client.command("MKD " + path)
                client.command("RNFR in")
                client.command(f"RNTO {path}/moved")
                client.command(f"RNFR {path}/secret")
                client.command("RNTO /stolen")
                client.command(f"RMDA {path}")
                client.command(f"DELE {path}/secret")
                (shared.home() / "in").mkdir(exist_ok=True)
    assert snapshot(outside) == before
    assert not any(path.is_file() and path.read_bytes() == SECRET for path in shared.home().rglob("*"))


@pytest.mark.parametrize("kind", ["absolute", "relative", "through a link", "to a file", "loop", "proc"])
def test_links_that_lead_out(shared: Daemon, outside: Path, tmp_path: Path, kind: str) -> None:
    """No command follows a symbolic link that leads out of the home."""
    home = shared.home() / f"links-{kind.split()[-1]}"
    home.mkdir()
    link = home / "link"
    if kind == "absolute":
        link.symlink_to(outside)
    elif kind == "relative":
        link.symlink_to(os.path.relpath(outside, home))
    elif kind == "through a link":
        (home / "deep").mkdir()
        (home / "hop").symlink_to("deep/../../../../..")
        link.symlink_to("hop/" + os.path.relpath(outside, shared.home().parent.parent))
    elif kind == "to a file":
        link.symlink_to(outside / "secret")
    elif kind == "loop":
        link.symlink_to("link")
    else:
        link.symlink_to("/proc/self/root" + str(outside))
    before = snapshot(outside)
    with withstands(shared), secured(shared) as client:
        for name in (f"/{home.name}/link", f"/{home.name}/link/secret", f"/{home.name}/link/folder/secret"):
            said = attempts(client, name)
            assert SECRET.decode() not in said
            assert "folder" not in said.replace(name, "")
        client.expect(350, f"RNFR {home.name}/link")
        client.command(f"RNTO {home.name}/moved")
        listing = client.download(f"LIST {home.name}").decode()
        assert str(outside) not in listing and "hop" not in listing.replace(" hop", "")
        client.command(f"RMDA {home.name}/moved")
        client.command(f"DELE {home.name}/moved")
        client.expect(250, f"RMDA {home.name}")
    assert snapshot(outside) == before


def test_a_link_in_place_of_the_home(make_daemon: Callable[..., Daemon], outside: Path) -> None:
    """A home that is replaced by a link to another directory is gone, for sessions that run, too, until it is back."""
    daemon = make_daemon()
    before = snapshot(outside)
    kept = daemon.home().with_name("kept")
    with secured(daemon) as client:
        assert client.upload("STOR mine", b"mine").startswith("226 ")
        daemon.home().rename(kept)
        daemon.home().symlink_to(outside)
        for line in ("SIZE mine", "DELE secret.txt", "MKD new", "RNFR secret.txt", "MLST"):
            client.expect(550, line)
        for line in ("NLST", "RETR secret.txt", "STOR new"):
            client.passive_port()
            client.expect(550, line)
        daemon.home().unlink()
        kept.rename(daemon.home())
        client.expect(213, "SIZE mine")
    assert snapshot(outside) == before


def test_links_that_stay_inside(shared: Daemon) -> None:
    """Links to places within the home work, and changing a link does not change its target."""
    home = shared.home() / "inside"
    (home / "real" / "sub").mkdir(parents=True)
    (home / "real" / "file").write_bytes(b"found")
    (home / "relative").symlink_to("real")
    (home / "absolute").symlink_to(home / "real")
    (home / "up").symlink_to("real/sub/../../real/./file")
    (home / "real" / "sub" / "back").symlink_to("../../../inside/relative")
    with withstands(shared), secured(shared) as client:
        for name in (
            "relative/file",
            "absolute/file",
            "up",
            "real/sub/back/file",
            "real/sub/back/sub/back/file",
        ):
            assert client.download(f"RETR inside/{name}") == b"found", name
            client.expect(213, f"SIZE inside/{name}")
        client.expect(250, "CWD inside/absolute")
        assert client.upload("STOR new", b"new").startswith("226")
        client.expect(250, "CWD /inside")
        assert client.upload("STOR up", b"replaced").startswith("226")
        client.expect(250, "DELE relative")
        client.expect(550, "RMD absolute")
    assert (home / "real" / "new").read_bytes() == b"new"
    assert (home / "up").is_symlink() and (home / "real" / "file").read_bytes() == b"replaced"


@contextmanager
def swapping(path: Path, target: Path) -> Iterator[None]:
    """Replace `path`, a file or directory, by a symbolic link to `target` and back, again and again."""
    stop = threading.Event()
    real, link = path.with_name("swap-real"), path.with_name("swap-link")
    link.symlink_to(target)

    def swap() -> None:
        while not stop.is_set():
            path.rename(real)
            link.rename(path)
            path.rename(link)
            real.rename(path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        link.unlink()


def transferred(client: FtpClient, line: str) -> bytes:
    """Send a transfer command, with some bytes for an upload. Return what a download brings; nothing if it is refused."""
    content = b""
    with client.connect_data() as connection:
        if client.command(line).startswith("150"):
            if line.startswith("STOR"):
                connection.sendall(b"spoilt")
                connection.close()
            else:
                content = read_all(connection)
            client.reply()
    return content


def test_links_swapped_in_between(plain: Daemon, outside: Path) -> None:
    """A directory that turns into a link between check and use never lets a client out of the home."""
    inner = plain.home() / "race"
    inner.mkdir()
    (inner / "secret").write_bytes(b"inside")
    (inner / "folder").mkdir()
    before = snapshot(outside)
    with withstands(plain), swapping(inner, outside), plain_login(plain) as client:
        reached = 0
        for number in range(60):
            client.send("CWD race", "MLST secret", "CWD /", "SIZE race/secret", f"MKD race/made{number}")
            client.send("MFMT 20200101000000 race/secret", "SITE CHMOD 600 race/secret")
            replies = [client.reply() for _ in range(7)]
            assert str(len(SECRET)) != replies[3].split()[-1]
            assert f"size={len(SECRET)};" not in replies[1]
            for line in ("RETR race/secret", "LIST race", f"STOR race/new{number}", "HASH race/secret"):
                content = transferred(client, line)
                assert SECRET not in content
                reached += content == b"inside"
            client.command(f"RNFR race/new{number}")
            client.command(f"RNTO race/renamed{number}")
            client.command("RMDA race/folder")
            client.command("DELE race/nothing")
        assert reached
    assert snapshot(outside) == before


def test_a_file_swapped_for_a_link(plain: Daemon, outside: Path) -> None:
    """A file that turns into a link to a file outside is neither read nor written through it."""
    (plain.home() / "target").write_bytes(b"inside")
    with (
        withstands(plain),
        swapping(plain.home() / "target", outside / "secret"),
        plain_login(plain) as client,
    ):
        for _ in range(60):
            for line in ("RETR target", "APPE target"):
                connection = client.connect_data()
                if client.command(line).startswith("150"):
                    if line == "RETR target":
                        assert SECRET not in read_all(connection)
                    connection.close()
                    client.reply()
                connection.close()
        (plain.home() / "target").touch()
    assert (outside / "secret").read_bytes() == SECRET


# --- what a reply says is what the disk has ----------------------------------------------------------


def test_the_time_that_was_stored(shared: Daemon) -> None:
    """MFMT, MDTM, MFF and SITE UTIME return the time that the disk has stored, which may differ from the time sent."""
    path = shared.home() / "timed"
    path.write_bytes(b"")
    with withstands(shared), secured(shared) as client:
        for line in (
            "MFMT 99991231235959 timed",
            "MDTM 99991231235959 timed",
            "MFF Modify=99991231235959;UNIX.mode=640; timed",
            "SITE UTIME 99991231235959 timed",
            "MFMT 20200102030405.75 timed",
        ):
            reply = client.command(line)
            stored = time.strftime("%Y%m%d%H%M%S", time.gmtime(path.stat().st_mtime))
            assert reply[:3] in ("200", "213") and stored in reply, (reply, stored)
            assert client.expect(213, "MDTM timed") == f"213 {stored}"


def test_a_unique_name_ends_with_a_whole_character(shared: Daemon) -> None:
    """STOU cuts a long name between characters. A byte that is not UTF-8 counts as one character."""
    names = [
        "ä" * 127,
        "a" + "ä" * 127,
        "€" * 85,
        "a" + "€" * 84,
        "aa" + "😀" * 63,
        "\udce2" * 255,
        "\udcc3" + "ä" * 127,
    ]
    with withstands(shared), secured(shared) as client:
        for name in names:
            reply = client.upload(os.fsencode(f"STOU {name}"), b"unique")
            assert reply.startswith("226 "), reply
            made = reply.split(" in ", 1)[1].removesuffix(".").lstrip("/")
            assert (shared.home() / made).read_bytes() == b"unique"
            begin, _, token = made.rpartition(".")
            assert name.startswith(begin) and len(token) == 8
            assert 240 < len(os.fsencode(made)) <= 255
