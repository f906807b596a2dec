"""Folders: trees from elsewhere in the tree of a user. `tests/test_files.py` runs every promise of storage in folders."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.config.sections.folders import FolderSettings
from ftpsd.config.settings import Pattern, Quantity, QuotaSettings, UserNames, UserSettings
from ftpsd.limits.home_counts import Amount
from ftpsd.limits.local_home_counts import LocalHomeCounts
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.permissions import PERMISSIONS, PROFILES, Parts
from ftpsd.protocol.replies import Reply
from ftpsd.storage.backend import Files
from ftpsd.storage.folders.mounts import mounts_of
from ftpsd.storage.folders.tree import PATIENCE, FolderTrees
from ftpsd.storage.local.files import LocalBackend
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.quota import Quotas
from tests.inprocess import DirectCalls
from tests.test_files import SESSION, Person, cut, fails, names, path, read, refused, result, send, store


class Disk:
    """A home and other directories, and a user who sees some of these as folders."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.clock = Clock()
        self.limits: dict[str, QuotaSettings] = {}
        workers: Any = DirectCalls()
        self.quotas = Quotas(self.clock, workers, DirectoryMeter(), LocalHomeCounts())
        self.backend = LocalBackend(workers, self.quotas, fsync=False)
        self.trees = FolderTrees(self.backend, lambda folder: self.backend, workers, self.clock, 1_700_000_000.0)
        self.home = self.directory("home")

    def directory(self, name: str) -> Path:
        """Make a directory."""
        (self.base / name).mkdir(parents=True, exist_ok=True)
        return self.base / name

    def limit(self, name: str, bytes: int | None = None, files: int | None = None) -> QuotaSettings:
        """Return a quota, and count the directory from now on."""
        quota = self.limits[str(self.directory(name))] = QuotaSettings(
            None if bytes is None else Quantity(bytes), files
        )
        self.quotas.keep(set(self.limits), set(self.limits))
        return quota

    def folder(self, name: str, permissions: str | frozenset[str] | None = None, quota: Any = None) -> FolderSettings:
        """Return the settings of a folder."""
        allowed = PROFILES[permissions] if isinstance(permissions, str) else permissions
        return FolderSettings(str(self.directory(name)), permissions=allowed, quota=quota or QuotaSettings())

    def user(self, folders: dict[str, FolderSettings], **settings: Any) -> Person:
        """Return a user with folders, by their paths."""
        by_parts: dict[Parts, FolderSettings] = {path(at).parts: folder for at, folder in folders.items()}
        return Person("alice", UserSettings(folders=by_parts, **{"home": str(self.home), **settings}))

    def open(self, folders: dict[str, FolderSettings], **settings: Any) -> Files:
        """Return the files of such a user."""
        return result(self.trees.open(self.user(folders, **settings), SESSION))

    def held(self, name: str) -> Amount:
        """Return what a directory holds."""
        return sum(DirectoryMeter().amounts(str(self.base / name), ()), Amount())

    def counted(self, name: str) -> Amount | None:
        """Return what is counted there."""
        return self.quotas.counted(str(self.base / name))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A home, and room for folders."""
    return Disk(tmp_path)


def listed(files: Files, where: str = "/", **request: Any) -> list[str]:
    """Return the names of a listing, with the headings of -R."""
    source = files.listing(path(where), ListRequest(path="", **request), lambda entry: entry.name)()
    try:
        return b"".join(bytes(piece) for piece in source).decode().split("\r\n")[:-1]
    finally:
        source.close()


# --- names ---------------------------------------------------------------------------------------------


def test_a_user_without_folders_gets_the_files_of_the_home(disk: Disk) -> None:
    """There is nothing between the session and the home."""
    assert type(disk.open({})) is type(result(disk.backend.open(disk.user({}), SESSION)))


def test_folders_are_listed_in_their_parents(disk: Disk) -> None:
    """Folders are listed among all names, with -R, -d, -a and patterns, also where the home has no directory."""
    (disk.home / "docs").mkdir()
    (disk.home / "notes").write_bytes(b"mine")
    files = disk.open({"/many": disk.folder("srv/many"), "/a/b/c": disk.folder("srv/c"), "/docs/in": disk.folder("in")})
    store(files.writer(path("many/f")), b"data")
    store(files.writer(path("a/b/c/g")), b"data")
    assert (disk.base / "srv/many/f").read_bytes() == (disk.base / "srv/c/g").read_bytes() == b"data"
    assert names(files) == ["a", "docs", "many", "notes"]
    assert listed(files, reverse=True) == ["notes", "many", "docs", "a"]
    assert listed(files, all=True) == [".", "..", "a", "docs", "many", "notes"]
    assert names(files, "a") == ["b"]
    assert listed(files, "a", all=True) == [".", "..", "b"]
    assert names(files, "a/b") == ["c"]
    assert names(files, "a/b/c") == ["g"]
    assert names(files, "docs") == ["in"]
    assert listed(files, "m*") == ["/many"]
    assert listed(files, "a/b/?") == ["/a/b/c"]
    assert listed(files, "many", directory=True) == ["many"]
    assert listed(files, "a", directory=True) == ["a"]
    deep = listed(files, recursive=True)
    headings = {line for line in deep if line.endswith(":")}
    assert headings == {"/a:", "/a/b:", "/a/b/c:", "/docs:", "/docs/in:", "/many:"}
    assert sorted(line for line in deep if line and not line.endswith(":")) == sorted(
        ["a", "docs", "many", "notes", "b", "c", "g", "in", "f"]
    )
    first = result(files.first_entries(path("/"), ListRequest(path=""), 2))
    assert [each.name for each in first] == ["a", "docs"]


def test_directories_that_lead_to_a_folder_need_not_exist(disk: Disk) -> None:
    """A directory that only leads to a folder can be entered. Nothing can be added to it, and the reply says why."""
    files = disk.open({"/a/b": disk.folder("b")})
    result(files.require_directory(path("a")))
    found = result(files.entry(path("a"), "list"))
    assert found.is_directory
    assert found.modified == 1_700_000_000.0
    assert result(files.available_space(path("a"))) == result(files.free_space(path("a"))) == 0
    refused(550, lambda: result(files.make_directory(path("a/new"))))
    refused(550, lambda: files.writer(path("a/new"))())
    store(files.writer(path("f")), b"data")
    refused(550, lambda: result(files.rename(path("f"), path("a/f"))))
    refused(550, lambda: files.reader(path("a"), 0, None)())
    refused(550, lambda: result(files.size(path("a"))))
    fails(errno.ENOENT, files.entry(path("a/x"), "list"))
    (disk.home / "a").mkdir()  # once it exists it is a directory like others
    store(files.writer(path("a/new")), b"data")
    assert names(files, "a") == ["b", "new"]
    assert read(files, "a/new") == b"data"


def test_a_folder_hides_what_has_its_name(disk: Disk) -> None:
    """A file or directory of the home with the name is not seen, not even through a link, nor a cut upload of it."""
    (disk.home / "d").mkdir()
    (disk.home / "d" / "secret").write_bytes(b"hidden")
    (disk.home / "link").symlink_to(".")
    before = disk.open({})
    cut(before.writer(path("e")), b"half")
    files = disk.open(
        {"/d": disk.folder("d"), "/e": disk.folder("e"), "/f/g": disk.folder("g"), "/h/i": disk.folder("i")}
    )
    (disk.home / "f").write_bytes(b"in the way")
    assert names(files) == ["d", "e", "f", "h", "link"]
    assert names(files, "d") == names(files, "e") == []
    assert not result(files.entry(path("e"), "list")).incomplete
    assert names(files, "f") == ["g"]
    for name in ("d/secret", "link/d/secret", "link/d", "link/link/d/secret"):
        with pytest.raises(FileNotFoundError):
            files.reader(path(name), 0, None)()
    assert "d" not in names(files, "link")
    (disk.home / "h" / "i").mkdir(parents=True)
    for call in (files.remove_tree, files.remove_directory, lambda at: files.rename(at, path("away"))):
        refused(550, lambda call=call: result(call(path("link/h"))))  # type: ignore[misc]
    assert (disk.home / "d" / "secret").exists()


@pytest.mark.parametrize("name", ["shared", "a", "a/b"])
def test_a_folder_stays(disk: Disk, name: str) -> None:
    """A folder cannot be renamed, removed, replaced or changed, nor can a directory that leads to it."""
    (disk.home / "a").mkdir()
    files = disk.open({"/shared": disk.folder("shared"), "/a/b": disk.folder("b")})
    store(files.writer(path("f")), b"data")
    here = path(name)
    for call in (
        lambda: result(files.remove(here)),
        lambda: result(files.remove_directory(here)),
        lambda: result(files.remove_tree(here)),
        lambda: result(files.rename(here, path("x"))),
        lambda: result(files.set_time(here, 0.0)),
        lambda: result(files.set_mode(here, 0o700)),
    ):
        refused(550, call)
    refused(553, lambda: result(files.rename(path("f"), here)))
    fails(errno.EEXIST, files.make_directory(here))
    with pytest.raises(IsADirectoryError):
        files.writer(here)()
    assert names(files) == ["a", "f", "shared"]
    assert store(files.writer(path(f"{name}"), unique=True), b"data").startswith(f"{here.name}.")


def test_links_do_not_lead_into_folders_or_out_of_them(disk: Disk) -> None:
    """Each folder is a jail of its own, and so is the home."""
    files = disk.open({"/shared": disk.folder("shared"), "/shared/in": disk.folder("in")})
    (disk.home / "mine").write_bytes(b"mine")
    (disk.base / "in" / "inner").write_bytes(b"inner")
    links = {
        disk.home / "out": disk.base / "shared",
        disk.base / "shared" / "home": disk.home / "mine",
        disk.base / "shared" / "up": Path("../home/mine"),
        disk.base / "shared" / "in2": Path("in"),
        disk.base / "in" / "back": Path(".."),
        disk.base / "in" / "root": Path("/"),
    }
    for link, target in links.items():
        link.symlink_to(target)
    for name in ("shared/home", "shared/up"):
        refused(550, lambda name=name: files.reader(path(name), 0, None)())  # type: ignore[misc]
    for name in ("out", "shared/in/back", "shared/in/root"):
        refused(550, lambda name=name: result(files.require_directory(path(name))))  # type: ignore[misc]
    fails(errno.ENOENT, files.require_directory(path("shared/in2")))
    (disk.base / "shared" / "f").write_bytes(b"f")
    (disk.base / "shared" / "absolute").symlink_to(disk.base / "shared" / "f")
    assert read(files, "shared/absolute") == b"f"


def test_names_of_part_files_and_hidden_names_stay_hidden(disk: Disk) -> None:
    """What an upload into a folder has written so far has a name that no listing shows."""
    files = disk.open({"/s": disk.folder("s")}, names=UserNames(deny=(Pattern("*.exe"),), hide=(Pattern("*.key"),)))
    upload = files.writer(path("s/f"))()
    send(upload, b"half")
    (disk.base / "s" / "private.key").write_bytes(b"key")
    (part,) = [each for each in os.listdir(disk.base / "s") if each.startswith(".ftpsd-part-")]
    assert names(files, "s") == []
    assert [line for line in listed(files, recursive=True, all=True) if "part" in line or "key" in line] == []
    for name in (part, "private.key"):
        with pytest.raises(FileNotFoundError):
            files.reader(path(f"s/{name}"), 0, None)()
    refused(553, lambda: files.writer(path("s/virus.exe"))())
    upload.close()


# --- permissions ---------------------------------------------------------------------------------------


def test_the_permissions_of_a_folder_replace_those_of_the_user(disk: Disk) -> None:
    """The permissions of a folder may give more or less; a folder without any follows the directory around it."""
    files = disk.open(
        {
            "/give": disk.folder("give", "read-write"),
            "/none": disk.folder("none", frozenset()),
            "/follow": disk.folder("follow"),
            "/give/follow": disk.folder("give-follow"),
        },
        permissions=PROFILES["read-only"],
    )
    store(files.writer(path("give/f")), b"data")
    store(files.writer(path("give/follow/f")), b"data")
    refused(550, lambda: files.writer(path("f"))())
    refused(550, lambda: files.writer(path("follow/f"))())
    refused(550, lambda: result(files.require_directory(path("none"))))
    assert names(files) == ["follow", "give"]
    assert names(files, "follow") == []


def test_the_paths_of_a_user_only_take_away_from_a_folder(disk: Disk) -> None:
    """A rule below a folder with permissions gives nothing that the folder does not give."""
    user = disk.user(
        {"/s": disk.folder("s", "read-only"), "/t": disk.folder("t")},
        paths={("s", "x"): frozenset(PERMISSIONS), ("s", "y"): frozenset(), ("t", "x"): PROFILES["read-only"]},
    )
    rules = user.settings.permission_rules
    assert rules.at(("s", "x")) == PROFILES["read-only"]
    assert rules.at(("s", "y", "z")) == frozenset()
    assert rules.at(("t",)) == frozenset(PERMISSIONS)
    home, s, t = mounts_of(user)
    assert (home.permissions.paths, s.permissions.paths) == (
        {},
        {("s", "x"): rules.at(("s", "x")), ("s", "y"): frozenset()},
    )
    assert list(t.permissions.paths) == [("t", "x")]
    files = result(disk.trees.open(user, SESSION))
    (disk.base / "s" / "x").mkdir()
    refused(550, lambda: files.writer(path("s/x/f"))())
    result(files.make_directory(path("t/d")))
    refused(550, lambda: result(files.make_directory(path("t/x"))))


# --- quotas --------------------------------------------------------------------------------------------


def test_a_quota_counts_a_folder_for_all_users(disk: Disk) -> None:
    """Two users share what a folder may hold; their homes are counted apart."""
    folder, own = disk.limit("shared", bytes=100), disk.limit("home", bytes=50)
    one = disk.open({"/shared": disk.folder("shared", quota=folder)}, quota=own)
    other = disk.open({"/elsewhere": disk.folder("shared", quota=folder)})
    store(one.writer(path("shared/a")), bytes(60))
    refused(552, lambda: store(other.writer(path("elsewhere/b")), bytes(41)))
    store(other.writer(path("elsewhere/b")), bytes(40))
    refused(552, lambda: store(one.writer(path("shared/c")), b"x"))
    store(one.writer(path("c")), bytes(50))
    refused(552, lambda: store(one.writer(path("d")), b"x"))
    usage = result(one.usage(path("/shared")))
    assert usage is not None
    assert (usage.bytes, usage.max_bytes, usage.at) == (100, 100, ("shared",))
    assert result(one.available_space(path("shared"))) == 0
    assert disk.counted("shared") == disk.held("shared") == Amount(100, 2)
    assert disk.counted("home") == disk.held("home") == Amount(50, 1)


MOVES = [("home", "shared"), ("shared", "home"), ("shared", "other"), ("shared", "same")]


@pytest.mark.parametrize(("source", "target"), MOVES)
@pytest.mark.parametrize("counted", [(), ("home",), ("shared",), ("other", "home"), ("home", "shared", "other")])
def test_a_file_moves_with_its_quota(disk: Disk, source: str, target: str, counted: tuple[str, ...]) -> None:
    """RNTO between a home and folders is one rename, and counts exactly: with what is replaced, and what was cut."""
    limits = {name: disk.limit(name, bytes=1000) for name in counted}
    files = disk.open(
        {
            "/shared": disk.folder("shared", quota=limits.get("shared")),
            "/other": disk.folder("other", quota=limits.get("other")),
            "/same": disk.folder("shared", quota=limits.get("shared")),
        },
        quota=limits.get("home", QuotaSettings()),
    )
    at = {"home": "", "shared": "shared/", "other": "other/", "same": "same/"}
    old, new = at[source] + "f", at[target] + "g"
    store(files.writer(path(old)), bytes(100))
    store(files.writer(path(new)), bytes(30))
    cut(files.writer(path(new)), bytes(7))
    cut(files.writer(path(old)), bytes(5))
    inode = os.stat(disk.base / ("home" if source == "home" else source) / "f").st_ino
    result(files.rename(path(old), path(new)))
    assert read(files, new) == bytes(100)
    place = {"home": "home", "same": "shared"}.get(target, target)
    assert os.stat(disk.base / place / "g").st_ino == inode
    assert result(files.entry(path(old), "list")).incomplete
    for name in counted:
        assert disk.counted(name) == disk.held(name), name


def test_a_move_must_fit_into_the_quota(disk: Disk) -> None:
    """A move that exceeds the quota gets 552 and changes nothing; what it had reserved is free again."""
    files = disk.open(
        {"/s": disk.folder("s", quota=disk.limit("s", bytes=100, files=2))}, quota=disk.limit("home", bytes=500)
    )
    for name, size in (("large", 101), ("small", 60), ("s/f", 40)):
        store(files.writer(path(name)), bytes(size))
    refused(552, lambda: result(files.rename(path("large"), path("s/large"))))
    result(files.rename(path("small"), path("s/small")))
    store(files.writer(path("tiny")), b"")
    refused(552, lambda: result(files.rename(path("tiny"), path("s/tiny"))))
    for name in ("s", "home"):
        assert disk.counted(name) == disk.held(name)
    assert names(files) == ["large", "s", "tiny"]


@pytest.mark.parametrize("old", [None, 3, 5000])
@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("then", ["move", "replace", "remove"])
def test_names_change_between_publish_and_close(disk: Disk, old: int | None, append: bool, then: str) -> None:
    """A file that others see is counted where it is, although its upload has not ended; also if it was appended to."""
    folders = {f"/{name}": disk.folder(name, quota=disk.limit(name, bytes=100_000)) for name in ("q", "r")}
    files, others = disk.open(folders), disk.open(folders)
    result(files.make_directory(path("q/d")))
    if old is not None:
        store(files.writer(path("q/d/f")), bytes(old))
    upload = files.writer(path("q/d/f"), append=append)()
    send(upload, bytes(700))
    while upload.must_copy(True):
        upload.copy(1000)
    upload.publish()
    if then == "move":
        result(others.rename(path("q/d/f"), path("r/f")))
    elif then == "replace":
        store(others.writer(path("q/d/f")), bytes(20))
    else:
        result(others.remove_tree(path("q/d")))
    upload.close()
    for name in ("q", "r"):
        assert disk.counted(name) == disk.held(name), name


def test_what_a_move_may_replace(disk: Disk) -> None:
    """The permissions at both ends hold: to rename at both, and to overwrite at the new name."""
    no_overwrite = frozenset(PERMISSIONS) - {"overwrite", "rmdir"}
    files = disk.open(
        {
            "/s": disk.folder("s", no_overwrite),
            "/r": disk.folder("r", "read-only"),
            "/u": disk.folder("u", "upload-only"),
        }
    )
    (disk.base / "s" / "f").write_bytes(b"theirs")
    (disk.base / "r" / "f").write_bytes(b"theirs")
    store(files.writer(path("f")), b"mine")
    refused(553, lambda: result(files.rename(path("f"), path("s/f"))))
    for target in ("r/g", "u/g"):
        refused(550, lambda target=target: result(files.rename(path("f"), path(target))))  # type: ignore[misc]
    refused(550, lambda: result(files.rename(path("r/f"), path("g"))))
    result(files.rename(path("f"), path("s/g")))
    assert (disk.base / "s" / "f").read_bytes() == b"theirs"
    assert (disk.base / "s" / "g").read_bytes() == b"mine"


@pytest.mark.parametrize("counted", [False, True])
def test_a_directory_stays_in_its_mount(disk: Disk, counted: bool) -> None:
    """553: commands that run in it have it open, and would change files in another user's home. A link to one moves."""
    limits = {name: disk.limit(name, bytes=1000) if counted else QuotaSettings() for name in ("s", "home", "bob")}
    folders = {"/s": disk.folder("s", quota=limits["s"])}
    alice, bob = (disk.open(folders, quota=limits[name], home=str(disk.directory(name))) for name in ("home", "bob"))
    result(alice.make_directory(path("s/d")))
    store(alice.writer(path("s/d/f")), b"data")
    upload = alice.writer(path("s/d/g"))()
    send(upload, b"Alice's")
    refused(553, lambda: result(bob.rename(path("s/d"), path("mine"))))
    result(bob.make_directory(path("mine")))
    refused(553, lambda: result(bob.rename(path("s/d"), path("mine"))))
    refused(553, lambda: result(bob.rename(path("mine"), path("s/e"))))
    result(bob.rename(path("s/d/f"), path("mine/f")))
    upload.publish()
    upload.close()
    assert os.listdir(disk.base / "s" / "d") == ["g"]
    assert os.listdir(disk.base / "bob" / "mine") == ["f"]
    (disk.base / "s" / "link").symlink_to("d")
    result(bob.rename(path("s/link"), path("link")))
    assert os.readlink(disk.base / "bob" / "link") == "d"
    for name in limits if counted else ():
        assert disk.counted(name) == disk.held(name), name


