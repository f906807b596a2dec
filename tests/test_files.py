"""What every storage promises (`ftpsd.storage.backend`): directories, memory and folders, with and without a quota."""

from __future__ import annotations

import atexit
import errno
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.config.sections.folders import FolderSettings
from ftpsd.config.sections.storage import ConfiguredStore, Credentials, S3Storage
from ftpsd.config.settings import Quantity, QuotaSettings, UserSettings
from ftpsd.data.endpoints import End
from ftpsd.events.types import SessionInfo
from ftpsd.limits.home_counts import Amount, HomeLedger
from ftpsd.limits.homes.home import SharedHomeCounts
from ftpsd.limits.local_home_counts import LocalHomeCounts
from ftpsd.limits.shared.table import SharedTable
from ftpsd.protocol.interfaces import Opening, Upload, Usage
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PROFILES, Parts
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.storage.backend import Files, HomeMeter, Trees
from ftpsd.storage.folders.tree import FolderTrees
from ftpsd.storage.local.files import LocalBackend
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.quota import Quotas
from ftpsd.storage.s3.files import S3Backend
from ftpsd.storage.s3.measure import StoreMeter
from ftpsd.storage.s3.store import S3Store
from tests.inprocess import DirectCalls
from tests.memory_files import MemoryBackend, MemoryHome
from tests.s3 import KEY_ID, SECRET_KEY, Bucket, S3Server, running_moto, running_swift

T = TypeVar("T")
E = TypeVar("E", bound=End)

#: A quota that no test of this suite reaches, unless it gives its own.
LARGE = QuotaSettings(bytes=Quantity(1_000_000), files=1000)


#: The session whose files they are.
SESSION = SessionInfo(1, "192.0.2.1", "192.0.2.1", "alice")


@dataclass(frozen=True)
class Person:
    """A user who has logged in."""

    name: str
    settings: UserSettings


@dataclass
class Storage:
    """One implementation, and the quota that its users have unless a test says something else."""

    trees: Trees
    #: The home; for a folder where its files are.
    home: str
    meter: HomeMeter
    quota: QuotaSettings
    #: Where the tests act: in the home, or in a folder that they take for the root.
    at: Parts = ()
    #: The folders of the user, with the places of their files.
    folders: dict[Parts, str] = field(default_factory=dict)
    #: The home around the folder.
    around: str = ""
    #: Whether it is an S3 store. What differs there by design is a row of docs/storage.md.
    in_store: bool = False

    def open(self, quota: QuotaSettings | None = None, **settings: Any) -> Files:
        """Return the files of a user for one session."""
        quota = quota or self.quota
        if not self.at:
            user = UserSettings(home=self.home, quota=quota, **settings)
            return result(self.trees.open(Person(self.home, user), SESSION))
        folders = {
            at: FolderSettings(place, quota=quota if at == self.at else QuotaSettings())
            for at, place in self.folders.items()
        }
        user = UserSettings(home=self.around, folders=folders, **settings)
        inside: Any = Inside(result(self.trees.open(Person("alice", user), SESSION)), self.at)
        files: Files = inside
        return files

    def held(self) -> Amount:
        """Return what the home holds, part files included."""
        return sum(self.meter.amounts(self.home, ()), Amount())

    def usage(self, bytes: int, files: int, max_bytes: int | None, max_files: int | None) -> Usage:
        """Return what the files report of a quota."""
        return Usage(bytes, files, max_bytes, max_files, self.at)


class Inside:
    """Files whose paths are below a folder."""

    def __init__(self, files: Any, at: Parts) -> None:
        self._files = files
        self._at = at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._files, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            return found(*map(self._inside, arguments), **named)

        return call

    def _inside(self, value: object) -> object:
        return VirtualPath((*self._at, *value.parts)) if isinstance(value, VirtualPath) else value


