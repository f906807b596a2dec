"""Durable events: the journal has each change that a rule wants and that was made, and no other, whatever crashes."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftpsd.config import load
from ftpsd.events.durable_ids import DurableIds
from ftpsd.outbox import claims
from ftpsd.outbox.evidence import Home, Lost, Undecidable, appended, home_at, moved, was_made
from ftpsd.outbox.journal import Journal
from ftpsd.outbox.segments import from_line, to_line
from ftpsd.storage.local.part_files import PRIVATE
from tests.admin import Admin
from tests.daemon import PATIENCE, Daemon, merge
from tests.ftpclient import secured
from tests.hostile import wait_until
from tests.outbox import JournalNow, settings, with_state
from tests.test_files import SESSION
from tests.test_killed import Uploader
from tests.test_publishing import store

Make = Callable[..., Daemon]

EVERYTHING = {"on": ["upload", "delete", "rename"]}

#: bob may not overwrite, so his uploads get their names in another way.
USERS: dict[str, Any] = {"alice": {}, "bob": {"permissions": ["upload", "list"]}}


@pytest.fixture
def make(make_daemon: Make, tmp_path: Path) -> Make:
    """Make a daemon with these rules and a state directory."""

    def made(*rules: dict[str, Any], more: dict[str, Any] | None = None, **keywords: Any) -> Daemon:
        wanted = merge(merge(settings(*rules), with_state(tmp_path / "state")), more or {})
        return make_daemon(wanted, keywords.pop("users", USERS), **keywords)

    return made


# --- what is written -------------------------------------------------------------------------------


def test_events_of_rules_are_written(make: Make) -> None:
    """The journal has what a rule wants: by event, user and path; uploads, removals and renames with their decisions."""
    rules = [
        {"on": ["upload", "delete"], "users": ["alice"], "paths": ["/in/*.csv", "/deep/**"]},
        {"on": ["rename", "login", "upload_failed", "mkdir"], "users": ["bob"]},
    ]
    daemon = make(*rules, users={"alice": {}, "bob": {}})
    with secured(daemon) as client:
        for name in ("in", "deep", "deep/er"):
            client.expect(257, f"MKD {name}")
        for name in ("in/a.csv", "in/a.txt", "deep/er/b", "c.csv"):
            assert client.upload(f"STOR {name}", b"content of " + name.encode()).startswith("226 ")
        assert client.upload("APPE in/a.csv", b", more").startswith("226 ")
        client.expect(250, "DELE in/a.csv")
        client.expect(250, "DELE in/a.txt")
        client.expect(550, "DELE deep/nothing")
    with secured(daemon, "bob") as client:
        assert client.upload("STOR x", b"x").startswith("226 ")
        client.expect(350, "RNFR x")
        client.expect(250, "RNTO y")
        client.expect(257, "MKD sub")
    wait_until(lambda: len(JournalNow(daemon).others) == 2, "login and mkdir of bob")
    journal = JournalNow(daemon)
    assert not journal.undecided
    in_order = sorted(journal.made, key=lambda each: each["time"])  # each worker has a journal of its own
    made = [(each["event"], each["path"], each.get("bytes"), each.get("size")) for each in in_order]
    assert made == [
        ("upload", "/in/a.csv", 19, 19),
        ("upload", "/deep/er/b", 20, 20),
        ("upload", "/in/a.csv", 6, 25),
        ("delete", "/in/a.csv", None, None),
        ("rename", "/x", None, None),
    ]
    assert [each["event"] for each in journal.others] == ["login", "mkdir"]
    assert {each["user"] for each in journal.others} == {"bob"}
    assert in_order[-1]["new_path"] == "/y"


def test_bans_of_administrators_are_written(make: Make) -> None:
    """A rule for `ban` and `unban` gets the bans that an administrator adds and lifts, with what was done."""
    with tempfile.TemporaryDirectory(prefix="ftpsd-") as short:
        socket = Path(short) / "admin.sock"
        daemon = make({"on": ["ban", "unban", "admin"]}, more={"admin": {"socket": str(socket)}})
        api = Admin(socket)
        api.post("bans", {"address": "192.0.2.0/24", "seconds": 3600}, 201)
        assert api.delete("bans", address="192.0.2.0/24") == {"lifted": 1}
    wait_until(lambda: len(JournalNow(daemon).others) == 4, "two bans and two acts")
    bans = [each for each in JournalNow(daemon).others if each["event"] != "admin"]
    assert [(each["event"], each["subject"], each.get("seconds")) for each in bans] == [
        ("ban", "192.0.2.0/24", 3600),
        ("unban", "192.0.2.0/24", None),
    ]


@pytest.mark.parametrize(
    ("on", "paths", "warning"),
    [
        (["upload", "download_failed", "rename", "mtime"], ["/in/**", "/*.csv", "/a b/?"], ""),
        (["login", "upload", "ban"], [], ""),
        (["upload"], ["/in/"], "no path matches “/in/” in events.rules[0]: write /in/** for all below /in"),
        (["upload"], ["/in/**", "/in/../out/*"], "no path matches “/in/../out/*” in events.rules[0]"),
        (["upload"], ["/in//*"], "no path matches “/in//*”"),
        (["login", "upload", "ban"], ["/in/**"], "has paths, and login and ban never match it: they have no path"),
    ],
)
def test_rules_that_wait_in_vain(make: Make, on: list[str], paths: list[str], warning: str) -> None:
    """A rule that no event can match would deliver nothing and say nothing: it is a warning."""
    daemon = make({"on": on, "paths": paths, "exec": ["/bin/true"]}, start=False)
    found = [str(each) for each in load.warnings(load.load(daemon.config), 0) if "events.rules" in str(each)]
    assert (len(found), warning in "".join(found)) == (1 if warning else 0, True)


def test_nothing_is_written_without_rules(make: Make) -> None:
    """Without rules there is no journal at all."""
    daemon = make()
    with secured(daemon) as client:
        assert client.upload("STOR a", b"a").startswith("226 ")
    assert not (Path(daemon.settings["state"]["directory"]) / "events").exists()


def test_a_stopped_daemon_leaves_nothing_to_decide(make: Make) -> None:
    """After a graceful stop no lock is left, and what the hub published last is in the journal."""
    daemon = make(EVERYTHING, {"on": ["stop", "disconnect"]})
    with secured(daemon) as client:
        assert client.upload("STOR a", b"a").startswith("226 ")
        daemon.stop()
    journal = JournalNow(daemon)
    assert [each["path"] for each in journal.made] == ["/a"]
    assert [each["event"] for each in journal.others] == ["stop", "disconnect"]
    assert not journal.locks


def test_changes_with_fsync(make: Make) -> None:
    """With `uploads.fsync`, renames and removals are made and written, also between directories."""
    daemon = make(EVERYTHING, more={"uploads": {"fsync": True}})
    with secured(daemon) as client:
        client.expect(257, "MKD in")
        assert client.upload("STOR a", b"a").startswith("226 ")
        for old, new in (("a", "b"), ("b", "in/c")):
            client.expect(350, f"RNFR {old}")
            client.expect(250, f"RNTO {new}")
        client.expect(250, "DELE in/c")
    made = [(each["event"], each["path"]) for each in JournalNow(daemon).made]
    assert made == [("upload", "/a"), ("rename", "/a"), ("rename", "/b"), ("delete", "/in/c")]


def test_decisions_are_on_the_disk_before_the_lock_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `uploads.fsync`, a crash after a graceful stop cannot leave intents without both decision and lock."""
    order: list[str] = []
    for name in ("write", "fdatasync", "unlink"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, call=call, name=name, **k: (order.append(name), call(*a, **k))[1])
    journal = Journal(DurableIds())
    journal.configure(1 << 20, fsync=True)
    journal.start(tmp_path / "events")
    identity = journal.identity()
    journal.add_intent(identity, to_line({"intent": identity}))
    assert journal.decide(identity, made=True)
    journal.stop()
    assert order == ["write", "fdatasync", "write", "fdatasync", "unlink"]


