"""Files of a user in memory: the pattern for storage that is no directory of this machine.

It has names, contents, permissions, quotas and resuming, as `tests/test_files.py` asks for. It has no links.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container, Generator, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

from ftpsd.config.settings import QuotaSettings
from ftpsd.data.endpoints import never_pending
from ftpsd.events.types import SessionInfo
from ftpsd.limits.home_counts import Amount, QuotaLimits
from ftpsd.limits.local_home_counts import LocalHomeCount
from ftpsd.protocol import interfaces
from ftpsd.protocol.interfaces import Opening, Reader, Source, Usage
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Parts, Permissions
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.storage.backend import (
    ChangeCounter,
    Files,
    IsTimed,
    Mount,
    Upload,
    User,
    entry_or_portions,
    every_name,
    require_in_file,
)
from ftpsd.storage.home_usage import HomeUsage
from ftpsd.storage.listings import Listings
from ftpsd.storage.quota import Quota
from ftpsd.storage.quota_wrapper import QuotaFiles
from ftpsd.storage.upload_start import RESUMABLE, OldFile, choose_start


class Content:
    """The bytes of a file or of a part file."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.uploading = False


@dataclass
class Node:
    """A file or, without content, a directory."""

    content: Content | None = None
    mode: int = stat.S_IFDIR | 0o755
    modified: float = 1_700_000_000.0

    @property
    def size(self) -> int:
        """The number of bytes in it."""
        return 0 if self.content is None else len(self.content.data)


@dataclass
class MemoryHome:
    """One home. `free` is the room on its disk, in bytes."""

    nodes: dict[Parts, Node] = field(default_factory=lambda: {(): Node()})
    #: Part files by the path of their file.
    parts: dict[Parts, Content] = field(default_factory=dict)
    free: int = 1 << 30

    def find(self, parts: Parts) -> Node:
        """Return what has a path."""
        if parts in self.nodes:
            return self.nodes[parts]
        parent = self.nodes.get(parts[:-1])
        raise _error(errno.ENOENT if parent is None or parent.content is None else errno.ENOTDIR)

    def below(self, parts: Parts) -> list[Parts]:
        """Return all paths below one."""
        return [each for each in self.nodes if len(each) > len(parts) and each[: len(parts)] == parts]

    def measure(self, paths: tuple[Parts, ...], charged: Container[Hashable]) -> Amount:
        """Return what paths and their part files hold."""
        total = Amount()
        for parts in paths:
            node, part = self.nodes.get(parts), self.parts.get(parts)
            if node is not None and node.content not in charged:
                total += Amount(node.size, 1)
            if part is not None and part not in charged and part.data:
                total += Amount(len(part.data), 1)
        return total

    # --- as a HomeMeter ----------------------------------------------------------------------------

    def exists(self, home: str) -> bool:
        """There is always a home."""
        return True

    def amounts(self, home: str, charged: Container[Hashable]) -> Iterator[Amount]:
        """Yield what the home holds."""
        yield self.measure(tuple({*self.nodes, *self.parts} - {()}), charged)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class MemoryReader:
    """Part of a file, as it is when it is opened."""

    pending = never_pending
    known_checksum = ""

    def __init__(self, data: bytes, offset: int, end: int | None) -> None:
        self.offset, self.size = offset, len(data)
        self._rest = data[offset:end]

    def __iter__(self) -> Iterator[bytes]:
        while self._rest:
            piece, self._rest = self._rest[:1000], self._rest[1000:]
            self.offset += len(piece)
            yield piece

    def close(self) -> None:
        """Nothing is open."""


