"""What a user does with files and directories, below one root (see `jail.py`).

Everything here blocks, and runs in worker threads: `OffThread` is what a session is given.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.data.transfer import FileSource
from ftpsd.protocol.interfaces import Usage
from ftpsd.protocol.name_rules import Match, NameRules, folded
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import Permissions
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.storage.local import part_files, tree
from ftpsd.storage.local.jail import Place, not_plain
from ftpsd.storage.local.listings import View
from ftpsd.storage.local.rename import rename_new
from ftpsd.storage.local.upload import Replaces, Upload, exists, free_name
from ftpsd.system.worker_threads import JobSteps, Workers

T = TypeVar("T")


@cache
def process_umask() -> int:
    """What twistd, systemd or the shell have set for new files. Asked once, before there are threads."""
    umask = os.umask(0o077)  # the one way to ask is to set
    os.umask(umask)
    return umask


class Root(View):
    """One user's tree: what `session.Files` promises, as calls that block."""

    #: Permission bits that SITE CHMOD does not take from a directory.
    _directory_bits = 0

    def __init__(self, home: str, permissions: Permissions, umask: int, name_rules: NameRules, fsync: bool) -> None:
        super().__init__(home, permissions, name_rules)
        self._umask = umask
        self._fsync = fsync

    # --- what is there -----------------------------------------------------------------------------

    def size(self, path: VirtualPath) -> int:
        """The size of a file; of an upload that was cut, where there is no file yet."""
        with self.place(path, None) as place:
            try:
                found = place.stat()
            except FileNotFoundError:
                self.require_any(place, "list", "download", "upload")
                if "upload" not in self.permissions(place):
                    raise
                return part_files.kept(place.directory, part_files.part_name(place.name))[1].st_size
            self.require_any(place, "list", "download")
        if not stat.S_ISREG(found.st_mode):
            raise not_plain()
        return found.st_size

    def free_space(self, path: VirtualPath, permission: str | None = None) -> int:
        """The room on the disk that holds a path, in bytes."""
        with self.place(path, permission) as place:
            with _opened(place) as descriptor:
                found = os.fstatvfs(descriptor)
        return found.f_bavail * found.f_frsize

    def available_space(self, path: VirtualPath) -> int:
        """Return the room for a new file, in bytes."""
        return self.free_space(path, "list")

    def usage(self) -> Usage | None:
        """What the tree holds and may hold; None where nobody counts."""
        return None

    # --- files -------------------------------------------------------------------------------------

    def reader(self, path: VirtualPath, offset: int, end: int | None) -> FileSource:
        """Opens a file for reading from an offset on, as far as it goes now: bytes appended later are not part of it.

        SIZE has announced as much, and curl closes a connection that brings more.
        """
        with self.place(path, "download") as place:
            try:
                descriptor = place.open_file()
            except FileNotFoundError:
                if self.incomplete(place) is not None:
                    raise Refusal(550, f"The upload of {path} is not complete: resume or delete it.") from None
                raise
        try:
            found = os.fstat(descriptor)
            if offset > found.st_size and end is None:
                raise Refusal(554, f"The file has {found.st_size} bytes only.")
        except BaseException:
            os.close(descriptor)
            raise
        size = found.st_size
        if size:  # files of /proc have none, and end where they end
            end = size if end is None else min(end, size)
        return FileSource(descriptor, offset, end, size)

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Upload:
        """Opens an upload: nothing of it shows before it is published."""
        if not path.parts:
            raise IsADirectoryError(errno.EISDIR, "root")
        with self.new_place(path, None) as place:
            there = not unique and self._is_file(place)
            self.require("upload" if not there else "append" if append else "overwrite", place)
            name = place.name
            if unique:
                name = free_name(place.directory, name)
                self.require_name((name,))
            replaces: Replaces = "the old file" if there else "nothing"
            if not unique and "overwrite" in self.permissions(place):
                replaces = "anything"
            # One that may be written to but not read can be opened, if it is not to be synced.
            flags = (os.O_RDONLY if self._fsync else os.O_PATH) | os.O_DIRECTORY | os.O_CLOEXEC
            directory = os.open(".", flags, dir_fd=place.directory)
            return self._begin(place, (directory, name, offset, append, replaces, self._umask, self._fsync))

    def _begin(self, place: Place, how: tuple[Any, ...]) -> Upload:
        return Upload.begin(*how)

    @staticmethod
    def _is_file(place: Place) -> bool:
        try:
            found = place.stat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise Refusal(550, "That name belongs to something that is not a plain file.")
        return True

    # --- changes -----------------------------------------------------------------------------------

    def _changing(self, *names: tuple[int, str]) -> AbstractContextManager[Any]:
        """Around a change of names, given with their directories. A root with a quota counts here."""
        return nullcontext()

    def _making(self, directory: int, name: str) -> AbstractContextManager[Any]:
        """The same around the making of a directory."""
        return nullcontext()

    def make_directory(self, path: VirtualPath) -> None:
        """A new, empty directory."""
        if not path.parts:
            raise FileExistsError(errno.EEXIST, "root")
        mode = 0o777 & ~self._umask
        with self.new_place(path, "mkdir", follow=False) as place:
            with self._making(place.directory, place.name):
                os.mkdir(place.name, mode, dir_fd=place.directory)
            if mode & process_umask():  # which the kernel has taken off
                with _opened(place) as descriptor:
                    _set_mode(descriptor, mode | os.fstat(descriptor).st_mode & stat.S_ISGID)

    def remove_directory(self, path: VirtualPath) -> JobSteps[None]:
        """An empty directory; of a link, nothing."""
        with self._changeable(path, "rmdir") as place:
            yield from part_files.sweep_directory(place.directory, place.name, lambda *name: self._changing(name))
            with self._changing((place.directory, place.name)):
                os.rmdir(place.name, dir_fd=place.directory)

    def remove_tree(self, path: VirtualPath) -> JobSteps[None]:
        """A directory and all below it; links in it go, what they lead to stays."""
        with self._changeable(path, "rmdir") as place:
            if not stat.S_ISDIR(place.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            if self._name_rules.hidden is not None and (yield from _is_above(place, self._name_rules.hidden)):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            for permission in ("delete", "rmdir"):
                if not self.throughout(place, permission):
                    raise Refusal(550, f"{path}: there are parts in it that this account may not delete.")
            yield from tree.remove(place.directory, place.name, self._delete)

    def _delete(self, directory: int, name: str, is_directory: bool) -> None:
        with self._changing((directory, name)):  # one by one: other sessions need not wait until the tree is gone
            tree.delete(directory, name, is_directory)

    def remove(self, path: VirtualPath) -> None:
        """A file, or a link; where there is none, what an upload that was cut has left."""
        with self._changeable(path, "delete") as place, self._changing((place.directory, place.name)):
            there = exists(place.directory, place.name)
            if there and stat.S_ISDIR(place.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, "directory")
            if there:
                os.unlink(place.name, dir_fd=place.directory)
            if not part_files.forget(place.directory, place.name) and not there:
                raise FileNotFoundError(errno.ENOENT, "no file, and no upload of that name was cut")

    def rename(self, old: VirtualPath, new: VirtualPath) -> None:
        """Moves a name. What is there already is replaced if the user may overwrite."""
        with self._changeable(old, "rename") as source, self._changeable(new, "rename", True) as target:
            for each in (source, target):
                # A tree that arrives has names where the rules below its target hold.
                if not self.throughout(each, "rename"):
                    path = VirtualPath(each.parts)
                    raise Refusal(550, f"{path}: there are parts in it that this account may not rename.")
            # rename() puts a directory in the place of an empty directory only, and a file in that of a file.
            is_directory = stat.S_ISDIR(source.stat().st_mode)
            replace = ("rmdir" if is_directory else "overwrite") in self.permissions(target)
            try:
                with self._changing((source.directory, source.name), (target.directory, target.name)):
                    if replace or _is_respelled(source, target):
                        os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)
                    else:
                        rename_new(source.directory, source.name, target.directory, target.name)
                    if not source.is_at(target):
                        # What was cut under that name belongs to another file now.
                        part_files.forget(target.directory, target.name)
            except FileExistsError:
                if replace:
                    raise
                raise Refusal(553, f"{new} exists already.") from None

    @contextmanager
    def _changeable(self, path: VirtualPath, permission: str, new: bool = False) -> Iterator[Place]:
        _require_below_root(path.parts)
        with (self.new_place if new else self.place)(path, permission, follow=False) as place:
            yield place

    def set_time(self, path: VirtualPath, modified: float) -> float:
        """Set the time of modification, not that of access. Return what the disk stored: it may round, or clamp."""
        with self.place(path, "times") as place:
            _require_below_root(place.parts)  # of the place, not of the path: a link may lead to the root
            accessed = place.stat().st_atime_ns
            os.utime(
                place.name,
                ns=(accessed, int(modified * 1_000_000_000)),
                dir_fd=place.directory,
                follow_symlinks=False,
            )
            return place.stat().st_mtime

    def set_mode(self, path: VirtualPath, mode: int) -> int:
        """Set the permission bits, also of a file that cannot be opened. Return those that the disk stored."""
        with self.place(path, "chmod") as place:
            _require_below_root(place.parts)
            with _opened(place) as descriptor:
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    mode |= self._directory_bits
                _set_mode(descriptor, mode)
                return os.fstat(descriptor).st_mode & 0o777