def test_a_damaged_line_is_left_out() -> None:
    """A line that was cut, or has other bytes than were written, has no entry."""
    line = to_line({"intent": "1", "record": {"path": "/\udcff\n"}})
    assert from_line(line) == {"intent": "1", "record": {"path": "/\udcff\n"}}
    assert line.count(b"\n") == 1
    for damaged in (line[:-2], line[:8], b"", b"\n", line.replace(b"intent", b"intend"), b"00000000 []\n"):
        assert from_line(damaged) is None


# --- the evidence -------------------------------------------------------------------------------------


def test_evidence(tmp_path: Path) -> None:
    """A change was made if the new name has the inode, also in a directory that was renamed, or if neither has it."""
    home = Home(str(tmp_path), tmp_path.stat().st_ino)
    directory = tmp_path / "in"
    directory.mkdir()
    part, file = directory / "part", directory / "file"
    part.write_bytes(b"new")
    proof = moved(home, part.stat().st_ino, "part", str(file))
    removal = moved(home, part.stat().st_ino, str(part), None)
    file.write_bytes(b"old")
    assert not was_made(proof) and not was_made(removal)
    directory.rename(tmp_path / "elsewhere")
    assert not was_made(proof) and not was_made(removal)
    directory.mkdir()
    assert not was_made(proof)
    (tmp_path / "elsewhere/part").rename(tmp_path / "elsewhere/file")
    assert was_made(proof) and was_made(removal)
    os.link(tmp_path / "elsewhere/file", tmp_path / "elsewhere/part")  # killed between link() and unlink()
    assert was_made(proof)
    shutil.rmtree(tmp_path / "elsewhere")
    assert was_made(proof) and was_made(removal)
    with pytest.raises(Undecidable):
        was_made({**proof, "home": [str(tmp_path / "unmounted"), home.mark]})
    with pytest.raises(Undecidable):
        was_made({**proof, "home": [str(directory), home.mark]})


