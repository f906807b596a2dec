"""Read a store as directories, as one user may see them (see `backend.Directories`). Everything blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from hashlib import blake2b

from ftpsd.protocol.listing import Entry
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import IsTimed, every_name, no_name
from ftpsd.storage.s3.calls.answers import Found, Listed
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.calls.tasks import Submit
from ftpsd.storage.s3.calls.times import Times
from ftpsd.storage.s3.tree import Tree
from ftpsd.storage.s3.uploads.cut_uploads import CutUpload, CutUploads

_FILE, _DIRECTORY, _CUT = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFREG | 0o600


class S3Directories:
    """The directories of a store below one prefix. `modified` is the time of all directories: they have none."""

    def __init__(
        self, tree: Tree, objects: Objects, cut: CutUploads, modified: float, times: Times, submit: Submit
    ) -> None:
        self._times = times
        self._submit = submit
        self._tree = tree
        self._objects = objects
        self._cut = cut
        self._modified = modified

    def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Return the facts of a name at which one of the permissions holds."""
        self._tree.require(path, *permissions)
        if self._tree.is_root(path):
            return self._directory(path.name, self._tree.prefix)
        key = self._tree.key(path)
        found = self._objects.head(key)
        if found is not None:
            return _file(path.name, key, found)
        if self.exists(key + "/"):
            return self._directory(path.name, key + "/")
        if (cut := self.incomplete(path)) is not None:
            return _cut(path.name, cut)
        raise _missing()

    def exists(self, directory: str) -> bool:
        """Return whether any key begins with this, which ends with a slash."""
        page = self._objects.page(directory, flat=True, most=1)
        return bool(page.objects)

    def require_directory(self, path: VirtualPath) -> None:
        """Return if the path is a directory in which the user has any permission."""
        tree = self._tree
        if not tree.permissions.at(path.parts):
            raise Refusal(550, f"{path}: no permission.")
        if tree.is_root(path) or self.exists(tree.directory(path)):
            return
        if self._objects.head(tree.key(path)) is not None:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        raise _missing()

    def incomplete(self, path: VirtualPath) -> CutUpload | None:
        """Return the upload of a name that was cut, if the user may resume it."""
        if "upload" not in self._tree.permissions.at(path.parts):
            return None
        cut = self._cut.find(self._tree.key(path))
        return cut if cut is not None and cut.size else None

    # --- listings ----------------------------------------------------------------------------------

    def portions(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None]:
        """Yield the entries of a directory in portions, in the order of their keys."""
        self._tree.require(path, "list")
        directory = self._tree.directory(path)
        if with_dots:
            yield [self._directory(".", directory), self._directory("..", directory)]
        page = self._objects.page(directory)
        is_whole = page.following is None
        while True:
            entries = list[Entry]()
            for prefix in page.prefixes:
                name = prefix[len(directory) : -1]
                if self._is_visible(path, name):
                    entries.append(self._directory(name, prefix))
            listed = [each for each in page.objects if self._is_visible(path, each.key[len(directory) :])]
            timed = list[Listed]()
            if is_whole and len(listed) <= self._times.most:
                timed = [each for each in listed if is_timed(each.key[len(directory) :])]
            times = dict(zip(timed, self._times.of(timed, self._submit), strict=True))
            for each in listed:
                name, modified = each.key[len(directory) :], times.get(each, each.stored)
                entries.append(Entry(name, _FILE, each.size, modified, 0, identity(each.key), incomplete=False))
            yield entries
            if page.following is None:
                break
            page = self._objects.page(directory, following=page.following)
        yield from self._cut_in(path, directory)

    def listed(
        self, path: VirtualPath, with_dots: bool, is_timed: IsTimed = every_name
    ) -> Generator[list[Entry], None, None] | Entry:
        """Return the portions of a directory, also if an object has its name; or the entry of what is none."""
        entry = self.entry(path, "list")
        if entry.is_directory or self.exists(self._tree.directory(path)):
            return self.portions(path, with_dots, is_timed)
        return entry

    def are_in_order(self, path: VirtualPath) -> bool:
        """Return True: a store lists objects in the order of their keys."""
        return True

    def _is_visible(self, path: VirtualPath, name: str) -> bool:
        return self._tree.shows(path.parts, name) and self._tree.may_see(path.parts, name)

    def _cut_in(self, path: VirtualPath, directory: str) -> Iterator[list[Entry]]:
        """Yield the uploads of a directory that were cut and whose names nothing else has, at most one at a time."""
        seen = set[str]()
        for each in self._cut.below(directory, flat=False):
            shown = None if each is None else self._resumable(path, each.key[len(directory) :], each)
            if shown is None or shown.name in seen:
                yield []
            else:
                seen.add(shown.name)
                yield [shown]

    def _resumable(self, path: VirtualPath, name: str, cut: CutUpload) -> Entry | None:
        """Return the entry of an upload in a directory that the user may resume. None if something has its name."""
        if not cut.size or cut.identity in self._cut.running or not self._is_visible(path, name):
            return None
        may_resume = "upload" in self._tree.permissions.at((*path.parts, name))
        return _cut(name, cut) if may_resume and self._objects.head(cut.key) is None else None

    def names_below(self, path: VirtualPath) -> Iterator[list[str]]:
        """Yield the names of the directories in a directory, in portions."""
        for portion in self.portions(path, False, no_name):
            yield [each.name for each in portion if each.is_directory]

    def _directory(self, name: str, prefix: str) -> Entry:
        return Entry(name, _DIRECTORY, 0, self._modified, 0, identity(prefix), 2)


def _file(name: str, key: str, found: Found) -> Entry:
    return Entry(name, _FILE, found.size, found.modified, 0, identity(key))


def _cut(name: str, cut: CutUpload) -> Entry:
    return Entry(name, _CUT, cut.size, cut.modified, 0, identity(cut.key + "\0"), incomplete=True)


def identity(key: str) -> int:
    """Return a number for the fact `unique`, in place of an inode."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _missing() -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
