"""Hostile clients in folders: each folder is a jail of its own, with its own permissions and quota."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpsd.limits.home_counts import Amount
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.local.part_files import PRIVATE
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import attempts, cut, frees_everything, open_transfer, plain_login, snapshot, wait_until, withstands
from tests.test_hostile_files import SECRET, outside, swapping, transferred

__all__ = ["outside"]

Make = Callable[..., Daemon]

QUOTA = {"bytes": 10_000_000, "files": 10_000}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of all folders."""
    return tmp_path_factory.mktemp("folders")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, certificate: Path, elsewhere: Path) -> Iterator[Daemon]:
    """A daemon whose users share folders."""
    for name in ("team", "inner", "archive", "drop", "deep"):
        (elsewhere / name).mkdir()
    team = {"path": str(elsewhere / "team"), "quota": QUOTA}
    alice: dict[str, Any] = {
        "/team": team,
        "/team/in": {"path": str(elsewhere / "inner")},
        "/archive": {"path": str(elsewhere / "archive"), "permissions": "read-only"},
        "/drop": {"path": str(elsewhere / "drop"), "permissions": "upload-only"},
        "/way/deep": {"path": str(elsewhere / "deep"), "quota": QUOTA},
    }
    users = {"alice": {"folders": alice, "quota": QUOTA}, "bob": {"folders": {"/ours": team}}}
    made = Daemon(tmp_path_factory.mktemp("daemon"), certificate, PLAIN, users).start()
    yield made
    made.stop()


def counted(client: FtpClient, directory: str) -> Amount:
    """Return what SITE QUOTA reports in a directory."""
    client.expect(250, f"CWD {directory}")
    size, files = map(int, re.findall(r": (\d+) of", client.command("SITE QUOTA")))
    return Amount(size, files)


def refuses(client: FtpClient, line: str) -> str:
    """Return the refusal of a transfer."""
    client.passive_port()
    return client.expect(550, line)


def held(place: Path) -> Amount:
    """Return what a directory holds."""
    return sum(DirectoryMeter().amounts(str(place), ()), Amount())


def miscounted(client: FtpClient, directory: str, place: Path) -> Amount:
    """Return by how much more is counted than a directory holds: tests put files there behind the daemon's back."""
    return counted(client, directory) - held(place)


# --- out of the jail -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/team", "/team/in", "/way/deep"])
def test_names_that_lead_out(daemon: Daemon, outside: Path, elsewhere: Path, folder: str) -> None:
    """No `..` or absolute name in a folder reaches more than the tree of the user."""
    before = snapshot(outside), snapshot(elsewhere / "archive")
    up = os.path.relpath(outside, elsewhere / "team")
    with withstands(daemon), secured(daemon) as client:
        for path in (
            up,
            str(outside),
            f"{folder}/{up}",
            f"{folder}/../../{up}",
            "../archive",
            "../drop",
            "..\\archive",
        ):
            client.expect(250, f"CWD {folder}")
            assert SECRET.decode() not in attempts(client, f"{path}/secret")
            client.expect(250, f"CWD {folder}")
            client.command(f"RNFR {path}/secret")
            client.command("RNTO stolen")
            client.command(f"RMDA {path}/folder")
    assert (snapshot(outside), snapshot(elsewhere / "archive")) == before


@pytest.mark.parametrize("kind", ["absolute", "relative", "to a file", "to the home", "to a folder", "proc"])
def test_links_that_lead_out(daemon: Daemon, outside: Path, elsewhere: Path, kind: str) -> None:
    """No command follows a link from a folder to what lies outside of it, even if the user may go there directly."""
    (daemon.home() / "secret").write_bytes(SECRET)
    (elsewhere / "inner" / "secret").write_bytes(SECRET)
    link = elsewhere / "team" / f"link-{kind.split()[-1]}"
    link.symlink_to(
        {
            "absolute": outside,
            "relative": os.path.relpath(outside, link.parent),
            "to a file": outside / "secret",
            "to the home": daemon.home(),
            "to a folder": elsewhere / "inner",
            "proc": f"/proc/self/root{outside}",
        }[kind]
    )
    before = snapshot(outside), snapshot(daemon.home())
    with withstands(daemon), secured(daemon) as client:
        for name in (f"/team/{link.name}", f"/team/{link.name}/secret"):
            assert SECRET.decode() not in attempts(client, name)
        assert str(outside) not in client.download("LIST /team").decode()
        client.expect(350, f"RNFR /team/{link.name}")
        client.expect(250, f"RNTO /moved-{link.name}")  # the link itself is moved, and leads nowhere there
        attempts(client, f"/moved-{link.name}/secret")
        if kind != "to the home":
            assert SECRET.decode() not in attempts(client, f"/moved-{link.name}/secret")
        client.expect(250, f"DELE /moved-{link.name}")
    (daemon.home() / "made").exists()
    assert snapshot(outside) == before[0]