def _is_respelled(source: Place, target: Place) -> bool:
    """Whether two names are one file on a disk that ignores their difference: nothing is replaced then."""
    if source.name == target.name or folded(source.name) != folded(target.name):
        return False
    try:
        return os.path.samestat(source.stat(), target.stat())
    except FileNotFoundError:
        return False


def _require_below_root(parts: tuple[str, ...]) -> None:
    if not parts:
        raise Refusal(550, "The root directory stays as it is.")


def _is_above(place: Place, match: Match) -> JobSteps[bool]:
    """Whether something below a directory has a name that fits."""
    for piece in tree.directories(place.name, place.directory):
        if any(match(name) for name in (*piece.names, *piece.directories)):
            return True
        yield
    return False


@contextmanager
def _opened(place: Place) -> Iterator[int]:
    descriptor = place.pin()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _set_mode(descriptor: int, mode: int) -> None:
    """The permission bits of what was opened with O_PATH, which fchmod does not take."""
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    os.chmod(f"/proc/self/fd/{descriptor}", mode)


class OffThread:
    """A root as a session has it (`session.Files`): calls are made in worker threads, and give Deferreds.

    Those that open something for a data connection are not made yet: a transfer begins with them.
    """

    def __init__(self, workers: Workers, owner: str, root: Root) -> None:
        self._queue = workers.queue(owner)
        self._walks = workers.queue(owner, "walk")
        self._running: Deferred[Any] | None = None
        self._stop: Refusal | None = None
        self._root = root
        self.listing = partial(partial, root.listing)
        self.reader = partial(partial, root.reader)
        self.writer = partial(partial, root.writer)
        self.first_entries = partial(self._walk, root.first_entries)
        self.remove_directory = partial(self._walk, root.remove_directory)
        self.remove_tree = partial(self._walk, root.remove_tree)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._queue.call, getattr(self._root, name))

    def _walk(self, steps: Callable[..., JobSteps[T]], *arguments: Any) -> Deferred[T]:
        self._stop = None
        self._running = running = self._walks.run(steps(*arguments))
        return running.addErrback(self._explain)

    def _explain(self, failure: Failure) -> Failure:
        return failure if self._stop is None else Failure(self._stop)

    @property
    def walking(self) -> bool:
        """Whether a command goes through a directory or a tree now."""
        return self._running is not None and not self._running.called

    def stop(self, reply: Reply) -> None:
        """End the walk that runs, if there is one, with that reply."""
        if self._running is not None and self.walking:
            self._stop = Refusal(reply.code, *reply.lines)
            self._running.cancel()

    def close(self) -> None:
        """End the walk that runs, if there is one: the session is over."""
        if self._running is not None:
            self._running.cancel()
