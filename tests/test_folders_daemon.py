"""Folders in a running daemon: reload, the sandbox, events, part files, the administrator's view."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpsd.checks import host
from ftpsd.cli.main import main
from ftpsd.storage.local.part_files import PRIVATE, part_name
from tests.admin import Admin
from tests.daemon import SECRET, Daemon
from tests.ftpclient import secured
from tests.hostile import cut, open_transfer, wait_until, withstands
from tests.outbox import JournalNow, settings, with_state
from tests.test_audit import records
from tests.test_hostile_folders import refuses
from tests.test_outbox import in_threads, kill, paused
from tests.test_sweep import DAY, leave

Make = Callable[..., Daemon]

EVERYTHING = {"on": ["upload", "delete", "rename"]}


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A directory beside the daemon's."""
    (tmp_path / "srv" / "team").mkdir(parents=True)
    return tmp_path / "srv" / "team"


def folders(**places: Any) -> dict[str, Any]:
    """Return the settings of a user with folders, by name."""
    values = {f"/{name}": {"path": str(each)} if isinstance(each, Path) else each for name, each in places.items()}
    return {"folders": values}


def test_reload_adds_and_removes_folders(make_daemon: Make, team: Path) -> None:
    """New sessions have the new folders; a session keeps those that it began with, and its uploads end in them."""
    daemon = make_daemon(users={"alice": {}, "bob": folders(team=team)})
    with withstands(daemon), secured(daemon) as before, secured(daemon, "bob") as old:
        before.expect(550, "CWD /team")
        data = open_transfer(old, "STOR /team/slow")
        daemon.users = {"alice": folders(team=team), "bob": {}}
        daemon.write()
        daemon.reload()
        with secured(daemon) as client, secured(daemon, "bob") as other:
            assert client.upload("STOR /team/new", b"new").startswith("226")
            other.expect(550, "CWD /team")
            assert b"team" not in other.download("NLST /")
        before.expect(550, "CWD /team")
        data.sendall(b"slow")
        data.unwrap().close()
        assert old.reply().startswith("226")
        assert old.download("RETR /team/new") == b"new"
    assert (team / "slow").read_bytes() == b"slow"
    daemon.users = {"alice": folders(team=team / "missing")}
    daemon.write()
    daemon.reload()
    assert "users.alice.folders./team.path" in daemon.log and "is not a directory" in daemon.log


