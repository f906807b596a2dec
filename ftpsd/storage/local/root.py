"""Files and directories below one root: open and change them (see `jail.py`). Everything here blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial

from ftpsd.data.endpoints import FileSource
from ftpsd.outbox.claims import SessionJournal
from ftpsd.protocol import interfaces
from ftpsd.protocol.name_rules import Match, folded
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage import backend
from ftpsd.storage.backend import ChangeCounter
from ftpsd.storage.claimed_upload import ClaimedUpload
from ftpsd.storage.local import part_files, tree
from ftpsd.storage.local.entries import Entries
from ftpsd.storage.local.jail import Jail, Place, not_plain, require_below_root, require_no_folder
from ftpsd.storage.local.measure import measure
from ftpsd.storage.local.rename import rename_new
from ftpsd.storage.local.upload import Replaces, Target, begin_upload, exists, free_name
from ftpsd.system.jobs.job_lock import LockSteps, repeated
from ftpsd.system.jobs.job_queue import JobSteps

#: A body that is not counted.
_UNCOUNTED = nullcontext()


@cache
def process_umask() -> int:
    """Return the umask of the process. The first call must come before there are threads: to read it is to set it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


class Root:
    """Files and directories of one user."""

    def __init__(
        self, jail: Jail, entries: Entries, umask: int, fsync: bool, journal: SessionJournal | None = None
    ) -> None:
        self.jail = jail
        self._entries = entries
        self._umask = umask
        self.fsync = fsync
        self.journal = journal
        #: Counts changes of names, if somebody has a quota in the home.
        self.counter: ChangeCounter | None = None

    # --- files -------------------------------------------------------------------------------------

    def size(self, path: VirtualPath) -> int:
        """Return the size of a file, or that of the part file of an upload that was cut if there is no file."""
        jail = self.jail
        with jail.place(path, None) as place:
            try:
                found = place.first_stat()
            except FileNotFoundError:
                jail.require_any(place, "list", "download", "upload")
                if "upload" not in jail.permissions(place):
                    raise
                return part_files.resumable(place.directory, part_files.part_name(place.name))[1].st_size
            jail.require_any(place, "list", "download")
        if not stat.S_ISREG(found.st_mode):
            raise not_plain()
        return found.st_size

    def free_space(self, path: VirtualPath, permission: str | None = None) -> int:
        """Return the free bytes of the disk that holds a path."""
        with self.jail.place(path, permission) as place:
            with _pinned(place) as descriptor:
                found = os.fstatvfs(descriptor)
        return found.f_bavail * found.f_frsize

    def reader(self, path: VirtualPath, offset: int, end: int | None) -> FileSource:
        """Open a file for reading from `offset` to its present end: bytes that are appended later are not sent.

        SIZE has returned the present size, and curl closes a connection that sends more.
        """
        # To look for a link before would be a system call for each file.
        opened = _open_file(self, path, follow=False) or _open_file(self, path, follow=True)
        if opened is None:  # it was swapped for a link again
            raise not_plain()
        descriptor, size = opened
        try:
            backend.require_in_file(offset, end, size)
        except Refusal:
            os.close(descriptor)
            raise
        if size:  # files of /proc have size 0: they are read until they end
            end = size if end is None else min(end, size)
        return FileSource(descriptor, offset, end, size)

    def writer(
        self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False
    ) -> interfaces.Upload:
        """Begin an upload. Nobody sees it before it is published."""
        if not self.jail.below(path.parts):
            raise IsADirectoryError(errno.EISDIR, "root")
        jail = self.jail
        with jail.new_place(path, None) as place:
            there = not unique and _is_file(place)
            jail.require("upload" if not there else "append" if append else "overwrite", place)
            name = place.name
            if unique:
                name = free_name(place.directory, name)
                jail.require_name((name,))
            replaces: Replaces = "the old file" if there else "nothing"
            if not unique and "overwrite" in jail.permissions(place):
                replaces = "anything"
            claim = None
            if self.journal is not None:
                virtual = path.parent.child(name) if unique else path
                claim = self.journal.upload(virtual, jail.below((*place.parts[:-1], name)), append, offset)
            # A directory without read permission can be opened with O_PATH only, which fsync does not take.
            flags = (os.O_RDONLY if self.fsync else os.O_PATH) | os.O_DIRECTORY | os.O_CLOEXEC

            def begin() -> backend.Upload:
                directory = os.open(".", flags, dir_fd=place.directory)
                upload = begin_upload(Target(directory, name, append, replaces, self._umask, self.fsync), offset)
                return upload if claim is None else ClaimedUpload(upload, claim)

            if self.counter is None:
                return begin()
            return self.counter.upload(partial(measure, ((place.directory, name),)), begin)

    # --- changes -----------------------------------------------------------------------------------

    def _changing(self, *names: tuple[int, str]) -> AbstractContextManager[object]:
        """Count what the body does to names, given with their directories, and to their part files."""
        return _UNCOUNTED if self.counter is None else self.counter.changing(partial(measure, names))

    def make_directory(self, path: VirtualPath) -> None:
        """Make an empty directory."""
        if not self.jail.below(path.parts):
            raise FileExistsError(errno.EEXIST, "root")
        mode = 0o777 & ~self._umask
        with self.jail.new_place(path, "mkdir", follow=False) as place:
            with self._changing((place.directory, place.name)):
                if self.counter is not None and not exists(place.directory, place.name):
                    self.counter.require_a_file()
                os.mkdir(place.name, mode, dir_fd=place.directory)
            if mode & process_umask():  # the kernel has masked these bits
                with _pinned(place) as descriptor:
                    _set_mode(descriptor, mode | os.fstat(descriptor).st_mode & stat.S_ISGID)

    def remove_directory(self, path: VirtualPath) -> LockSteps[None]:
        """Remove an empty directory, but not a link to one."""
        with self.changeable(path, "rmdir") as place:
            yield from part_files.clear_directory(place.directory, place.name, lambda *name: self._changing(name))
            yield from repeated(self._delete, place.directory, place.name, True)

    def remove_tree(self, path: VirtualPath) -> LockSteps[None]:
        """Remove a directory and all below it. Of links in it, their targets stay."""
        with self.changeable(path, "rmdir") as place:
            if not stat.S_ISDIR(place.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            hidden = self.jail.name_rules.hidden
            if hidden is not None and (yield from _contains_match(place, hidden)):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            for permission in ("delete", "rmdir"):
                if not self.jail.throughout(place, permission):
                    raise Refusal(550, f"{path}: no permission to delete some of its contents.")
            yield from tree.remove(place.directory, place.name, self._delete)

    def _delete(self, directory: int, name: str, is_directory: bool) -> None:
        with self._changing((directory, name)):  # one by one: other sessions need not wait for the whole tree
            tree.delete(directory, name, is_directory)

    def remove(self, path: VirtualPath) -> None:
        """Remove a file or a link, and the part file of an upload of that name that was cut."""
        with self.changeable(path, "delete") as place:
            there = exists(place.directory, place.name)
            if there and stat.S_ISDIR(place.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, "directory")
            name = place.name if there else part_files.part_name(place.name)
            with self._changing((place.directory, place.name)), _removing(self, path, place, name):
                if there:
                    os.unlink(place.name, dir_fd=place.directory)
                if not part_files.remove_unused(place.directory, place.name) and not there:
                    raise FileNotFoundError(errno.ENOENT, "no file, and no upload of that name was cut")

    def rename(self, old: VirtualPath, new: VirtualPath) -> None:
        """Rename a file or directory. What has the new name is replaced if the user may overwrite."""
        jail = self.jail
        with self.changeable(old, "rename") as source, self.changeable(new, "rename", True) as target:
            for each in (source, target):
                # What a tree contains moves too, to where the rules below the target hold.
                if not jail.throughout(each, "rename"):
                    path = VirtualPath(each.parts)
                    raise Refusal(550, f"{path}: no permission to rename some of its contents.")
            # rename() replaces an empty directory by a directory only, and a file by a file.
            is_directory = stat.S_ISDIR(source.stat().st_mode)
            replace = ("rmdir" if is_directory else "overwrite") in jail.permissions(target)
            try:
                names = ((source.directory, source.name), (target.directory, target.name))
                with self._changing(*names), _renaming(self, old, new, source, target):
                    if replace or is_respelled(source, target):
                        os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)
                    else:
                        rename_new(source.directory, source.name, target.directory, target.name)
                    if not source.is_at(target):
                        # An upload of that name that was cut cannot be resumed: another file has the name now.
                        part_files.remove_unused(target.directory, target.name)
            except FileExistsError:
                if replace:
                    raise
                raise Refusal(553, f"{new} already exists.") from None

    def changeable(self, path: VirtualPath, permission: str, new: bool = False) -> Place:
        """Return the place of a name that is to be removed, renamed, or (`new`) created. Raises Refusal for a root."""
        require_below_root(self.jail, path.parts)
        place = (self.jail.new_place if new else self.jail.place)(path, permission, follow=False)
        return place.checked(require_no_folder, self.jail, place)

    def set_time(self, path: VirtualPath, modified: float) -> float:
        """Set the time of modification. Return the time that the disk stored, which may be rounded or clamped."""
        with self.jail.place(path, "times") as place:
            require_below_root(self.jail, place.parts)  # of the place, not of the path: a link may lead to the root
            require_no_folder(self.jail, place)
            accessed = place.stat().st_atime_ns
            os.utime(
                place.name,
                ns=(accessed, int(modified * 1_000_000_000)),
                dir_fd=place.directory,
                follow_symlinks=False,
            )
            return place.stat().st_mtime

    def set_mode(self, path: VirtualPath, mode: int, directory_mode: int | None = None) -> int:
        """Set the permission bits, also of a file that cannot be opened. Return those that the disk stored."""
        with self.jail.place(path, "chmod") as place:
            require_below_root(self.jail, place.parts)
            require_no_folder(self.jail, place)
            with _pinned(place) as descriptor:
                if directory_mode is not None and stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    mode = directory_mode
                _set_mode(descriptor, mode)
                return os.fstat(descriptor).st_mode & 0o777