def test_links_swapped_in_between(daemon: Daemon, outside: Path, elsewhere: Path) -> None:
    """A directory in a folder that turns into a link between check and use never lets a client out."""
    inner = elsewhere / "team" / "race"
    (inner / "folder").mkdir(parents=True)
    (inner / "secret").write_bytes(b"inside")
    before, reached = snapshot(outside), 0
    with withstands(daemon), swapping(inner, outside), plain_login(daemon) as client:
        for number in range(60):
            client.send("MLST team/race/secret", "SIZE team/race/secret", f"MKD team/race/made{number}")
            client.send("MFMT 20200101000000 team/race/secret", "RNFR team/race/made0", "RNTO stolen")
            replies = [client.reply() for _ in range(6)]
            assert f"size={len(SECRET)};" not in replies[0]
            assert str(len(SECRET)) != replies[1].split()[-1]
            client.upload(f"STOR mine{number}", b"mine")
            client.expect(350, f"RNFR mine{number}")
            client.command(f"RNTO team/race/moved{number}")
            for line in ("RETR team/race/secret", "LIST -R team", f"STOR team/race/new{number}"):
                content = transferred(client, line)
                assert SECRET not in content
                reached += content == b"inside"
            client.command("RMDA team/race/folder")
    assert reached
    assert snapshot(outside) == before


def test_the_way_to_a_folder_is_swapped(daemon: Daemon, outside: Path, elsewhere: Path) -> None:
    """A directory of the home that leads to a folder may be a link, a file or nothing: the folder is reached always."""
    (elsewhere / "deep" / "file").write_bytes(b"in the folder")
    (daemon.home() / "way").mkdir(exist_ok=True)
    with withstands(daemon), swapping(daemon.home() / "way", outside), plain_login(daemon) as client:
        for _ in range(50):
            client.expect(250, "CWD /way/deep")
            assert client.download("RETR /way/deep/file") == b"in the folder"
            assert "/way/deep" in client.download("NLST /way").decode().split()
            assert SECRET.decode() not in client.command("STAT -R /way")
            client.expect(250, "CWD /way")
            client.command("SIZE /way/secret")
    (daemon.home() / "way").rmdir()
    with secured(daemon) as client:
        client.expect(250, "CWD /way")
        assert client.download("NLST").decode().split() == ["deep"]
        assert "/way contains only folders of the server" in refuses(client, "STOR new")


# --- what must stay as it is ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/team", "/team/in", "/archive", "/way", "/way/deep", "/team/../team", "team/."])
def test_folders_stay(daemon: Daemon, elsewhere: Path, path: str) -> None:
    """No command removes, renames, replaces or changes a folder or what leads to it. The reply says why."""
    (daemon.home() / "mine").write_bytes(b"mine")
    before = [snapshot(elsewhere / name) for name in ("team", "inner", "archive", "deep")]
    with withstands(daemon), secured(daemon) as client:
        for line in ("RMD", "RMDA", "DELE", "MFMT 20200101000000", "SITE CHMOD 000", "MKD"):
            reply = client.expect(550, f"{line} {path}")
            assert "folder of the server" in reply or line == "MKD" or "no permission" in reply, (line, reply)
        client.expect(550, f"MFF UNIX.mode=000; {path}")
        client.command(f"RNFR {path}")
        assert "folder" in client.command("RNTO /away") or path == "/archive"
        client.expect(350, "RNFR mine")
        client.expect(550 if path == "/archive" else 553, f"RNTO {path}")
        for line in ("STOR", "APPE", "RETR"):
            refuses(client, f"{line} {path}")
        assert client.download("NLST /").decode().split("\r\n")[:-1].count("/team") == 1
    assert [snapshot(elsewhere / name) for name in ("team", "inner", "archive", "deep")] == before


def test_permissions_of_folders(daemon: Daemon, elsewhere: Path) -> None:
    """A read-only folder changes by no command, and an upload-only one shows nothing."""
    (elsewhere / "archive" / "file").write_bytes(b"kept")
    (elsewhere / "drop" / "file").write_bytes(SECRET)
    before = snapshot(elsewhere / "archive")
    with withstands(daemon), secured(daemon) as client:
        attempts(client, "/archive/file")
        attempts(client, "/archive/new")
        for line in ("DELE /archive/file", "RMDA /archive/file", "MKD /archive/d", "RNFR /archive/file"):
            client.expect(550, line)
        assert client.download("RETR /archive/file") == b"kept"
        said = attempts(client, "/drop/file")
        assert SECRET.decode() not in said and str(len(SECRET)) not in re.findall(r"size=(\d+)", said)
        assert client.upload("STOR /drop/new", b"new").startswith("226")
        refuses(client, "MLSD /drop")
        assert client.upload("STOU /drop/new", b"new").startswith("226")
        assert b"/drop" not in client.download("LIST -R /").split(b"\r\n")
    assert snapshot(elsewhere / "archive") == before
    assert (elsewhere / "drop" / "new").read_bytes() == b"new"