def test_each_user_has_a_directory(make_daemon: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `{user}` in its path a folder is another directory for each user, with a quota of its own.

    `ftpsd user add` makes that of a new user, who can use it after a reload.
    """
    inbox = tmp_path / "srv" / "inbox"
    for name in ("alice", "bob"):
        (inbox / name).mkdir(parents=True)
    daemon = make_daemon({"admin": {"socket": "admin.sock"}}, start=False)
    users = daemon.users_file.read_text()
    common = json.dumps({"/inbox": {"path": str(inbox / "{user}"), "quota": {"files": 2}}})
    daemon.users_file.write_text(f"folders: {common}\n{users}")
    daemon.start()
    with withstands(daemon), secured(daemon) as alice, secured(daemon, "bob") as bob:
        for client, content in ((alice, b"alice's"), (bob, b"bob's")):
            for name in ("a", "b"):
                assert client.upload(f"STOR /inbox/{name}", content).startswith("226 ")
            client.passive_port()
            client.expect(552, "STOR /inbox/c")
        assert alice.download("RETR /inbox/a") == b"alice's"
        bob.expect(250, "DELE /inbox/a")
        assert alice.download("NLST /inbox") == b"/inbox/a\r\n/inbox/b\r\n"
    words = ["--set", f"password={SECRET}", "--home", str(daemon.home("carol"))]
    assert main(["user", "add", "carol", "-c", str(daemon.config), *words]) == 0
    assert "The daemon has loaded it." in capsys.readouterr().out
    with secured(daemon, "carol") as carol:
        assert carol.upload("STOR /inbox/a", b"carol's").startswith("226 ")
    assert (inbox / "carol" / "a").read_bytes() == b"carol's"


def test_the_sandbox_permits_folders(make_daemon: Make, team: Path, tmp_path: Path) -> None:
    """Files are read, written, moved and removed in a folder that the daemon knows when it starts."""
    daemon = make_daemon(users={"alice": folders(team=team)})
    if "landlock is on" not in daemon.log:
        pytest.skip("this kernel has no Landlock")
    assert str(team.parent) in daemon.log
    with withstands(daemon), secured(daemon) as client:
        assert client.upload("STOR f", b"data").startswith("226")
        client.expect(350, "RNFR f")
        client.expect(250, "RNTO /team/f")
        assert client.download("RETR /team/f") == b"data"
        client.expect(257, "MKD /team/d")
        client.expect(250, "RMDA /team/d")
        client.expect(250, "DELE /team/f")


def test_events_have_the_paths_of_the_user(make_daemon: Make, team: Path, tmp_path: Path) -> None:
    """Audit file and journal name files as the user does, whatever directory they are in."""
    (tmp_path / "state").mkdir()
    events = {"events": {"audit": str(tmp_path / "state/audit"), **settings(EVERYTHING)["events"]}}
    daemon = make_daemon({**events, **with_state(tmp_path / "state")}, users={"alice": folders(team=team)})
    with withstands(daemon), secured(daemon) as client:
        assert client.upload("STOR /team/f", b"data").startswith("226")
        client.expect(257, "MKD /team/d")
        client.expect(350, "RNFR /team/f")
        client.expect(250, "RNTO /g")
        client.expect(350, "RNFR /g")
        client.expect(250, "RNTO /team/d/h")
        client.expect(250, "DELE /team/d/h")
    journal = [(each["event"], each["path"]) for each in JournalNow(daemon).made]
    assert journal == [("upload", "/team/f"), ("rename", "/team/f"), ("rename", "/g"), ("delete", "/team/d/h")]
    wait_until(lambda: '"disconnect"' in (tmp_path / "state/audit").read_text(), "the end of the session")
    paths = [each["path"] for each in records(tmp_path / "state/audit") if "path" in each]
    assert paths == ["/team/f", "/team/d", "/team/f", "/g", "/team/d/h"]


@pytest.mark.parametrize("when", ["enter", "exit"])
def test_killed_while_names_in_folders_change(make_daemon: Make, team: Path, tmp_path: Path, when: str) -> None:
    """After SIGKILL the journal decides right about uploads into folders, and about moves into and out of them."""
    daemon = make_daemon(
        {**settings(EVERYTHING), **with_state(tmp_path / "state")}, users={"alice": folders(team=team)}, start=False
    )
    home = daemon.home()
    for file in (home / "leaving", team / "coming", team / "removed", team / "same"):
        file.write_bytes(b"old " * 3000)
    paused(daemon, when)
    in_threads(
        daemon,
        ("alice", ["STOR /team/fresh"], b"new"),
        ("alice", ["DELE /team/removed"], None),
        ("alice", ["RNFR /leaving", "RNTO /team/leaving"], None),
        ("alice", ["RNFR /team/coming", "RNTO /come"], None),
        ("alice", ["RNFR /team/same", "RNTO /same"], None),
    )
    changes = {"/team/fresh", "/team/removed", "/leaving", "/team/coming", "/team/same"}
    wait_until(lambda: {each["path"] for each in JournalNow(daemon).intents.values()} == changes, "all intents")
    done = when == "exit"
    if done:
        wait_until(lambda: (team / "fresh").exists() and not (team / "removed").exists(), "published, removed")
        wait_until(lambda: all(each.exists() for each in (team / "leaving", home / "come", home / "same")), "moved")
    kill(daemon)
    daemon.start()
    after = JournalNow(daemon)
    assert {after.intents[each]["path"]: made for each, made in after.decisions.items()} == dict.fromkeys(changes, done)
    assert (team / "leaving").exists() == (home / "come").exists() == (team / "fresh").exists() == done


def test_part_files_in_folders_are_swept(make_daemon: Make, team: Path) -> None:
    """Old ones go, also where only one user may upload, and they count no longer; young and locked ones stay."""
    quota = {"bytes": 10_000, "files": 100}
    old = leave(team / part_name("old"), 8 * DAY)
    young = leave(team / part_name("young"), 1)
    daemon = make_daemon(
        {"uploads": {"keep_parts": 7 * DAY}},
        users={"alice": {"folders": {"/team": {"path": str(team), "quota": quota}}}},
    )
    with withstands(daemon), secured(daemon) as client:
        wait_until(lambda: not old.exists(), "the old part file is gone")
        data = open_transfer(client, "STOR /team/file")
        data.sendall(b"some of it")
        cut(data)
        assert client.reply().startswith("426")
        assert young.exists()
        client.expect(250, "CWD /team")
        held = sum(each.stat().st_size for each in team.iterdir() if each.name.startswith(PRIVATE))
        assert f"Bytes: {held} of 10000" in client.command("SITE QUOTA")


def test_a_folder_whose_disk_fills_or_goes(make_daemon: Make, team: Path) -> None:
    """A folder whose disk is gone gives 550, and nothing else does. When the disk is back, no restart is needed."""
    daemon = make_daemon(users={"alice": folders(team=team)})
    with withstands(daemon), secured(daemon) as client:
        team.rename(team.with_name("away"))
        client.expect(550, "CWD /team")
        refuses(client, "STOR /team/f")
        assert b"team" in client.download("LIST /")
        assert client.upload("STOR /f", b"data").startswith("226")
        team.with_name("away").rename(team)
        assert client.upload("STOR /team/f", b"data").startswith("226")


def test_what_administrators_see(make_daemon: Make, team: Path, tmp_path: Path, capsys: Any) -> None:
    """The API, `ftpsd user show` and doctor show each folder of a user, with what is used of its quota."""
    (tmp_path / "state").mkdir()
    daemon = make_daemon(
        {"admin": {"socket": "admin.sock"}, **with_state(tmp_path / "state")},
        users={"alice": {"folders": {"/team": {"path": str(team), "quota": {"bytes": "1M", "files": 9}}}}},
    )
    admin = Admin(daemon.directory / "admin.sock")
    with secured(daemon) as client:
        assert client.upload("STOR /team/f", bytes(2048)).startswith("226")
    (folder,) = admin.get("users/alice")["folders"]
    assert folder == {
        "path": "/team",
        "usage": {"bytes": 2048, "files": 1},
        "quota": {"bytes": 1 << 20, "files": 9},
    }
    capsys.readouterr()
    assert main(["user", "show", "-c", str(daemon.config), "alice"]) == 0
    assert f"/team is {team}, used: 2.0 KiB of 1.0 MiB, 1 of 9 files" in capsys.readouterr().out
    assert main(["user", "show", "-c", str(daemon.config), "alice", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["folders"] == [{**folder, "directory": str(team)}]
    places = host.places(str(team))
    found = [host.home("alice", places, 1, frozenset(), "ftpsd", "folder /team", writes) for writes in (True, False)]
    texts = [each.problem for findings in found for each in findings]
    assert texts and all(text.startswith("The folder /team of alice cannot be used: ") for text in texts)
    assert os.path.isdir(team)