def _open_file(root: Root, path: VirtualPath, follow: bool) -> tuple[int, int] | None:
    """Open a file for reading, by a link only with `follow`. Return its descriptor and size, or None for a link."""
    with root.jail.place(path, "download", follow) as place:
        try:
            return place.open_file()
        except FileNotFoundError:
            if root._entries.incomplete(place) is not None:
                raise Refusal(550, f"Upload of {path} is incomplete: resume or delete it.") from None
            raise


def _is_file(place: Place) -> bool:
    """Return whether there is a file; raise Refusal if there is something else."""
    try:
        found = place.first_stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise Refusal(550, "Not a plain file.")
    return True


def is_respelled(source: Place, target: Place) -> bool:
    """Return whether two names are the same file on a disk that ignores case: then nothing is replaced."""
    if source.name == target.name or folded(source.name) != folded(target.name):
        return False
    try:
        return os.path.samestat(source.stat(), target.stat())
    except FileNotFoundError:
        return False


def _contains_match(place: Place, match: Match) -> JobSteps[bool]:
    """Return whether a name below a directory matches."""
    for piece in tree.directories(place.name, place.directory):
        if any(match(name) for name in (*piece.names, *piece.directories)):
            return True
        yield
    return False


def _removing(root: Root, path: VirtualPath, place: Place, name: str) -> AbstractContextManager[object]:
    """Make the event of a removal durable, if a rule wants that. `name` is that of the file or of its part file."""
    if root.journal is None:
        return _UNCOUNTED
    parts = root.jail.below((*place.parts[:-1], name))
    return root.journal.removal(path, parts, partial(inode_of, place, name), partial(settle, root, place))


def _renaming(
    root: Root, old: VirtualPath, new: VirtualPath, source: Place, target: Place
) -> AbstractContextManager[object]:
    """Make the event of a rename durable, if a rule wants that."""
    if root.journal is None:
        return _UNCOUNTED
    parts, new_parts = root.jail.below(source.parts), root.jail.below(target.parts)
    inode = partial(inode_of, source, source.name)
    return root.journal.rename(old, new, parts, new_parts, inode, partial(settle, root, target, source))


def settle(root: Root, *places: Place) -> None:
    """With `fsync`, write names that were changed to the disk, those of the first place first."""
    for place in places if root.fsync else ():
        try:
            directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.directory)
        except PermissionError:
            continue  # fsync takes no descriptor of a directory that cannot be read
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def inode_of(place: Place, name: str) -> int:
    return os.stat(name, dir_fd=place.directory, follow_symlinks=False).st_ino


@contextmanager
def _pinned(place: Place) -> Iterator[int]:
    descriptor = place.pin()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _set_mode(descriptor: int, mode: int) -> None:
    """Set the permission bits of what was opened with O_PATH, which fchmod does not take."""
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    os.chmod(f"/proc/self/fd/{descriptor}", mode)