class MemoryUpload:
    """A file that is being received."""

    pending = never_pending
    known_checksum = ""

    def __init__(self, home: MemoryHome, parts: Parts, may_replace: bool, offset: int, append: bool) -> None:
        self.name = parts[-1]
        self._home = home
        self._parts = parts
        self._may_replace = may_replace
        self._discard = self._published = False
        content = home.parts.setdefault(parts, Content())
        if content.uploading:
            if append or offset:
                raise Refusal(450, "Another upload to this name is running: try again later.")
            content = Content()
        old = home.nodes.get(parts)
        known = None if old is None else OldFile(old.size, old.content is not None)
        start = choose_start(len(content.data), RESUMABLE, known, offset, append)
        del content.data[start.part_size :]
        self._copied = start.copied is not None
        if old is not None and old.content is not None and start.copied is not None:
            content.data += old.content.data[: start.copied]
        self._content = content
        self._start = len(content.data)
        content.uploading = True

    def must_copy(self, complete: bool) -> bool:
        """Everything is copied at the beginning."""
        return False

    def copy(self, at_most: int) -> int:
        """Nothing is left to copy."""
        return 0

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        self._content.data += data

    def publish(self) -> None:
        """Give the file its name."""
        self.flush()
        self.take_name()
        self.settle()

    def flush(self) -> None:
        """Memory needs no flush."""

    def take_name(self) -> bool:
        """Give the file its name."""
        old = self._home.nodes.get(self._parts)
        if old is not None and not self._may_replace:
            self._discard = True
            raise Refusal(553, f"{self.name} already exists.")
        self._published = True
        self._home.nodes[self._parts] = Node(self._content, old.mode if old else stat.S_IFREG | 0o644)
        self._home.parts.pop(self._parts, None)
        return True

    def settle(self) -> None:
        """Memory needs no flush."""

    def close(self) -> None:
        """End the upload; keep the part file if it can be resumed."""
        content = self._content
        content.uploading = False
        if self._published:
            return
        keep = content.data and not self._discard and not (self._copied and len(content.data) <= self._start)
        kept = self._home.parts.get(self._parts)
        if keep and (kept is None or not kept.data):
            self._home.parts[self._parts] = content
        elif not keep and kept is content:
            del self._home.parts[self._parts]

    # --- for a quota -------------------------------------------------------------------------------

    def initial_amount(self) -> Amount:
        """Return the bytes that the upload starts with, and one file if its name is new."""
        return Amount(self._start, 0 if self.replaces() else 1)

    def open_part_file(self) -> MemoryPartFile:
        """Return a handle of the part file."""
        return MemoryPartFile(self._home, self._content)

    def discard_written(self) -> None:
        """Keep nothing that was written."""
        self._discard = len(self._content.data) > self._start

    def replaces(self) -> bool:
        """Return whether something has the name now."""
        return self._parts in self._home.nodes

    def measure(self, charged: Container[Hashable]) -> Amount:
        """Return what the name and its part file hold now."""
        return self._home.measure((self._parts,), charged)


class MemoryPartFile:
    """A handle of a part file, which may have become a file."""

    def __init__(self, home: MemoryHome, content: Content) -> None:
        self._home = home
        self.identity = content

    def amount(self) -> Amount:
        """Return what the home holds of it now."""
        contents = [node.content for node in self._home.nodes.values()] + list(self._home.parts.values())
        return Amount(len(self.identity.data), 1) if self.identity in contents else Amount()

    def close(self) -> None:
        """Nothing is open."""


