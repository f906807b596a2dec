"""A home or folder in a store: the backend, and the files of one session."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping
from functools import partial

from twisted.internet.defer import Deferred, succeed

from ftpsd.config.settings import QuotaSettings
from ftpsd.events.types import SessionInfo
from ftpsd.limits.home_counts import Amount
from ftpsd.outbox.claims import SessionJournal
from ftpsd.protocol.interfaces import Opening, Reader, Source, Upload, Usage
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage import backend
from ftpsd.storage.backend import ChangeCounter, Mount, User, mount_of_home
from ftpsd.storage.listings import Listings
from ftpsd.storage.quota import Quotas
from ftpsd.storage.quota_wrapper import QuotaFiles
from ftpsd.storage.s3.calls.progress import PATIENT, Progress
from ftpsd.storage.s3.calls.tasks import RemoteListing, RemoteReader, RemoteUpload
from ftpsd.storage.s3.changes import Changes, HomeTools
from ftpsd.storage.s3.claims import Claims
from ftpsd.storage.s3.copying import Copier
from ftpsd.storage.s3.directories import S3Directories
from ftpsd.storage.s3.directory_changes import DirectoryChanges
from ftpsd.storage.s3.directory_renames import DirectoryRenames
from ftpsd.storage.s3.measure import measure_keys
from ftpsd.storage.s3.opening import Openings
from ftpsd.storage.s3.renames import Renames
from ftpsd.storage.s3.store import S3Store
from ftpsd.storage.s3.tree import Tree
from ftpsd.storage.s3.uploads.parts import Sending
from ftpsd.storage.s3.uploads.upload import UploadTools
from ftpsd.storage.walks import Walks

#: The free bytes that are reported where nothing limits them: 1 PiB.
_UNLIMITED = 1 << 50


#: Returns the journal for the changes of a session in a place, or None if no rule wants their events.
Journals = Callable[[SessionInfo, str], SessionJournal | None]


class S3Backend:
    """Homes and folders in one store. `journals` makes the journal of a session, if rules want events of its user."""

    def __init__(
        self,
        store: S3Store,
        quotas: Quotas,
        groups: Mapping[str, QuotaSettings] | None = None,
        journals: Journals = lambda session, home: None,
    ) -> None:
        self._journals = journals
        self._store = store
        self._quotas = quotas
        self._groups = groups or {}

    async def open(self, user: User, session: SessionInfo, mount: Mount | None = None) -> backend.Files:
        """Return the files of a home or folder for one session (see `Backend`)."""
        mount = mount or mount_of_home(user)
        names = () if mount.at else user.settings.groups
        groups = {name: self._groups[name] for name in names if name in self._groups}
        quota = await self._quotas.begin(mount.place, mount.quota, groups, mount.at)
        files = S3Files(self._store, user, mount, self._journals(session, mount.place))
        return files if quota is None else QuotaFiles(files, quota)


class S3Files:
    """The files of one home or folder in one session. See `CountableFiles` for what the methods do.

    Threading: the session calls the methods in the reactor thread. All calls of the store are made in its own threads.
    """

    def __init__(self, store: S3Store, user: User, mount: Mount, journal: SessionJournal | None = None) -> None:
        queue = store.queue(user.name)
        self._call, self._submit = queue.call, queue.submit
        self._walks = walks = Walks(queue)
        self.stop, self.close = walks.stop, walks.close
        self._store = store
        self._tree = tree = Tree(mount, user.settings.name_rules, store.prefix(mount.place))
        self.directories = S3Directories(tree, store.objects, store.cut, store.started, store.times, queue.submit)
        self._listings = Listings(self.directories)
        tools = HomeTools(tree, store.objects, store.cut, self.directories, queue.submit)
        self._changes = changes = Changes(tools, Claims(store.name, tree, journal))
        self._trees = trees = DirectoryChanges(tools, changes)
        copier = Copier(store.objects, store.multiparts, changes.changing)
        of_directories = DirectoryRenames(tools, changes, trees, copier, store.settings.rename_directories)
        self._renames = Renames(tools, changes, copier, of_directories)
        sending = Sending(store.multiparts, store.memory, queue.submit, user.name, store.settings.parallel)
        upload_tools = UploadTools(
            store.name,
            store.objects,
            store.cut,
            sending,
            self._measure,
            store.settings.part_size,
            store.least_part,
            store.least_kept,
        )
        self._openings = Openings(tree, self.directories, self._changes, upload_tools)
        #: Nothing: files are not moved to other storage.
        self.root = None

    def _measure(self, keys: tuple[str, ...], charged: Container[Hashable]) -> Amount:
        return measure_keys(self._store.objects, self._store.cut, keys, charged)

    def _settle(self, path: VirtualPath) -> None:
        """Wait until an upload of this path that was cut is closed. In a thread of the store."""
        self._store.closing.wait(self._tree.prefix + "/".join(self._tree.below(path.parts)))

    # --- for transfers -----------------------------------------------------------------------------

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Return the opening of a listing."""
        return partial(RemoteListing, self._submit, partial(self._listings.listing, path, request, line))

    def reader(self, path: VirtualPath, offset: int, end: int | None, checksum: str = "") -> Opening[Reader]:
        """Return the opening of a file for reading."""
        return partial(RemoteReader, self._submit, partial(self._openings.reader, path, offset, end, checksum))

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Opening[Upload]:
        """Return the opening of an upload."""

        key = self._tree.prefix + "/".join(self._tree.below(path.parts))

        def open() -> Upload:
            progress = Progress()

            def begin() -> Upload:
                self._settle(path)
                return self._openings.writer(path, offset, append, unique, progress)

            return RemoteUpload(self._submit, begin, self._store.closing, key, progress)

        return open

    # --- a few calls of the store ------------------------------------------------------------------

    def entry(self, path: VirtualPath, *permissions: str) -> Deferred[Entry]:
        """Return the facts of a name."""

        def entry() -> Entry:
            self._settle(path)
            return self.directories.entry(path, *permissions)

        return self._call(entry)

    def require_directory(self, path: VirtualPath) -> Deferred[None]:
        """Return if the path is a directory in which the user has any permission."""
        return self._call(self.directories.require_directory, path)

    def make_directory(self, path: VirtualPath) -> Deferred[None]:
        """Make an empty directory."""
        return self._call(self._trees.make_directory, path)

    def remove(self, path: VirtualPath) -> Deferred[None]:
        """Remove a file, or an upload that was cut."""

        def remove() -> None:
            self._settle(path)
            self._changes.remove(path)

        return self._call(remove)

    def size(self, path: VirtualPath) -> Deferred[int]:
        """Return the size of a file in bytes, or what is kept of an upload that was cut."""

        def size() -> int:
            self._settle(path)
            return self._openings.size(path)

        return self._call(size)

    async def set_time(self, path: VirtualPath, modified: float) -> float:
        """Raise Refusal: a store would have to copy the object for that."""
        self._tree.require(path, "times")
        self._tree.require_changeable(path)
        raise Refusal(550, "Times cannot be changed in an object store.")

    async def set_mode(self, path: VirtualPath, mode: int, directory_mode: int | None = None) -> int:
        """Raise Refusal: objects have no permission bits."""
        self._tree.require(path, "chmod")
        self._tree.require_changeable(path)
        raise Refusal(550, "Files in an object store have no permission bits.")

    async def move_to(self, other: backend.Files, old: VirtualPath, new: VirtualPath) -> None:
        """Raise Refusal: the new name is in another home or folder."""
        raise Refusal(
            553, "A file in an object store cannot be moved to another folder: download it and upload it there."
        )

    def free_space(self, path: VirtualPath) -> Deferred[int]:
        """Return a large number: a store does not say what it can take."""
        return succeed(_UNLIMITED)

    async def available_space(self, path: VirtualPath) -> int:
        """Return a large number, if the user may list."""
        self._tree.require(path, "list")
        return _UNLIMITED

    def usage(self, path: VirtualPath) -> Deferred[Usage | None]:
        """Return None: nobody counts."""
        return succeed(None)

    # --- walks -------------------------------------------------------------------------------------

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> Deferred[list[Entry]]:
        """Return the first entries of a listing."""
        return self._walks.run(self._listings.first_entries(path, request, limit))

    def rename(self, old: VirtualPath, new: VirtualPath) -> Deferred[None]:
        """Rename a file, or a directory of few objects. The store may work long for each of them."""
        return self._walks.run(self._renames.rename(old, new), PATIENT)

    def remove_directory(self, path: VirtualPath) -> Deferred[None]:
        """Remove an empty directory."""
        return self._walks.run(self._trees.remove_directory(path))

    def remove_tree(self, path: VirtualPath) -> Deferred[None]:
        """Remove a directory and all below it."""
        return self._walks.run(self._trees.remove_tree(path))

    @property
    def walking(self) -> bool:
        """Whether a command walks through a directory or a tree now."""
        return self._walks.walking

    # --- the session -------------------------------------------------------------------------------

    def count_changes(self, counter: ChangeCounter) -> None:
        """Call the counter around each change from now on."""
        self._changes.counter = counter