def test_evidence_without_inode_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that numbers its files anew when it is mounted, a change was made if the old name is gone."""
    monkeypatch.setattr("ftpsd.outbox.evidence.type_of", lambda device: "vfat")
    home, part, file = home_at(str(tmp_path)), tmp_path / "part", tmp_path / "file"
    proof, rename = moved(home, 1, "part", str(file)), moved(home, 1, str(part), str(file))
    removal = moved(home, 1, str(part), None)
    part.write_bytes(b"new")
    file.write_bytes(b"old")
    assert not was_made(proof) and not was_made(rename) and not was_made(removal)
    part.rename(file)
    assert was_made(proof) and was_made(rename) and was_made(removal)
    file.write_bytes(b"oldnew")
    assert was_made(appended(home, 1, str(file), 3, b"new"))
    directory = tmp_path / "in"
    directory.mkdir()
    unpublished = moved(home, 1, "part2", str(directory / "file2"))
    (directory / "part2").write_bytes(b"new")
    directory.rename(tmp_path / "elsewhere")
    assert not was_made(unpublished)
    monkeypatch.undo()
    with pytest.raises(Undecidable):  # it is not mounted
        was_made(proof)


def test_evidence_of_bytes_in_place(tmp_path: Path) -> None:
    """A few bytes that were appended in place are there, or not; nobody knows of a file that was replaced."""
    home, file = Home(str(tmp_path), tmp_path.stat().st_ino), tmp_path / "file"
    file.write_bytes(b"old")
    proof = appended(home, file.stat().st_ino, str(file), 3, b"new")
    assert not was_made(proof)
    file.write_bytes(b"oldother")
    assert not was_made(proof)
    file.write_bytes(b"oldnew and later ones")
    assert was_made(proof)
    other = tmp_path / "other"
    other.write_bytes(b"oldnew")
    other.rename(file)
    with pytest.raises(Lost):
        was_made(proof)


def test_a_home_whose_disk_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions in other homes do not wait for it."""
    answers, asked = threading.Event(), threading.Event()

    def slowly(path: str) -> Home:
        if path.endswith("slow"):
            asked.set()
            answers.wait(PATIENCE)
        return home_at(path)

    monkeypatch.setattr(claims, "home_at", slowly)
    unused: Any = None
    slow, other = (claims.SessionJournal(unused, unused, SESSION, str(tmp_path / name)) for name in ("slow", "other"))
    for each in (slow, other):
        Path(each._path).mkdir()
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(lambda: slow.home)
        assert asked.wait(PATIENCE)
        try:
            assert threads.submit(lambda: other.home).result(PATIENCE / 2) == home_at(str(tmp_path / "other"))
            assert not waiting.done()
        finally:
            answers.set()
        assert waiting.result(PATIENCE) == home_at(str(tmp_path / "slow"))