class MemoryDirectories:
    """The directories of a home, for listings. The names in it follow those of `at`."""

    def __init__(self, home: MemoryHome, permissions: Permissions, at: Parts) -> None:
        self._home = home
        self._permissions = permissions
        self._at = at

    def require(self, path: VirtualPath, *permissions: str) -> Parts:
        """Return the names below the home of a path at which one of the permissions holds."""
        if self._permissions.at(path.parts).isdisjoint(permissions):
            raise Refusal(550, f"{path}: no permission to {permissions[0]}.")
        return path.parts[len(self._at) :]

    def entry_of(self, parts: Parts, name: str) -> Entry:
        """Return the facts of what has a path in the home."""
        part = self._home.parts.get(parts)
        if parts not in self._home.nodes and part is not None and part.data and not part.uploading:
            return Entry(name, stat.S_IFREG | 0o600, len(part.data), 1_700_000_000.0, 0, id(part), incomplete=True)
        node = self._home.find(parts)
        return Entry(name, node.mode, node.size, node.modified, 0, id(node))

    def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Return the facts of a name."""
        return self.entry_of(self.require(path, *permissions), path.name)

    def portions(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None]:
        """Yield the entries of a directory."""
        parts = self.require(path, "list")
        if with_dots:
            yield [self.entry_of(parts, "."), self.entry_of(parts, "..")]
        if self._home.find(parts).content is not None:
            raise _error(errno.ENOTDIR)
        cut = {each for each, part in self._home.parts.items() if part.data and not part.uploading}
        yield [self.entry_of(each, each[-1]) for each in {*self._home.nodes, *cut} if each and each[:-1] == parts]

    def listed(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None] | Entry:
        """Return the portions of a directory, or the entry of what is none."""
        return entry_or_portions(self, path, with_dots, is_timed)

    def are_in_order(self, path: VirtualPath) -> bool:
        """Return False: there is one portion."""
        return False

    def names_below(self, path: VirtualPath) -> Iterator[list[str]]:
        """Yield the names of the directories in a directory."""
        for portion in self.portions(path, False):
            yield [each.name for each in portion if each.is_directory]


class MemoryFiles:
    """The files of one user in one session."""

    walking = False
    root = None

    def __init__(self, home: MemoryHome, mount: Mount) -> None:
        self._home = home
        self._permissions = mount.permissions
        self._at = mount.at
        self.directories = MemoryDirectories(home, mount.permissions, mount.at)
        self._require, self._entry = self.directories.require, self.directories.entry_of
        self._listings = Listings(self.directories)
        self._counter: ChangeCounter | None = None

    def count_changes(self, counter: ChangeCounter) -> None:
        """Call the counter around each change from now on."""
        self._counter = counter

    def stop(self, reply: Reply) -> None:
        """No walk takes any time."""

    def close(self) -> None:
        """Nothing is open."""

    def _changing(self, *paths: Parts) -> AbstractContextManager[object]:
        return nullcontext() if self._counter is None else self._counter.changing(partial(self._home.measure, paths))

    # --- transfers ---------------------------------------------------------------------------------

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Return the opening of a listing."""
        return partial(self._listings.listing, path, request, line)

    def reader(self, path: VirtualPath, offset: int, end: int | None, checksum: str = "") -> Opening[Reader]:
        """Return the opening of a file for reading."""

        def open() -> MemoryReader:
            parts = self._require(path, "download")
            entry = self._entry(parts, path.name)
            if entry.incomplete:
                raise Refusal(550, f"Upload of {path} is incomplete: resume or delete it.")
            content = self._home.find(parts).content
            if content is None:
                raise Refusal(550, "Not a plain file.")
            require_in_file(offset, end, len(content.data))
            return MemoryReader(bytes(content.data), offset, end)

        return open

    def writer(
        self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False
    ) -> Opening[interfaces.Upload]:
        """Return the opening of an upload."""
        return partial(self._begin, path, offset, append, unique)

    def _begin(self, path: VirtualPath, offset: int, append: bool, unique: bool) -> interfaces.Upload:
        asked = parts = path.parts[len(self._at) :]
        if not parts:
            raise _error(errno.EISDIR)
        while unique and (parts in self._home.nodes or parts in self._home.parts or parts == asked):
            parts = (*asked[:-1], f"{path.name}.{os.urandom(4).hex()}")
        self._home.find(parts[:-1])
        old = self._home.nodes.get(parts)
        if old is not None and old.content is None:
            raise Refusal(550, "Not a plain file.")
        self._require(path, "upload" if old is None else "append" if append else "overwrite")
        may_replace = old is not None or "overwrite" in self._permissions.at((*self._at, *parts))
        begin: Callable[[], Upload] = partial(MemoryUpload, self._home, parts, may_replace, offset, append)
        if self._counter is None:
            return begin()
        return self._counter.upload(partial(self._home.measure, (parts,)), begin)

    # --- looking -----------------------------------------------------------------------------------

    async def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Return the facts of a name."""
        return self._entry(self._require(path, *permissions), path.name)

    async def require_directory(self, path: VirtualPath) -> None:
        """Return if the path is a directory in which the user has any permission."""
        if self._home.find(path.parts[len(self._at) :]).content is not None:
            raise _error(errno.ENOTDIR)
        if not self._permissions.at(path.parts):
            raise Refusal(550, f"{path}: no permission.")

    async def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> list[Entry]:
        """Return the first entries of a listing."""
        steps = self._listings.first_entries(path, request, limit)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: list[Entry] = end.value
                return found

    async def size(self, path: VirtualPath) -> int:
        """Return the size of a file, or of the part file of an upload that was cut."""
        entry = self._entry(self._require(path, "list", "download", "upload"), path.name)
        if entry.is_directory:
            raise Refusal(550, "Not a plain file.")
        return entry.size

    async def free_space(self, path: VirtualPath) -> int:
        """Return the free bytes of the disk."""
        self._home.find(path.parts[len(self._at) :])
        return self._home.free

    async def available_space(self, path: VirtualPath) -> int:
        """Return the free bytes for a new file."""
        self._require(path, "list")
        return await self.free_space(path)

    async def usage(self, path: VirtualPath) -> Usage | None:
        """Return None: nobody counts."""
        return None

    # --- changes -----------------------------------------------------------------------------------

    async def make_directory(self, path: VirtualPath) -> None:
        """Make an empty directory."""
        parts = self._require(path, "mkdir")
        if parts in self._home.nodes:
            raise _error(errno.EEXIST)
        self._home.find(parts[:-1])
        with self._changing(parts):
            if self._counter is not None:
                self._counter.require_a_file()
            self._home.nodes[parts] = Node()

    async def remove_directory(self, path: VirtualPath) -> None:
        """Remove an empty directory."""
        parts = self._require_removable(path)
        if self._home.below(parts):
            raise _error(errno.ENOTEMPTY)
        self._remove(parts)

    async def remove_tree(self, path: VirtualPath) -> None:
        """Remove a directory and all below it."""
        parts = self._require_removable(path)
        for permission in ("delete", "rmdir"):
            if not self._permissions.throughout(path.parts, permission):
                raise Refusal(550, f"{path}: no permission to delete some of its contents.")
        self._remove(parts)

    def _require_removable(self, path: VirtualPath) -> Parts:
        _require_below_root(path.parts[len(self._at) :])
        parts = self._require(path, "rmdir")
        if self._home.find(parts).content is not None:
            raise _error(errno.ENOTDIR)
        return parts

    def _remove(self, top: Parts) -> None:
        gone = [top, *(each for each in {*self._home.nodes, *self._home.parts} if each[: len(top)] == top != each)]
        with self._changing(*gone):
            for parts in gone:
                self._home.nodes.pop(parts, None)
                self._home.parts.pop(parts, None)

    async def remove(self, path: VirtualPath) -> None:
        """Remove a file, or the part file of an upload that was cut."""
        _require_below_root(path.parts[len(self._at) :])
        parts = self._require(path, "delete")
        if self._entry(parts, path.name).is_directory:
            raise _error(errno.EISDIR)
        self._remove(parts)

    async def rename(self, old: VirtualPath, new: VirtualPath) -> None:
        """Rename a file or directory."""
        _require_below_root(old.parts[len(self._at) :])
        source, target = self._require(old, "rename"), self._require(new, "rename")
        moved, replaced = self._home.find(source), self._home.nodes.get(target)
        self._home.find(target[:-1])
        needed = "rmdir" if moved.content is None else "overwrite"
        if replaced is not None and needed not in self._permissions.at(new.parts):
            raise Refusal(553, f"{new} already exists.")
        if target[: len(source)] == source != target:
            raise _error(errno.EINVAL)
        if replaced is not None and self._home.below(target):
            raise _error(errno.ENOTEMPTY)
        if replaced is not None and (replaced.content is None) != (moved.content is None):
            raise _error(errno.EISDIR if replaced.content is None else errno.ENOTDIR)
        with self._changing(source, target):
            for parts in [source, *self._home.below(source)]:
                self._home.nodes[target + parts[len(source) :]] = self._home.nodes.pop(parts)
            if source != target:
                self._home.parts.pop(target, None)

    async def move_to(self, other: Files, old: VirtualPath, new: VirtualPath) -> None:
        """Raise Refusal: that would be a copy."""
        raise Refusal(553, "The new name is on another disk.")

    async def set_time(self, path: VirtualPath, modified: float) -> float:
        """Set the time of modification."""
        _require_below_root(path.parts[len(self._at) :])
        self._home.find(self._require(path, "times")).modified = modified
        return modified

    async def set_mode(self, path: VirtualPath, mode: int, directory_mode: int | None = None) -> int:
        """Set the permission bits."""
        _require_below_root(path.parts[len(self._at) :])
        node = self._home.find(self._require(path, "chmod"))
        if node.content is None and directory_mode is not None:
            mode = directory_mode
        node.mode = stat.S_IFMT(node.mode) | mode
        return mode


def _require_below_root(parts: Parts) -> None:
    if not parts:
        raise Refusal(550, "The root directory cannot be changed.")


class MemoryBackend:
    """Homes and folders in memory, by their places."""

    def __init__(self) -> None:
        self.homes: dict[str, MemoryHome] = {}
        self._usages: dict[str, HomeUsage] = {}

    async def open(self, user: User, session: SessionInfo, mount: Mount | None = None) -> Files:
        """Return the files of a user for one session. A user without a home has one with the user's name."""
        mount = mount or Mount(user.name, user.settings.permission_rules, user.settings.quota)
        home = self.homes.setdefault(mount.place, MemoryHome())
        files = MemoryFiles(home, mount)
        if mount.quota == QuotaSettings():
            return files
        usage = self._usages.setdefault(mount.place, HomeUsage(mount.place, home, LocalHomeCount()))
        usage.enter()
        for _ in usage.count(lambda: 0.0):
            pass
        return QuotaFiles(files, Quota(usage, QuotaLimits(mount.quota), mount.at))


def contents(home: MemoryHome) -> Mapping[str, bytes]:
    """Return the files of a home by their paths."""
    return {"/".join(parts): bytes(node.content.data) for parts, node in home.nodes.items() if node.content is not None}
