"""The disk under one root. The only way from a VirtualPath to the disk is here, and it cannot leave the root.

A path is walked component by component with directory descriptors (openat, O_NOFOLLOW), so a
directory that becomes a symbolic link between two steps is noticed and not followed. Links are
followed by reading them and walking on, as long as they stay below the root.

Everything here blocks, and runs in worker threads: `OffThread` is what a session is given.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import translate
from functools import partial
from itertools import islice
from typing import Any

from ftpsd.listing import Entry, shown
from ftpsd.paths import VirtualPath
from ftpsd.pump import ChunkSource, FileSource
from ftpsd.replies import Refusal
from ftpsd.rights import Rights
from ftpsd.session import VERBS
from ftpsd.uploads import PRIVATE, Upload
from ftpsd.wire import ListRequest
from ftpsd.workers import Workers

#: So many links may be followed in one path, as in Linux.
_MOST_LINKS = 40

#: A directory of at most so many entries is listed in the order of its names; a larger one as the
#: disk has it, so that no listing is ever held in memory.
SORTED = 2000

#: Entries that become one chunk of a longer listing.
_BATCH = 500

#: A heading of `-R`, or none, and entries.
Batch = tuple[str, list[Entry]]

#: What following a broken link gives.
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path ends: an open directory, the name in it, and the same as parts below the root."""

    directory: int
    name: str
    parts: tuple[str, ...]

    def stat(self) -> os.stat_result:
        """What is there; a symbolic link is itself."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def open(self, flags: int) -> int:
        """Opens what is there, if it is no symbolic link."""
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self.name, flags, dir_fd=self.directory)


class Root:
    """One user's tree: what `session.Files` promises, as calls that block."""

    def __init__(self, home: str, rights: Rights, umask: int = 0o022) -> None:
        self._home = os.path.realpath(home)
        self._rights = rights
        self._umask = umask

    # --- the walk ----------------------------------------------------------------------------------

    @contextmanager
    def _place(self, path: VirtualPath, permission: str | None, follow: bool = True) -> Iterator[Place]:
        """The place of a path, with all links on the way resolved; with `follow`, a last one too.

        The permission must hold at the place, not only at the path that led there through links.
        """
        directory, name, parts = self._walk(path.parts, follow)
        try:
            if permission is not None:
                self._require(permission, parts)
            yield Place(directory, name, parts)
        finally:
            os.close(directory)

    def _require(self, permission: str, parts: tuple[str, ...]) -> None:
        if permission not in self._rights.at(parts):
            path = VirtualPath(parts)
            raise Refusal(550, f"{path}: this account has no permission to {VERBS[permission]}.")

    def _walk(self, parts: tuple[str, ...], follow: bool) -> tuple[int, str, tuple[str, ...]]:
        if any(part.startswith(PRIVATE) for part in parts):
            raise FileNotFoundError(errno.ENOENT, "private")
        todo, done, links = list(parts), list[str](), 0
        directory = self._open_home()
        try:
            while todo:
                part = todo[0]
                if part == "..":
                    todo = self._above(done) + todo[1:]
                    done, directory = [], self._reopen(directory)
                    continue
                last = len(todo) == 1
                target = self._link(directory, part) if not last or follow else None
                if target is not None:
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    inside = self._inside(target)
                    if inside is not None:
                        done, directory = [], self._reopen(directory)
                        target = inside
                    todo = [each for each in target.split("/") if each not in ("", ".")] + todo[1:]
                    continue
                if last:
                    return directory, part, (*done, part)
                deeper = os.open(part, _STEP, dir_fd=directory)
                os.close(directory)
                directory = deeper
                done.append(todo.pop(0))
            return directory, ".", tuple(done)
        except BaseException:
            os.close(directory)
            raise

    def _open_home(self) -> int:
        return os.open(self._home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _reopen(self, directory: int) -> int:
        os.dup2(fresh := self._open_home(), directory, inheritable=False)
        os.close(fresh)
        return directory

    @staticmethod
    def _link(directory: int, name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=directory)
        except OSError as error:
            # EINVAL: there, and no link. ENOENT, ENOTDIR and others come up again at the next step.
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    @staticmethod
    def _above(done: list[str]) -> list[str]:
        if not done:
            raise _outside()
        return done[:-1]

    def _inside(self, target: str) -> str | None:
        """An absolute target as one relative to the root; None for a target that is relative already."""
        if not target.startswith("/"):
            return None
        if target != self._home and not target.startswith(self._home.rstrip("/") + "/"):
            raise _outside()
        return target[len(self._home) :]

    # --- what is there -----------------------------------------------------------------------------

    def entry(self, path: VirtualPath) -> Entry:
        """What is known of a path; a link that leads out or nowhere is told as the link."""
        try:
            with self._place(path, None) as place:
                self._require_any(place)
                return _entry(path.name, place.stat())
        except (OSError, Refusal) as error:
            if isinstance(error, OSError) and error.errno not in _LEADS_NOWHERE:
                raise
            with self._place(path, None, follow=False) as place:
                found = place.stat()
                if not stat.S_ISLNK(found.st_mode):
                    raise
                return _entry(path.name, found)

    def _require_any(self, place: Place) -> None:
        if not self._rights.at(place.parts):
            raise Refusal(550, f"{VirtualPath(place.parts)}: this account has no permission there.")

    def enter(self, path: VirtualPath) -> None:
        """Whether it is a directory that the user may be in."""
        with self._place(path, None) as place:
            self._require_any(place)
            os.close(place.open(os.O_RDONLY | os.O_DIRECTORY))

    def size(self, path: VirtualPath) -> int:
        """The size of a file; of an upload that was cut, where there is no file yet."""
        try:
            with self._place(path, None) as place:
                if not self._rights.at(place.parts) & {"list", "download"}:
                    self._require("list", place.parts)
                found = place.stat()
        except FileNotFoundError:
            with self._place(path, "upload") as place:
                return Upload.kept(place.directory, place.name)
        if not stat.S_ISREG(found.st_mode):
            raise Refusal(550, "That is not a plain file.")
        return found.st_size

    def free(self, path: VirtualPath) -> int:
        """The room on the disk that holds a path, in bytes."""
        with self._place(path, None) as place:
            descriptor = place.open(os.O_PATH)
            try:
                found = os.fstatvfs(descriptor)
            finally:
                os.close(descriptor)
        return found.f_bavail * found.f_frsize

    # --- listings ----------------------------------------------------------------------------------

    def entries(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> ChunkSource:
        """A listing as chunks of lines, made while they are sent. What is refused is refused now."""
        batches = self._batches(path, request)
        first = next(batches, None)  # opens the directory: its errors come before the 150
        return ChunkSource(_chunks(first, batches, line))

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> list[Entry]:
        """At most so many entries."""
        batches = self._batches(path, request)
        try:
            return list(islice((entry for _, batch in batches for entry in batch), limit))
        finally:
            batches.close()

    def _batches(self, path: VirtualPath, request: ListRequest) -> Generator[Batch, None, None]:
        try:
            single = self.entry(path)
        except FileNotFoundError:
            if not any(sign in path.name for sign in "*?["):
                raise
            yield from self._matches(path, request)
            return
        if single.is_directory and not request.directory:
            yield from self._tree(path, request)
        else:
            yield "", [single._replace(name=request.path or single.name)]

    def _matches(self, path: VirtualPath, request: ListRequest) -> Iterator[Batch]:
        head, slash, _ = request.path.rpartition("/")
        prefix, dots = head + slash, path.name.startswith(".")
        matches = re.compile(translate(path.name)).match
        for batch in self._directory(path.parent, request):
            found = [each for each in batch if matches(each.name) and (dots or not each.name.startswith("."))]
            yield "", [each._replace(name=prefix + each.name) for each in found] if prefix else found

    def _tree(self, top: VirtualPath, request: ListRequest) -> Iterator[Batch]:
        waiting = [top]
        while waiting:
            path = waiting.pop()
            heading = "" if path is top else f"\r\n{shown(str(path))}:"
            below: list[VirtualPath] = []
            try:
                for batch in self._directory(path, request):
                    if request.recursive:
                        below += [path.child(each.name) for each in batch if _is_below(each)]
                    yield heading, batch
                    heading = ""
            except (OSError, Refusal):
                if path is top:
                    raise  # below it, what may not be read is left out
            if heading:
                yield heading, []
            waiting.extend(reversed(below))

    def _directory(self, path: VirtualPath, request: ListRequest) -> Iterator[list[Entry]]:
        with self._place(path, "list") as place:
            descriptor, parts = place.open(os.O_RDONLY | os.O_DIRECTORY), place.parts
        try:
            if request.all:
                here = os.fstat(descriptor)
                yield [_entry(".", here), _entry("..", here)]
            with os.scandir(descriptor) as found:
                entries = self._scan(path, parts, descriptor, found)
                batch = list(islice(entries, SORTED))
                if len(batch) < SORTED:
                    _sort(batch, request)
                while batch:
                    yield batch
                    batch = list(islice(entries, _BATCH))
        finally:
            os.close(descriptor)

    def _scan(
        self, path: VirtualPath, parts: tuple[str, ...], directory: int, found: Iterable[os.DirEntry[str]]
    ) -> Iterator[Entry]:
        limited = bool(self._rights.paths)
        for item in found:
            name = item.name
            if name.startswith(PRIVATE) or (limited and not self._rights.at((*parts, name))):
                continue
            try:
                info = item.stat(follow_symlinks=False)
            except OSError:
                continue  # it went away meanwhile
            if stat.S_ISLNK(info.st_mode):
                yield self._link_entry(path.child(name), directory, info)
            else:
                yield _entry(name, info)

    def _link_entry(self, path: VirtualPath, directory: int, info: os.stat_result) -> Entry:
        try:
            target = os.readlink(path.name, dir_fd=directory)
            with self._place(path, None) as place:
                found = place.stat()
        except (OSError, Refusal):
            return _entry(path.name, info)
        return _entry(path.name, found)._replace(is_link=True, link="" if target.startswith("/") else target)

    # --- files -------------------------------------------------------------------------------------

    def reader(self, path: VirtualPath, offset: int, end: int | None) -> FileSource:
        """Opens a file for reading from an offset on."""
        with self._place(path, "download") as place:
            descriptor = place.open(os.O_RDONLY)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Refusal(550, "That is not a plain file.")
            if offset > found.st_size and end is None:
                raise Refusal(554, f"The file has {found.st_size} bytes only.")
        except BaseException:
            os.close(descriptor)
            raise
        return FileSource(descriptor, offset, end)

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Upload:
        """Opens an upload: nothing of it shows before it is published."""
        if not path.parts:
            raise IsADirectoryError(errno.EISDIR, "root")
        with self._place(path, None) as place:
            exists = self._exists(place)
            if exists and not unique:
                self._require("append" if append else "overwrite", place.parts)
            else:
                self._require("upload", place.parts)
            directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.directory)
            replace = "overwrite" in self._rights.at(place.parts) or append
            return Upload.begin(directory, place.name, offset, append, unique, replace and not unique, self._umask)

    @staticmethod
    def _exists(place: Place) -> bool:
        try:
            found = place.stat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise Refusal(550, "That name belongs to something that is not a plain file.")
        return True

    # --- changes -----------------------------------------------------------------------------------

    def make_directory(self, path: VirtualPath) -> None:
        """A new, empty directory."""
        if not path.parts:
            raise FileExistsError(errno.EEXIST, "root")
        with self._place(path, "mkdir", follow=False) as place:
            os.mkdir(place.name, 0o777 & ~self._umask, dir_fd=place.directory)

    def remove_directory(self, path: VirtualPath) -> None:
        """An empty directory; of a link, nothing."""
        with self._changeable(path, "rmdir") as place:
            Upload.sweep(place.directory, place.name)
            os.rmdir(place.name, dir_fd=place.directory)

    def remove_tree(self, path: VirtualPath) -> None:
        """A directory and all below it; links in it go, what they lead to stays."""
        with self._changeable(path, "rmdir") as place:
            if not stat.S_ISDIR(place.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            for permission in ("delete", "rmdir"):
                if not self._rights.throughout(place.parts, permission):
                    raise Refusal(550, f"{path}: there are parts in it that this account may not delete.")
            shutil.rmtree(place.name, dir_fd=place.directory)

    def remove(self, path: VirtualPath) -> None:
        """A file, or a link; where there is none, what an upload that was cut has left."""
        with self._changeable(path, "delete") as place:
            forgotten = Upload.forget(place.directory, place.name)
            if forgotten and not _lexists(place):
                return
            if stat.S_ISDIR(place.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, "directory")
            os.unlink(place.name, dir_fd=place.directory)

    def rename(self, old: VirtualPath, new: VirtualPath) -> None:
        """Moves a name. What is there already is replaced if the user may overwrite."""
        with self._changeable(old, "rename") as source, self._changeable(new, "rename") as target:
            if not self._rights.throughout(source.parts, "rename"):
                raise Refusal(550, f"{old}: there are parts in it that this account may not rename.")
            try:
                target.stat()
            except FileNotFoundError:
                pass
            else:
                if "overwrite" not in self._rights.at(target.parts):
                    raise Refusal(553, f"{new} exists already.")
            os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)

    @contextmanager
    def _changeable(self, path: VirtualPath, permission: str) -> Iterator[Place]:
        if not path.parts:
            raise Refusal(550, "The root directory stays as it is.")
        with self._place(path, permission, follow=False) as place:
            yield place

    def set_time(self, path: VirtualPath, modified: float) -> None:
        """The time of modification; that of access stays."""
        with self._place(path, "times") as place:
            accessed = place.stat().st_atime_ns
            os.utime(
                place.name,
                ns=(accessed, int(modified * 1_000_000_000)),
                dir_fd=place.directory,
                follow_symlinks=False,
            )

    def set_mode(self, path: VirtualPath, mode: int) -> None:
        """The permission bits."""
        with self._place(path, "chmod") as place:
            descriptor = place.open(os.O_RDONLY)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)