# --- when it cannot be written ------------------------------------------------------------------------


def test_a_full_journal_refuses_uploads(make: Make) -> None:
    """When the journal is full, uploads that a rule wants get 452 and can be resumed; others are served."""
    daemon = make({"on": ["upload"], "paths": ["/in/**"]}, more={"events": {"journal_size": "1M"}}, start=False)
    journal = Path(daemon.settings["state"]["directory"]) / "events"
    journal.mkdir()
    filler = journal / f"{1:024x}-000001.events"
    filler.write_bytes(b"0" * (1 << 20))
    daemon.start()
    with secured(daemon) as client:
        client.expect(257, "MKD in")
        assert store(client, "STOR in/a", b"wanted").startswith("452 ")
        assert client.upload("STOR b", b"not wanted").startswith("226 ")
        assert not (daemon.home() / "in/a").exists()
        filler.unlink()  # the deliverer has caught up
        time.sleep(1.1)
        client.expect(350, "REST 6")
        assert client.upload("STOR in/a", b"").startswith("226 ")
    assert [(each["path"], each["size"]) for each in JournalNow(daemon).made] == [("/in/a", 6)]


# --- when the daemon is killed ------------------------------------------------------------------------


def paused(daemon: Daemon, when: str) -> Daemon:
    """Start a daemon in which everything that changes a name waits, before or after it is done."""
    if shutil.which("strace") is None or subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode:
        pytest.skip("strace is not to be had")
    calls = "renameat,renameat2,unlinkat"
    command = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", str(daemon.directory / "strace")]
    return daemon.start((*command, "-e", f"trace={calls}", "-e", f"inject={calls}:delay_{when}=60000000"))


def in_threads(daemon: Daemon, *sessions: tuple[str, list[str], bytes | None]) -> None:
    """Let each user send commands in a session of its own; the last one is an upload if there is content."""

    def run(user: str, lines: list[str], content: bytes | None) -> None:
        try:
            with secured(daemon, user) as client:
                for line in lines[:-1]:
                    client.command(line)
                client.upload(lines[-1], content) if content is not None else client.command(lines[-1])
        except (OSError, AssertionError):
            pass  # the daemon was killed

    for session in sessions:
        threading.Thread(target=run, args=session, daemon=True).start()


