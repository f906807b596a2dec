"""A home that is a directory of this machine: the backend, and the files of one session."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from ftpsd.config.settings import UserSettings
from ftpsd.events.types import SessionInfo
from ftpsd.outbox.claims import SessionJournal
from ftpsd.protocol.interfaces import Opening, Reader, Source, Upload, Usage
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.storage import backend
from ftpsd.storage.backend import ChangeCounter, User
from ftpsd.storage.local.entries import Entries
from ftpsd.storage.local.jail import Jail
from ftpsd.storage.local.listings import Listings
from ftpsd.storage.local.root import Root, process_umask
from ftpsd.storage.quota import Quota, Quotas
from ftpsd.storage.quota_wrapper import QuotaFiles
from ftpsd.system.worker_threads import JobSteps, WorkerThreads

T = TypeVar("T")

#: Returns the journal for the changes of a session in a home, or None if no rule wants their events.
Journals = Callable[[SessionInfo, str], SessionJournal | None]


class LocalBackend:
    """Homes that are directories of this machine. With `fsync`, an upload is on the disk before it is published.

    `journals` makes the journal of a session, if rules want events of its user.
    """

    def __init__(
        self, workers: WorkerThreads, quotas: Quotas, fsync: bool, journals: Journals = lambda session, home: None
    ) -> None:
        self._workers = workers
        self._quotas = quotas
        self._fsync = fsync
        self._journals = journals

    async def open(self, user: User, session: SessionInfo) -> backend.Files:
        """Return the files of a user for one session (see `Backend`)."""
        settings = user.settings
        entered = self._quotas.enter(settings.home or "")
        usage = None if entered is None else await entered
        files = LocalFiles(
            self._workers, user.name, settings, self._fsync, self._journals(session, settings.home or "")
        )
        return files if usage is None else QuotaFiles(files, Quota(usage, settings.quota))


class LocalFiles:
    """The files of one user in one session. See `CountableFiles` for what the methods do.

    Threading: the session calls the methods in the reactor thread. Each gives its blocking part to a worker thread:
    `_call` is for what takes a few disk calls, `_walk` for what goes through directories, which ABOR can end.
    `listing`, `reader` and `writer` return their blocking part, and a transfer begins with it in its own thread.
    """

    def __init__(
        self,
        workers: WorkerThreads,
        owner: str,
        user: UserSettings,
        fsync: bool,
        journal: SessionJournal | None = None,
    ) -> None:
        self._call = workers.queue(owner).call
        self._walks = workers.queue(owner, "walk")
        self._running: Deferred[Any] | None = None
        self._stop: Refusal | None = None
        jail = Jail(user.home or "", user.permission_rules, user.name_rules)
        self._entries = Entries(jail)
        self._listings = Listings(jail, self._entries)
        umask = process_umask() if user.umask is None else user.umask
        self._root = Root(jail, self._entries, umask, fsync, journal)

    # --- for transfers -----------------------------------------------------------------------------

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Return the opening of a listing."""
        return partial(self._listings.listing, path, request, line)

    def reader(self, path: VirtualPath, offset: int, end: int | None) -> Opening[Reader]:
        """Return the opening of a file for reading."""
        return partial(self._root.reader, path, offset, end)

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Opening[Upload]:
        """Return the opening of an upload."""
        return partial(self._root.writer, path, offset, append, unique)

    # --- a few disk calls --------------------------------------------------------------------------

    def entry(self, path: VirtualPath, *permissions: str) -> Deferred[Entry]:
        """Return the facts of a name."""
        return self._call(self._entries.entry, path, *permissions)

    def require_directory(self, path: VirtualPath) -> Deferred[None]:
        """Return if the path is a directory in which the user has any permission."""
        return self._call(self._entries.require_directory, path)

    def make_directory(self, path: VirtualPath) -> Deferred[None]:
        """Make an empty directory."""
        return self._call(self._root.make_directory, path)

    def remove(self, path: VirtualPath) -> Deferred[None]:
        """Remove a file, a link, or the part file of an upload that was cut."""
        return self._call(self._root.remove, path)

    def rename(self, old: VirtualPath, new: VirtualPath) -> Deferred[None]:
        """Rename a file or directory."""
        return self._call(self._root.rename, old, new)

    def set_time(self, path: VirtualPath, modified: float) -> Deferred[float]:
        """Set the time of modification."""
        return self._call(self._root.set_time, path, modified)

    def set_mode(self, path: VirtualPath, mode: int, directory_mode: int | None = None) -> Deferred[int]:
        """Set the permission bits."""
        return self._call(self._root.set_mode, path, mode, directory_mode)

    def size(self, path: VirtualPath) -> Deferred[int]:
        """Return the size of a file in bytes."""
        return self._call(self._root.size, path)

    def free_space(self, path: VirtualPath) -> Deferred[int]:
        """Return the free bytes of the disk."""
        return self._call(self._root.free_space, path)

    def available_space(self, path: VirtualPath) -> Deferred[int]:
        """Return the free bytes for a new file."""
        return self._call(self._root.free_space, path, "list")

    def usage(self) -> Deferred[Usage | None]:
        """Return None: nobody counts."""
        return succeed(None)

    # --- walks -------------------------------------------------------------------------------------

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> Deferred[list[Entry]]:
        """Return the first entries of a listing."""
        return self._walk(self._listings.first_entries(path, request, limit))

    def remove_directory(self, path: VirtualPath) -> Deferred[None]:
        """Remove an empty directory."""
        return self._walk(self._root.remove_directory(path))

    def remove_tree(self, path: VirtualPath) -> Deferred[None]:
        """Remove a directory and all below it."""
        return self._walk(self._root.remove_tree(path))

    def _walk(self, steps: JobSteps[T]) -> Deferred[T]:
        self._stop = None
        self._running = running = self._walks.run(steps)
        return running.addErrback(self._explain)

    def _explain(self, failure: Failure) -> Failure:
        return failure if self._stop is None else Failure(self._stop)

    @property
    def walking(self) -> bool:
        """Whether a command walks through a directory or a tree now."""
        return self._running is not None and not self._running.called

    def stop(self, reply: Reply) -> None:
        """End the walk that runs, if there is one."""
        if self._running is not None and self.walking:
            self._stop = Refusal(reply.code, *reply.lines)
            self._running.cancel()

    # --- the session -------------------------------------------------------------------------------

    def count_changes(self, counter: ChangeCounter) -> None:
        """Call the counter around each change from now on."""
        self._root.counter = counter

    def close(self) -> None:
        """End the walk that runs, if there is one."""
        if self._running is not None:
            self._running.cancel()