def _lexists(place: Place) -> bool:
    try:
        place.stat()
    except FileNotFoundError:
        return False
    return True


def _outside() -> Refusal:
    return Refusal(550, "That leads out of your directory.")


def _entry(name: str, info: os.stat_result) -> Entry:
    mode = info.st_mode
    return Entry(
        name,
        mode,
        info.st_size,
        info.st_mtime,
        info.st_dev,
        info.st_ino,
        info.st_nlink,
        stat.S_ISLNK(mode),
    )


def _is_below(entry: Entry) -> bool:
    return entry.is_directory and not entry.is_link and entry.name not in (".", "..")


def _sort(entries: list[Entry], request: ListRequest) -> None:
    if request.by_time:
        entries.sort(key=lambda entry: entry.modified, reverse=not request.reverse)
    else:
        entries.sort(key=lambda entry: entry.name, reverse=request.reverse)


def _chunks(
    first: Batch | None, rest: Generator[Batch, None, None], line: Callable[[Entry], str]
) -> Generator[bytes, None, None]:
    try:
        batch = first
        while batch is not None:
            heading, entries = batch
            lines = [line(entry) for entry in entries]
            if heading:
                lines.insert(0, heading)
            if lines:
                lines.append("")
                yield "\r\n".join(lines).encode("utf-8", "surrogateescape")
            batch = next(rest, None)
    finally:
        rest.close()


class OffThread:
    """A root as a session has it (`session.Files`): calls are made in worker threads, and give Deferreds.

    Those that open something for a data connection are not made yet: a transfer begins with them.
    """

    def __init__(self, workers: Workers, root: Root) -> None:
        self._workers = workers
        self._root = root
        self.entries = partial(partial, root.entries)
        self.reader = partial(partial, root.reader)
        self.writer = partial(partial, root.writer)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._workers.call, getattr(self._root, name))