def test_a_move_to_another_disk_is_refused(disk: Disk) -> None:
    """553 says what helps; nothing is copied."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == disk.home.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    with tempfile.TemporaryDirectory(dir=shm) as elsewhere:
        files = disk.open({"/s": FolderSettings(elsewhere)})
        store(files.writer(path("f")), b"data")
        refused(553, lambda: result(files.rename(path("f"), path("s/f"))))
        assert read(files, "f") == b"data"
        assert os.listdir(elsewhere) == []


# --- folders that are not available --------------------------------------------------------------------


def test_a_folder_that_is_not_ready_delays_no_login(disk: Disk) -> None:
    """The session begins after two seconds. The folder gives 450 until it is ready, or tried again after a failure."""
    waiting: list[Deferred[None]] = []

    class Slow:
        """A storage that opens nothing before it is told to."""

        async def open(self, *arguments: Any) -> Files:
            waiting.append(Deferred())
            await waiting[-1]
            return await disk.backend.open(*arguments)

    slow: Any = Slow()
    workers: Any = DirectCalls()
    trees = FolderTrees(disk.backend, lambda folder: slow, workers, disk.clock, 0.0)
    opened: list[Files] = []
    Deferred.fromCoroutine(trees.open(disk.user({"/s": disk.folder("s")}), SESSION)).addCallback(opened.append)
    disk.clock.advance(PATIENCE - 0.1)
    assert not opened
    disk.clock.advance(0.2)
    (files,) = opened
    assert names(files) == ["s"]
    refused(450, lambda: files.writer(path("s/f"))())
    refused(450, lambda: result(files.require_directory(path("s"))))
    store(files.writer(path("f")), b"data")
    waiting[0].errback(OSError(errno.EIO, "Input/output error"))
    refused(450, lambda: files.writer(path("s/f"))())  # it is opened again
    waiting[1].callback(None)
    store(files.writer(path("s/f")), b"data")
    files.close()


def test_a_folder_whose_directory_is_gone(disk: Disk) -> None:
    """A folder whose directory is gone is still listed. Commands in it get 550, and the rest of the tree works."""
    files = disk.open({"/s": disk.folder("s")})
    (disk.base / "s").rmdir()
    assert names(files) == ["s"]
    fails(errno.ENOENT, files.require_directory(path("s")))
    with pytest.raises(FileNotFoundError):
        files.writer(path("s/f"))()
    store(files.writer(path("f")), b"data")


def test_a_folder_with_a_quota_that_was_never_counted(disk: Disk) -> None:
    """Commands get 450 while the directory is missing. When it is back, it is counted before anything is written."""
    folders = {"/q": disk.folder("q", quota=disk.limit("q", bytes=100))}
    (disk.base / "q" / "old").write_bytes(bytes(90))
    (disk.base / "q").rename(disk.base / "away")
    files = disk.open(folders)
    assert names(files) == ["q"]
    refused(450, lambda: files.writer(path("q/new"))())
    usage = disk.quotas._usage(str(disk.base / "q"))
    assert usage is not None
    assert usage.sessions == 0
    (disk.base / "away").rename(disk.base / "q")
    refused(552, lambda: store(files.writer(path("q/new")), bytes(11)))
    store(files.writer(path("q/new")), bytes(10))
    assert disk.counted("q") == disk.held("q") == Amount(100, 2)
    files.close()
    assert usage.sessions == 0


def test_each_mount_is_opened_and_closed_once(disk: Disk) -> None:
    """A session in the home is one there, and one in each folder, until it ends."""
    files = disk.open({"/s": disk.folder("s", quota=disk.limit("s", bytes=100))}, quota=disk.limit("home", bytes=100))
    home = disk.quotas._usage(str(disk.home))
    assert home is not None
    store(files.writer(path("f")), b"data")
    assert home.sessions == 1  # the home is opened once
    usage = disk.quotas._usage(str(disk.base / "s"))
    assert usage is not None
    assert names(files) == ["f", "s"]
    assert (files.walking, usage.sessions) == (False, 1)
    files.stop(Reply(426, "Aborted."))
    files.close()
    assert usage.sessions == 0


def test_large_directories_with_folders(disk: Disk) -> None:
    """More names than are sorted: each is listed once, folders among them, with their subdirectories."""
    for number in range(2500):
        (disk.home / f"d{number}").mkdir()
    files = disk.open({"/d7": disk.folder("seven"), "/x/y": disk.folder("y")})
    (disk.base / "seven" / "f").write_bytes(b"f")
    found = names(files)
    assert len(found) == len(set(found)) == 2501
    assert {"d7", "x"} < set(found)
    deep = listed(files, recursive=True)
    assert deep.count("/d7:") == deep.count("/x/y:") == deep.count("f") == 1