@pytest.mark.parametrize("when", ["enter", "exit"])
def test_killed_between_intent_and_decision(make: Make, when: str) -> None:
    """A daemon that is killed after the intent decides at its start: void before the change of the name, else done."""
    daemon = make(EVERYTHING, start=False)
    home = daemon.home()
    for name in ("replaced", "grown", "removed", "renamed"):
        (home / name).write_bytes(b"old " * 3000)
    paused(daemon, when)
    in_threads(
        daemon,
        ("alice", ["STOR fresh"], b"new"),
        ("alice", ["STOR replaced"], b"new"),
        ("alice", ["APPE grown"], b"new" * 3000),
        ("alice", ["DELE removed"], None),
        ("alice", ["RNFR renamed", "RNTO moved"], None),
        ("bob", ["STOR own"], b"new"),
    )
    changes = {"/fresh", "/replaced", "/grown", "/removed", "/renamed", "/own"}
    wait_until(lambda: {each["path"] for each in JournalNow(daemon).intents.values()} == changes, "all intents")
    done = when == "exit"
    if done:
        wait_until(lambda: (home / "moved").exists() and not (home / "removed").exists(), "renamed and removed")
        wait_until(lambda: (home / "fresh").exists() and (daemon.home("bob") / "own").exists(), "published")
        wait_until(lambda: (home / "replaced").read_bytes() == b"new", "replaced")
        wait_until(lambda: (home / "grown").stat().st_size == 21000, "grown")
    before = JournalNow(daemon)
    assert before.undecided == set(before.intents)
    kill(daemon)
    daemon.start()
    after = JournalNow(daemon)
    assert {after.intents[each]["path"]: made for each, made in after.decisions.items()} == dict.fromkeys(changes, done)
    assert (home / "moved").exists() == done == (not (home / "removed").exists()) == (home / "fresh").exists()
    daemon.stop()
    assert not JournalNow(daemon).locks


def kill(daemon: Daemon) -> None:
    """SIGKILL, also for a tracer: a thread that it delays would end with the delay only."""
    assert daemon.process is not None
    match = re.search(r"TracerPid:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())
    daemon.process.kill()
    if match is not None and int(match[1]):
        os.kill(int(match[1]), signal.SIGKILL)
    daemon.process.wait()


def test_killed_during_uploads(make: Make) -> None:
    """After SIGKILL at any instant, exactly the uploads that were published are events, each of them once."""
    chance, window = random.Random(11), 0.03
    daemon = make({"on": ["upload"]}, more={"uploads": {"fsync": True}})
    for turn in range(4):
        lines = [
            ("alice", f"STOR s{turn}"),
            ("alice", f"APPE a{turn}"),
            ("bob", f"STOR n{turn}"),
            ("alice", "STOR same"),
        ]
        (daemon.home() / f"a{turn}").write_bytes(b"begin")
        contents = [chance.randbytes(300_000) for _ in lines]
        uploads = [Uploader(daemon, *line, content) for line, content in zip(lines, contents, strict=True)]
        for upload in uploads:
            upload.started.wait(PATIENCE)
        time.sleep(chance.uniform(0, window))
        kill(daemon)
        daemon.start()
        made = [each["path"] for each in JournalNow(daemon).made]
        for (user, line), content, upload in zip(lines, contents, uploads, strict=True):
            upload.join(PATIENCE)
            name = line.partition(" ")[2]
            path = daemon.home(user) / name
            published = path.exists() and path.read_bytes().endswith(content)
            assert not upload.reply.startswith("226") or published
            if name != "same":
                assert made.count(f"/{name}") == published, (name, upload.reply)
        assert not JournalNow(daemon).undecided
        share = sum(upload.reply.startswith("226") for upload in uploads) / len(uploads)
        window *= 0.7 if share > 0.5 else 1.4
    assert not list(daemon.home().glob(PRIVATE + "*-*-*"))


def test_a_daemon_that_stops_decides_its_own(make: Make, certificate: Path) -> None:
    """A new daemon leaves the intents of one that still runs alone, and decides them when that one was killed."""
    old = make(EVERYTHING, start=False)
    paused(old, "enter")
    in_threads(old, ("alice", ["STOR slow"], b"slow"))
    wait_until(lambda: bool(JournalNow(old).intents), "the intent")
    new = Daemon(old.directory.parent, certificate, settings(EVERYTHING), USERS)
    new.settings["state"] = old.settings["state"]
    new.write()
    new.start()
    try:
        assert len(JournalNow(old).undecided) == 1
        kill(old)
        wait_until(lambda: not JournalNow(old).undecided, "decided by the other daemon")
        assert list(JournalNow(old).decisions.values()) == [False]
    finally:
        new.stop()
