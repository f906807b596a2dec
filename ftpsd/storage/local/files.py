"""A home that is a directory of this machine: the backend, and the files of one session."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial

from twisted.internet.defer import Deferred, succeed

from ftpsd.config.settings import QuotaSettings
from ftpsd.events.types import SessionInfo
from ftpsd.outbox.claims import SessionJournal
from ftpsd.protocol.interfaces import Opening, Reader, Source, Upload, Usage
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.storage import backend
from ftpsd.storage.backend import ChangeCounter, Mount, User, mount_of_home
from ftpsd.storage.listings import Listings
from ftpsd.storage.local.directories import LocalDirectories
from ftpsd.storage.local.entries import Entries
from ftpsd.storage.local.jail import Jail
from ftpsd.storage.local.move import move, other_storage
from ftpsd.storage.local.root import Root, process_umask
from ftpsd.storage.quota import Quotas
from ftpsd.storage.quota_wrapper import QuotaFiles
from ftpsd.storage.walks import Walks
from ftpsd.system.worker_threads import WorkerThreads

#: Returns the journal for the changes of a session in a home, or None if no rule wants their events.
Journals = Callable[[SessionInfo, str], SessionJournal | None]


class LocalBackend:
    """Homes and folders that are directories of this machine. With `fsync`, an upload is on the disk before it is
    published.

    `journals` makes the journal of a session, if rules want events of its user. `groups` are those with a quota.
    """

    def __init__(
        self,
        workers: WorkerThreads,
        quotas: Quotas,
        fsync: bool,
        journals: Journals = lambda session, home: None,
        groups: Mapping[str, QuotaSettings] | None = None,
    ) -> None:
        self._workers = workers
        self._quotas = quotas
        self._fsync = fsync
        self._journals = journals
        self._groups = groups or {}

    async def open(self, user: User, session: SessionInfo, mount: Mount | None = None) -> backend.Files:
        """Return the files of a home or folder for one session (see `Backend`).

        Raises FileNotFoundError for a folder with a quota that is missing and was never counted. What it holds when it
        is back would not be in the count.
        """
        mount = mount or mount_of_home(user)
        # A folder counts for itself, and for no group.
        names = () if mount.at else user.settings.groups
        groups = {name: self._groups[name] for name in names if name in self._groups}
        quota = await self._quotas.begin(mount.place, mount.quota, groups, mount.at)
        if quota is not None and mount.at and quota.usage.counted is None:
            quota.usage.leave()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), mount.place)
        files = LocalFiles(self._workers, user, mount, self._fsync, self._journals(session, mount.place))
        return files if quota is None else QuotaFiles(files, quota)


class LocalFiles:
    """The files of one home or folder in one session. See `CountableFiles` for what the methods do.

    Threading: the session calls the methods in the reactor thread. Each gives its blocking part to a worker thread:
    `_call` is for what takes a few disk calls, `_walks` for what goes through directories, which ABOR can end.
    `listing`, `reader` and `writer` return their blocking part, and a transfer begins with it in its own thread.
    """

    def __init__(
        self, workers: WorkerThreads, user: User, mount: Mount, fsync: bool, journal: SessionJournal | None = None
    ) -> None:
        self._call = workers.queue(user.name).call
        self._walks = walks = Walks(workers.queue(user.name, "walk"))
        self.stop, self.close = walks.stop, walks.close
        jail = Jail(mount, user.settings.name_rules)
        self._entries = entries = Entries(jail)
        self.directories = LocalDirectories(jail, entries)
        self._listings = Listings(self.directories)
        umask = process_umask() if user.settings.umask is None else user.settings.umask
        #: What `move_to` of other files of this kind needs.
        self.root = Root(jail, entries, umask, fsync, journal)

    # --- for transfers -----------------------------------------------------------------------------

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Return the opening of a listing."""
        return partial(self._listings.listing, path, request, line)

    def reader(self, path: VirtualPath, offset: int, end: int | None, checksum: str = "") -> Opening[Reader]:
        """Return the opening of a file for reading."""
        return partial(self.root.reader, path, offset, end)

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Opening[Upload]:
        """Return the opening of an upload."""
        return partial(self.root.writer, path, offset, append, unique)

    # --- a few disk calls --------------------------------------------------------------------------

    def entry(self, path: VirtualPath, *permissions: str) -> Deferred[Entry]:
        """Return the facts of a name."""
        return self._call(self._entries.entry, path, *permissions)

    def require_directory(self, path: VirtualPath) -> Deferred[None]:
        """Return if the path is a directory in which the user has any permission."""
        return self._call(self._entries.require_directory, path)

    def make_directory(self, path: VirtualPath) -> Deferred[None]:
        """Make an empty directory."""
        return self._call(self.root.make_directory, path)

    def remove(self, path: VirtualPath) -> Deferred[None]:
        """Remove a file, a link, or the part file of an upload that was cut."""
        return self._call(self.root.remove, path)

    def rename(self, old: VirtualPath, new: VirtualPath) -> Deferred[None]:
        """Rename a file or directory."""
        return self._call(self.root.rename, old, new)

    def move_to(self, other: backend.Files, old: VirtualPath, new: VirtualPath) -> Deferred[None]:
        """Rename a file to a path in another home or folder."""
        root = getattr(other, "root", None)
        if not isinstance(root, Root):
            raise other_storage()
        return self._call(move, self.root, root, old, new)

    def set_time(self, path: VirtualPath, modified: float) -> Deferred[float]:
        """Set the time of modification."""
        return self._call(self.root.set_time, path, modified)

    def set_mode(self, path: VirtualPath, mode: int, directory_mode: int | None = None) -> Deferred[int]:
        """Set the permission bits."""
        return self._call(self.root.set_mode, path, mode, directory_mode)

    def size(self, path: VirtualPath) -> Deferred[int]:
        """Return the size of a file in bytes."""
        return self._call(self.root.size, path)

    def free_space(self, path: VirtualPath) -> Deferred[int]:
        """Return the free bytes of the disk."""
        return self._call(self.root.free_space, path)

    def available_space(self, path: VirtualPath) -> Deferred[int]:
        """Return the free bytes for a new file."""
        return self._call(self.root.free_space, path, "list")

    def usage(self, path: VirtualPath) -> Deferred[Usage | None]:
        """Return None: nobody counts."""
        return succeed(None)

    # --- walks -------------------------------------------------------------------------------------

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> Deferred[list[Entry]]:
        """Return the first entries of a listing."""
        return self._walks.run(self._listings.first_entries(path, request, limit))

    def remove_directory(self, path: VirtualPath) -> Deferred[None]:
        """Remove an empty directory."""
        return self._walks.run(self.root.remove_directory(path))

    def remove_tree(self, path: VirtualPath) -> Deferred[None]:
        """Remove a directory and all below it."""
        return self._walks.run(self.root.remove_tree(path))

    @property
    def walking(self) -> bool:
        """Whether a command walks through a directory or a tree now."""
        return self._walks.walking

    # --- the session -------------------------------------------------------------------------------

    def count_changes(self, counter: ChangeCounter) -> None:
        """Call the counter around each change from now on."""
        self.root.counter = counter