def test_uploads_into_folders_are_hidden_until_they_are_complete(daemon: Daemon, elsewhere: Path) -> None:
    """Nobody sees a part file; one that was cut is resumed by whoever may upload there, and counts for the quota."""
    with withstands(daemon), frees_everything(daemon):
        with secured(daemon) as client, secured(daemon, "bob") as other:
            before = miscounted(client, "/team", elsewhere / "team")
            data = open_transfer(client, "STOR /team/unfinished")
            data.sendall(b"first ")
            wait_until(lambda: any(each.startswith(PRIVATE) for each in os.listdir(elsewhere / "team")), "a part file")
            for line in ("LIST -aR /", "NLST -a /ours", "MLSD /ours", "LIST /ours/.f*"):
                listing = other.download(line).decode()
                assert PRIVATE not in listing and "unfinished" not in listing
            (part,) = [each for each in os.listdir(elsewhere / "team") if each.startswith(PRIVATE)]
            for line in ("SIZE", "DELE", "RNFR", "MLST", "RMDA"):
                other.expect(550, f"{line} /ours/{part}")
            other.expect(550, "SIZE /ours/unfinished")
            cut(data)
            assert client.reply().startswith("426")
            assert "X.incomplete=1" in other.command("MLST /ours/unfinished")
            assert other.expect(213, "SIZE /ours/unfinished") == "213 6"
            other.expect(350, "REST 6")
            assert other.upload("STOR /ours/unfinished", b"second").startswith("226")
            assert miscounted(client, "/team", elsewhere / "team") == before
            assert client.download("RETR /team/unfinished") == b"first second"
            client.expect(250, "DELE /team/unfinished")


# --- several at once -----------------------------------------------------------------------------------


def test_moves_and_uploads_of_two_users_count_exactly(daemon: Daemon, elsewhere: Path) -> None:
    """Files go to and fro between home and folders in several sessions at once, and no quota goes wrong or waits."""
    errors: list[BaseException] = []

    def move(user: str, name: str, places: list[str]) -> None:
        try:
            with secured(daemon, user) as client:
                client.upload(f"STOR {places[0]}/{name}", bytes(1000))
                for turn in range(40):
                    old, new = places[turn % len(places)], places[(turn + 1) % len(places)]
                    client.expect(350, f"RNFR {old}/{name}")
                    client.expect(250, f"RNTO {new}/{name}")
                    if turn % 8 == 0:
                        client.upload(f"APPE {new}/{name}", bytes(5000))
        except BaseException as error:
            errors.append(error)

    works = [
        ("alice", "a1", ["", "/team"]),
        ("alice", "a2", ["/team", ""]),
        ("alice", "a3", ["/team", "/way/deep", "/team/in", ""]),
        ("bob", "b1", ["", "/ours"]),
        ("bob", "b2", ["/ours", ""]),
    ]
    threads = [threading.Thread(target=move, args=work) for work in works]
    places = {"/": daemon.home(), "/team": elsewhere / "team", "/way/deep": elsewhere / "deep"}
    with withstands(daemon):
        with secured(daemon) as client:
            for path in places:
                client.upload(f"STOR {path}/kept", bytes(10_000))  # so that no count would be less than nothing
            before = {path: miscounted(client, path, place) for path, place in places.items()}
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "two sessions wait for each other"
        assert not errors, errors
        with secured(daemon) as client:
            assert {path: miscounted(client, path, place) for path, place in places.items()} == before
            assert "No quota" in (client.expect(250, "CWD /team/in"), client.command("SITE QUOTA"))[1]


def test_abort_during_walks_in_folders(daemon: Daemon, elsewhere: Path) -> None:
    """ABOR ends RMDA and STAT -R in a folder, and in a directory with folders; what was removed is not counted."""
    for number in range(3000):
        (elsewhere / "deep" / "tree" / f"d{number}").mkdir(parents=True)
    with withstands(daemon), plain_login(daemon) as client:
        client.expect(250, "CWD /way/deep")
        for line in ("RMDA tree", "STAT -R /"):
            client.send_raw(line.encode() + b"\r\nABOR\r\n")
            first = client.reply()
            assert first.startswith(("426", "250", "213")), first
            assert client.reply().startswith("226")
        client.command("RMDA tree")
        assert not (elsewhere / "deep" / "tree").exists()