def local_backend(counted: set[str], homes: set[str], ledger: HomeLedger | None = None) -> LocalBackend:
    """Directories, with worker threads that are direct calls."""
    workers: Any = DirectCalls()
    clock = Clock()
    clock.advance(1_000_000)
    quotas = Quotas(clock, workers, DirectoryMeter(), ledger or LocalHomeCounts())
    quotas.keep(counted, homes)
    return LocalBackend(workers, quotas, fsync=False)


def local(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """A directory."""
    (tmp_path / "home").mkdir()
    home = str(tmp_path / "home")
    backend = local_backend({home} if quota != QuotaSettings() else set(), {home})
    return Storage(backend, home, DirectoryMeter(), quota)


def shared(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """A directory that is counted in the table of several processes."""
    (tmp_path / "home").mkdir()
    home = str(tmp_path / "home")
    backend = local_backend({home}, {home}, SharedHomeCounts(SharedTable.create(1024, 1024)))
    return Storage(backend, home, DirectoryMeter(), quota)


def memory(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """Memory."""
    backend = MemoryBackend()
    home = backend.homes["alice"] = MemoryHome()
    return Storage(backend, "alice", home, quota)


def in_folders(storage: Storage, tmp_path: Path, *folders: Parts) -> Storage:
    """Let the tests act in the last one of some folders. The others, and the home, are directories with files of the
    same names, which nobody must touch."""
    places = {}
    for number, at in enumerate(((), *folders[:-1])):
        (tmp_path / f"around{number}").mkdir()
        places[at] = str(tmp_path / f"around{number}")
        for name in "abdefg":
            (tmp_path / f"around{number}" / name).write_bytes(b"of another directory")
    around = places.pop(())
    kinds = [storage.trees if at == folders[-1] else local_backend(set(), set()) for at in folders]
    backends: Any = iter([])

    def backend_of(_: FolderSettings) -> Any:
        nonlocal backends
        found = next(backends, None)
        if found is None:
            backends = iter(kinds)
            found = next(backends)
        return found

    workers: Any = DirectCalls()
    trees = FolderTrees(local_backend(set(), set()), backend_of, workers, Clock(), 1_700_000_000.0)
    return replace(storage, trees=trees, at=folders[-1], folders={**places, folders[-1]: storage.home}, around=around)


def folder(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """A folder that is a directory."""
    return in_folders(local(tmp_path, quota), tmp_path, ("shared",))


def nested_folder(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """A folder in a directory of another folder that does not exist."""
    return in_folders(local(tmp_path, quota), tmp_path, ("shared",), ("shared", "deep", "in"))


def memory_folder(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """A folder in memory."""
    return in_folders(memory(tmp_path, quota), tmp_path, ("a", "b"))


@cache
def tiny_parts(run: Callable[[int], AbstractContextManager[S3Server]]) -> S3Server:
    """A server whose parts may have any size. It ends with the tests."""
    server = run(1)
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__()


def s3(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """A store whose parts may have any size, so that a few bytes of an upload that was cut are kept."""
    return in_store(tiny_parts(running_moto).new_bucket(), quota)


def swift(tmp_path: Path, quota: QuotaSettings) -> Storage:
    """The same in OpenStack Swift."""
    return in_store(tiny_parts(running_swift).new_bucket(), quota)


def in_store(bucket: Bucket, quota: QuotaSettings) -> Storage:
    """A home in a bucket."""
    store, meter = s3_store(bucket)
    workers: Any = DirectCalls()
    quotas = Quotas(Clock(), workers, meter, LocalHomeCounts())
    home = "s3:archive/home"
    quotas.keep({home} if quota != QuotaSettings() else set(), {home})
    return Storage(S3Backend(store, quotas), home, meter, quota, in_store=True)


def s3_store(bucket: Bucket) -> tuple[S3Store, StoreMeter]:
    """Return a store without threads, and what measures it."""
    settings = S3Storage(
        type="s3",
        bucket=bucket.name,
        endpoint=bucket.server.endpoint,
        region="us-east-1",
        credentials=Credentials(access_key_id=KEY_ID),
        part_size=Quantity(1000),
        memory=Quantity(1 << 20),
        rename_directories=10,
    )
    calls: Any = DirectCalls()
    reactor: Any = Clock()
    store = S3Store(ConfiguredStore("archive", settings, SECRET_KEY), reactor, threads=calls, least_part=1)
    return store, StoreMeter(lambda home: (store.objects, store.cut, store.prefix(home)))


KINDS = {
    "s3": (s3, QuotaSettings()),
    "quota over s3": (s3, LARGE),
    "swift": (swift, QuotaSettings()),
    "quota over swift": (swift, LARGE),
    "local": (local, QuotaSettings()),
    "quota over local": (local, LARGE),
    "quota over local, counted in the shared table": (shared, LARGE),
    "memory": (memory, QuotaSettings()),
    "quota over memory": (memory, LARGE),
    "folder": (folder, QuotaSettings()),
    "quota over folder": (folder, LARGE),
    "nested folder": (nested_folder, QuotaSettings()),
    "quota over nested folder": (nested_folder, LARGE),
    "folder in memory": (memory_folder, QuotaSettings()),
    "quota over folder in memory": (memory_folder, LARGE),
}


def kinds(start: str = "") -> list[Any]:
    """Return the names of implementations as parameters. Those that need servers of Debian's packages are not quick."""
    marks = {True: pytest.mark.process, False: ()}
    return [pytest.param(name, marks=marks["swift" in name]) for name in KINDS if name.startswith(start)]


@pytest.fixture(params=kinds())
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """Each implementation. In the end a quota must have counted exactly what the home holds."""
    make, quota = KINDS[request.param]
    made = make(tmp_path, quota)
    yield made
    files = made.open()
    usage = result(files.usage(VirtualPath()))
    held = made.held()
    assert usage == (None if quota == QuotaSettings() else made.usage(held.bytes, held.files, LARGE.bytes, LARGE.files))
    files.close()


@pytest.fixture(params=kinds("quota"))
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each implementation with a quota."""
    make, quota = KINDS[request.param]
    return make(tmp_path, quota)


# --- helpers -------------------------------------------------------------------------------------------


def result(awaitable: Awaitable[T]) -> T:
    """Return the result of what needs no reactor, or raise its exception."""

    async def wait() -> T:
        return await awaitable

    found: list[T] = []
    failed: list[Any] = []
    Deferred.fromCoroutine(wait()).addCallbacks(found.append, failed.append)
    if failed:
        failed[0].raiseException()
    return found[0]


def path(text: str) -> VirtualPath:
    """`d/f` is the file f in the directory d of the root."""
    return VirtualPath().join(text)


def begin(opening: Opening[E]) -> Callable[[], E]:
    """Open as a transfer does: storage over a network works in threads of its own."""

    def settled() -> E:
        end = opening()
        while end.pending():
            time.sleep(0.001)
        return end

    return settled


def send(upload: Upload, data: bytes) -> None:
    """Write the bytes of an upload as a transfer does, all but the end."""
    while upload.must_copy(False):
        upload.copy(1 << 20)
    if data:
        upload.write(data)


def store(opening: Opening[Upload], data: bytes) -> str:
    """Upload data; return the name that the file got."""
    upload = begin(opening)()
    try:
        send(upload, data)
        while upload.must_copy(True):
            upload.copy(1 << 20)
        upload.publish()
    finally:
        upload.close()
    return upload.name


def cut(opening: Opening[Upload], data: bytes) -> None:
    """Upload data, and cut the upload before it is complete."""
    upload = begin(opening)()
    send(upload, data)
    upload.close()


def read(files: Files, name: str, offset: int = 0, end: int | None = None) -> bytes:
    """Return the bytes of a file."""
    source = begin(files.reader(path(name), offset, end))()
    try:
        return b"".join(bytes(piece) for piece in source)
    finally:
        source.close()


def names(files: Files, directory: str = "/") -> list[str]:
    """Return the names in a directory, in their order."""
    source = begin(files.listing(path(directory), ListRequest(path=""), lambda entry: entry.name))()
    try:
        return b"".join(bytes(piece) for piece in source).decode().split("\r\n")[:-1]
    finally:
        source.close()


def entry(files: Files, name: str) -> Entry:
    """Return the facts of a name."""
    return result(files.entry(path(name), "list"))


def refused(code: int, call: Callable[[], object]) -> None:
    """A call raises Refusal with a code."""
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.reply.code == code


def fails(number: int, awaitable: Awaitable[object]) -> None:
    """An operation raises OSError with an error number."""
    with pytest.raises(OSError) as caught:
        result(awaitable)
    assert caught.value.errno == number


# --- uploads and downloads -----------------------------------------------------------------------------


def test_an_upload_and_its_download(storage: Storage) -> None:
    """What was stored is read, all of it or a range; a file that is replaced has the new content only."""
    files = storage.open()
    assert store(files.writer(path("f")), b"0123456789") == "f"
    assert read(files, "f") == b"0123456789"
    assert read(files, "f", 3) == b"3456789"
    assert read(files, "f", 3, 5) == b"34"
    assert read(files, "f", 10) == b""
    assert result(files.size(path("f"))) == 10
    assert read(files, "f", 8, 20) == b"89"
    for offset, end in ((11, None), (11, 12), (10, 11), (20, 31)):
        refused(554, begin(files.reader(path("f"), offset, end)))
    store(files.writer(path("f")), b"new")
    assert read(files, "f") == b"new"
    store(files.writer(path("empty")), b"")
    assert read(files, "empty") == read(files, "empty", 0, 5) == b""
    refused(554, begin(files.reader(path("empty"), 1, 5)))
    assert names(files) == ["empty", "f"]


def test_nobody_sees_an_upload_before_it_is_published(storage: Storage) -> None:
    """While a file is received its old content is read, and its name is listed only if it had it before."""
    files = storage.open()
    store(files.writer(path("old")), b"old")
    for name in ("old", "new"):
        upload = begin(files.writer(path(name)))()
        send(upload, b"received")
        assert names(files) == ["old"]
        assert read(files, "old") == b"old"
        upload.close()


def test_appending(storage: Storage) -> None:
    """APPE continues a file, makes one that is not there, and leaves the old one alone until it is complete."""
    files = storage.open()
    store(files.writer(path("f"), append=True), b"one,")
    store(files.writer(path("f"), append=True), b"two")
    assert read(files, "f") == b"one,two"
    store(files.writer(path("f"), append=True), bytes(10_000))
    assert read(files, "f") == b"one,two" + bytes(10_000)
    cut(files.writer(path("f"), append=True), bytes(100))
    assert result(files.size(path("f"))) == 10_007


def test_unique_names(storage: Storage) -> None:
    """STOU gets a name that nothing has, and that starts with the one that was asked for."""
    files = storage.open()
    store(files.writer(path("f")), b"old")
    got = {store(files.writer(path("f"), unique=True), b"new") for _ in range(3)}
    assert len(got) == 3
    assert all(name.startswith("f.") for name in got)
    assert set(names(files)) == {"f"} | got


def test_resuming(storage: Storage) -> None:
    """An upload that was cut is listed as incomplete, is not read, and continues at its size or at less."""
    files = storage.open()
    cut(files.writer(path("f")), b"01234")
    assert entry(files, "f").incomplete
    assert result(files.size(path("f"))) == 5
    refused(550, begin(files.reader(path("f"), 0, None)))
    refused(554, begin(files.writer(path("f"), offset=6)))
    if storage.in_store:  # row "resume": only where a part ends
        refused(554, begin(files.writer(path("f"), offset=3)))
        store(files.writer(path("f")), b"012")
    store(files.writer(path("f"), offset=3), b"XYZ")
    assert read(files, "f") == b"012XYZ"
    assert not entry(files, "f").incomplete
    store(files.writer(path("f"), offset=2), b"!")
    assert read(files, "f") == b"01!"
    refused(554, begin(files.writer(path("f"), offset=4)))
    cut(files.writer(path("g")), b"01234")
    store(files.writer(path("g"), append=True), b"56")
    assert read(files, "g") == b"0123456"


def test_a_part_file_beside_a_file(storage: Storage) -> None:
    """If an upload that replaces a file is cut, the file stays, and neither APPE nor its size resumes the upload."""
    files = storage.open()
    store(files.writer(path("f")), b"0123456789")
    cut(files.writer(path("f")), b"new")
    assert read(files, "f") == b"0123456789"
    refused(550, begin(files.writer(path("f"), append=True)))
    refused(550, begin(files.writer(path("f"), offset=10)))
    store(files.writer(path("f"), offset=3), b"er")
    assert read(files, "f") == b"newer"


def test_two_uploads_of_one_name(storage: Storage) -> None:
    """The last one to be complete has the name; one that resumes must wait for the other one."""
    files, others = storage.open(), storage.open()
    first = begin(files.writer(path("f")))()
    send(first, b"first")
    refused(450, begin(others.writer(path("f"), offset=1)))
    refused(450, begin(others.writer(path("f"), append=True)))
    store(others.writer(path("f")), b"second")
    first.publish()
    first.close()
    assert read(files, "f") == b"first"


def test_an_upload_that_is_closed_twice(storage: Storage) -> None:
    """`close` may be called any number of times, also after `publish`."""
    files = storage.open()
    upload = begin(files.writer(path("f")))()
    send(upload, b"data")
    upload.publish()
    upload.close()
    upload.close()
    assert read(files, "f") == b"data"


# --- names ---------------------------------------------------------------------------------------------


def test_directories(storage: Storage) -> None:
    """Directories are made, listed, entered, and removed when they are empty."""
    files = storage.open()
    result(files.make_directory(path("d")))
    fails(errno.EEXIST, files.make_directory(path("d")))
    fails(errno.ENOENT, files.make_directory(path("nothing/d")))
    result(files.require_directory(path("d")))
    fails(errno.ENOENT, files.require_directory(path("nothing")))
    store(files.writer(path("d/f")), b"data")
    fails(errno.ENOTDIR, files.require_directory(path("d/f")))
    assert entry(files, "d").is_directory
    assert names(files, "d") == ["f"]
    fails(errno.ENOTEMPTY, files.remove_directory(path("d")))
    fails(errno.EISDIR, files.remove(path("d")))
    result(files.remove(path("d/f")))
    result(files.remove_directory(path("d")))
    assert names(files) == []
    fails(errno.ENOENT, files.remove_directory(path("d")))


def test_a_tree_is_removed(storage: Storage) -> None:
    """RMDA removes all below, part files included."""
    files = storage.open()
    result(files.make_directory(path("d")))
    result(files.make_directory(path("d/e")))
    store(files.writer(path("d/e/f")), bytes(100))
    cut(files.writer(path("d/e/g")), bytes(100))
    fails(errno.ENOTDIR, files.remove_tree(path("d/e/f")))
    result(files.remove_tree(path("d")))
    assert storage.held() == Amount()


def test_a_directory_with_part_files_only_is_empty(storage: Storage) -> None:
    """RMD removes it with them."""
    files = storage.open()
    result(files.make_directory(path("d")))
    cut(files.writer(path("d/f")), bytes(100))
    result(files.remove_directory(path("d")))
    assert storage.held() == Amount()


def test_removing(storage: Storage) -> None:
    """DELE removes a file with its part file, or a part file alone."""
    files = storage.open()
    store(files.writer(path("f")), b"old")
    cut(files.writer(path("f")), b"new")
    result(files.remove(path("f")))
    fails(errno.ENOENT, files.remove(path("f")))
    cut(files.writer(path("g")), b"new")
    result(files.remove(path("g")))
    assert storage.held() == Amount()


def test_renaming(storage: Storage) -> None:
    """A name moves with all below it; what has the new name is replaced, and what was cut under it is forgotten."""
    files = storage.open()
    store(files.writer(path("a")), b"a")
    store(files.writer(path("b")), b"bb")
    cut(files.writer(path("b")), b"cut")
    result(files.rename(path("a"), path("b")))
    assert names(files) == ["b"]
    assert read(files, "b") == b"a"
    result(files.make_directory(path("d")))
    result(files.rename(path("b"), path("d/b")))
    result(files.rename(path("d"), path("e")))
    assert read(files, "e/b") == b"a"
    fails(errno.ENOENT, files.rename(path("nothing"), path("x")))
    result(files.make_directory(path("full")))
    store(files.writer(path("full/f")), b"f")
    fails(errno.ENOTEMPTY, files.rename(path("e"), path("full")))
    assert storage.held() == Amount(2, 4)


def test_the_root_stays(storage: Storage) -> None:
    """No operation removes, renames or changes the root."""
    files = storage.open()
    root = VirtualPath()
    refused(550, lambda: result(files.remove(root)))
    refused(550, lambda: result(files.remove_directory(root)))
    refused(550, lambda: result(files.remove_tree(root)))
    refused(550, lambda: result(files.rename(root, path("x"))))
    refused(550, lambda: result(files.set_time(root, 0.0)))
    refused(550, lambda: result(files.set_mode(root, 0o700)))
    fails(errno.EEXIST, files.make_directory(root))
    with pytest.raises(IsADirectoryError):
        begin(files.writer(root))()


def test_facts(storage: Storage) -> None:
    """Time and mode are set, and returned as they were stored."""
    files = storage.open()
    store(files.writer(path("f")), b"data")
    assert entry(files, "f").is_file
    fails(errno.ENOENT, files.entry(path("nothing"), "list"))
    fails(errno.ENOENT, files.size(path("nothing")))
    if storage.in_store:  # rows "MFMT" and "SITE CHMOD"
        refused(550, lambda: result(files.set_time(path("f"), 0.0)))
        refused(550, lambda: result(files.set_mode(path("f"), 0o640)))
        return
    assert result(files.set_time(path("f"), 1_000_000_000.0)) == 1_000_000_000.0
    assert entry(files, "f").modified == 1_000_000_000.0
    assert result(files.set_mode(path("f"), 0o640)) == 0o640
    assert entry(files, "f").mode & 0o777 == 0o640
    fails(errno.ENOENT, files.set_time(path("nothing"), 0.0))


def test_listings(storage: Storage) -> None:
    """Entries are in the order of their names, or the reverse; STAT gets the first ones; a file is listed alone."""
    files = storage.open()
    for name in "cab":
        store(files.writer(path(name)), b"")
    assert names(files) == ["a", "b", "c"]
    assert names(files, "a") == ["a"]
    request = ListRequest(path="", reverse=True)
    assert [each.name for each in result(files.first_entries(path("/"), request, 2))] == ["c", "b"]
    with pytest.raises(FileNotFoundError):
        begin(files.listing(path("nothing"), request, lambda entry: entry.name))()


def test_free_space(storage: Storage) -> None:
    """The free bytes are a number that an upload makes smaller only if a quota counts it."""
    files = storage.open()
    before = result(files.free_space(path("/")))
    assert result(files.available_space(path("/"))) > 0 < before
    if storage.quota == LARGE:
        store(files.writer(path("f")), bytes(1000))
        assert result(files.free_space(path("/"))) == before - 1000 == 999_000


def test_a_walk_can_be_stopped_when_none_runs(storage: Storage) -> None:
    """ABOR without a walk does nothing."""
    files = storage.open()
    assert not files.walking
    files.stop(Reply(426, "Aborted."))
    assert names(files) == []
    files.close()


# --- permissions ---------------------------------------------------------------------------------------


def test_permissions(storage: Storage) -> None:
    """Every operation is refused with 550 without its permission."""
    owner = storage.open()
    store(owner.writer(path("f")), b"data")
    result(owner.make_directory(path("d")))
    files = storage.open(permissions=PROFILES["upload-only"])
    some, other = path("f"), path("new")
    request = ListRequest(path="")
    refused(550, begin(files.listing(path("/"), request, lambda entry: entry.name)))
    refused(550, begin(files.reader(some, 0, None)))
    refused(550, begin(files.writer(some)))
    refused(550, begin(files.writer(some, append=True)))
    for awaitable in (
        files.entry(some, "list", "download"),
        files.first_entries(path("/"), request, 1),
        files.make_directory(other),
        files.remove(some),
        files.remove_directory(path("d")),
        files.remove_tree(path("d")),
        files.rename(some, other),
        files.set_time(some, 0.0),
        files.set_mode(some, 0o600),
        files.available_space(path("/")),
    ):
        refused(550, lambda awaitable=awaitable: result(awaitable))  # type: ignore[misc]
    store(files.writer(other), b"new")
    assert read(owner, "new") == b"new"
    assert result(files.free_space(path("/"))) > 0
    result(files.require_directory(path("/")))


def test_a_file_that_comes_while_another_is_received(storage: Storage) -> None:
    """A user who may not overwrite gets 553 if the name is taken when the upload is complete."""
    owner, files = storage.open(), storage.open(permissions=PROFILES["upload-only"])
    upload = begin(files.writer(path("f")))()
    send(upload, b"late")
    store(owner.writer(path("f")), b"first")
    refused(553, upload.publish)
    upload.close()
    assert read(owner, "f") == b"first"


# --- quotas --------------------------------------------------------------------------------------------


def test_bytes_of_a_quota(limited: Storage) -> None:
    """A write that exceeds it gets 552, and nothing of the upload stays; a full home refuses uploads at once."""
    files = limited.open(quota=QuotaSettings(bytes=Quantity(100)))
    store(files.writer(path("old")), bytes(60))
    upload = begin(files.writer(path("new")))()
    send(upload, bytes(40))
    refused(552, lambda: upload.write(b"x"))
    upload.close()
    assert limited.held() == Amount(60, 1)
    assert result(files.usage(path("/"))) == limited.usage(60, 1, 100, None)
    store(files.writer(path("new")), bytes(40))
    assert result(files.available_space(path("/"))) == 0
    refused(552, begin(files.writer(path("another"))))
    result(files.remove(path("old")))
    assert result(files.available_space(path("/"))) == 60


def test_files_of_a_quota(limited: Storage) -> None:
    """Files and directories count; a replacement needs no room; with none left, AVBL is 0."""
    files = limited.open(quota=QuotaSettings(files=2))
    result(files.make_directory(path("d")))
    store(files.writer(path("f")), b"old")
    refused(552, begin(files.writer(path("g"))))
    refused(552, lambda: result(files.make_directory(path("e"))))
    fails(errno.EEXIST, files.make_directory(path("d")))
    assert result(files.available_space(path("/"))) == 0
    store(files.writer(path("f")), b"new")
    assert limited.held() == Amount(3, 2)


def test_what_an_upload_resumes_is_charged_once(limited: Storage) -> None:
    """A part file counts while it is kept, and as part of the upload that continues it."""
    files = limited.open(quota=QuotaSettings(bytes=Quantity(100)))
    cut(files.writer(path("f")), bytes(60))
    assert result(files.usage(path("/"))) == limited.usage(60, 1, 100, None)
    upload = begin(files.writer(path("f"), offset=60))()
    assert result(files.usage(path("/"))) == limited.usage(60, 1, 100, None)
    send(upload, bytes(40))
    refused(552, lambda: upload.write(b"x"))
    upload.close()
    store(files.writer(path("f")), bytes(100))
    assert limited.held() == Amount(100, 1)


def test_the_daemon_can_read_each_directory_of_a_home_with_a_quota(limited: Storage) -> None:
    """SITE CHMOD leaves its owner all permissions for a directory, and does as it is told for a file."""
    if limited.in_store:
        pytest.skip("row SITE CHMOD: objects have no permission bits")
    files = limited.open()
    result(files.make_directory(path("d")))
    store(files.writer(path("f")), b"")
    assert result(files.set_mode(path("d"), 0o005)) == 0o705
    assert result(files.set_mode(path("f"), 0o004)) == 0o004
