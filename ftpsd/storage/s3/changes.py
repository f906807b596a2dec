"""Change files and directories in a store. Everything here blocks.

S3 has no rename and no directories: a rename copies and deletes, and a directory is a marker (see `tree`). A directory
whose last entry goes gets a marker, so that it stays, as on a disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from ftpsd.limits.home_counts import Amount
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import ChangeCounter, Measure
from ftpsd.storage.s3.calls.client import Found, Listed, Multiparts, Objects
from ftpsd.storage.s3.copying import copy_object
from ftpsd.storage.s3.directories import S3Directories
from ftpsd.storage.s3.measure import measure_keys
from ftpsd.storage.s3.tree import Tree
from ftpsd.storage.s3.uploads.cut_uploads import CutUploads
from ftpsd.system.worker_threads import JobSteps

_UNCOUNTED = nullcontext()

#: The content type of markers, which other programs know.
MARKER_TYPE = "application/x-directory"

#: How often a tree that other programs fill is listed again while it is removed.
_ROUNDS = 100_000


class Changes:
    """Changes what one user has in a store. `most_renamed` are the objects of a directory that may be renamed."""

    def __init__(
        self,
        tree: Tree,
        objects: Objects,
        multiparts: Multiparts,
        cut: CutUploads,
        directories: S3Directories,
        most_renamed: int,
    ) -> None:
        self._tree = tree
        self._objects = objects
        self._multiparts = multiparts
        self._cut = cut
        self._directories = directories
        self._most_renamed = most_renamed
        #: Counts changes, if somebody has a quota in the home.
        self.counter: ChangeCounter | None = None

    def changing(self, *keys: str) -> AbstractContextManager[object]:
        """Count what the body does to keys and their open uploads."""
        return self._counted(partial(measure_keys, self._objects, self._cut, keys))

    def _counted(self, measure: Measure) -> AbstractContextManager[object]:
        return _UNCOUNTED if self.counter is None else self.counter.changing(measure)

    def require_parent(self, path: VirtualPath) -> None:
        """Raise FileNotFoundError unless the directory that is to contain a path exists."""
        parent = path.parent
        if not self._tree.is_root(parent) and not self._directories.exists(self._tree.directory(parent)):
            raise error_of(errno.ENOENT)

    def _keep_directory(self, path: VirtualPath) -> None:
        """Make a marker for a directory that has lost its last entry. To be counted by the caller."""
        if self._tree.is_root(path):
            return
        directory = self._tree.directory(path)
        if not self._directories.exists(directory):
            self._objects.put(directory, b"", kind=MARKER_TYPE)

    def _with_parent(self, path: VirtualPath, key: str) -> tuple[str, ...]:
        """Return the keys that the removal of one may change."""
        parent = path.parent
        return (key,) if self._tree.is_root(parent) else (key, self._tree.directory(parent))

    # --- directories -------------------------------------------------------------------------------

    def make_directory(self, path: VirtualPath) -> None:
        """Make an empty directory."""
        if self._tree.is_root(path):
            raise error_of(errno.EEXIST)
        self._tree.require(path, "mkdir")
        key = self._tree.new_key(path)
        if self._objects.head(key) is not None or self._directories.exists(key + "/"):
            raise error_of(errno.EEXIST)
        self.require_parent(path)
        with self.changing(key + "/"):
            if self.counter is not None:
                self.counter.require_a_file()
            self._objects.put(key + "/", b"", kind=MARKER_TYPE)

    def _require_directory(self, path: VirtualPath) -> str:
        """Return what the keys in a directory begin with. Raises OSError if it is none."""
        directory = self._tree.directory(path)
        if not self._directories.exists(directory):
            found = self._objects.head(directory.rstrip("/"))
            raise error_of(errno.ENOENT if found is None else errno.ENOTDIR)
        return directory

    def remove_directory(self, path: VirtualPath) -> JobSteps[None]:
        """Remove an empty directory, with the uploads in it that were cut."""
        self._tree.require(path, "rmdir")
        self._tree.require_changeable(path)
        directory = self._require_directory(path)
        page = self._objects.page(directory, flat=True, most=2)
        if any(each.key != directory for each in page.objects):
            raise error_of(errno.ENOTEMPTY)
        yield from self._abort_below(directory)
        with self.changing(*self._with_parent(path, directory)):
            self._objects.delete(directory)
            self._keep_directory(path.parent)

    def _abort_below(self, directory: str) -> JobSteps[None]:
        """Remove the uploads below a directory that were cut. Raises OSError if one runs."""
        for portion in self._cut.below(directory):
            if any(each.identity in self._cut.running for each in portion):
                raise error_of(errno.ENOTEMPTY)
            for each in portion:
                with self._counted(_before_and_after(Amount(each.size, 1 if each.size else 0))):
                    self._cut.abort(each.key, each.identity)
                yield

    def remove_tree(self, path: VirtualPath) -> JobSteps[None]:
        """Remove a directory and all below it."""
        self._tree.require(path, "rmdir")
        self._tree.require_changeable(path)
        directory = self._require_directory(path)
        if self._tree.hides_names and (yield from self._contains_hidden(directory)):
            raise error_of(errno.ENOTEMPTY)
        for permission in ("delete", "rmdir"):
            self._tree.require_throughout(path, permission)
        yield from self._abort_below(directory)
        for _ in range(_ROUNDS):
            found = self._objects.page(directory, flat=True).objects
            if not found:
                break
            self._delete(found)
            yield
        with self.changing(*self._with_parent(path, directory)):
            self._keep_directory(path.parent)

    def _contains_hidden(self, directory: str) -> JobSteps[bool]:
        following: str | None = None
        while True:
            page = self._objects.page(directory, flat=True, following=following)
            for each in page.objects:
                if any(self._tree.hides(name) for name in each.key[len(directory) :].split("/") if name):
                    return True
            following = page.following
            if following is None:
                return False
            yield

    def _delete(self, found: list[Listed]) -> None:
        """Delete a page of objects. Raises Refusal if the store refuses some."""
        freed = Amount(sum(each.size for each in found), len(found))
        with self._counted(_before_and_after(freed)):
            left = self._objects.delete_all([each.key for each in found])
        if left:
            raise Refusal(550, f"The storage does not permit to delete {len(left)} of the objects.")

    # --- files -------------------------------------------------------------------------------------

    def remove(self, path: VirtualPath) -> None:
        """Remove a file, and an upload of that name that was cut."""
        self._tree.require(path, "delete")
        self._tree.require_changeable(path)
        key = self._tree.key(path)
        there = self._objects.head(key) is not None
        if not there and self._directories.exists(key + "/"):
            raise error_of(errno.EISDIR)
        with self.changing(*self._with_parent(path, key)):
            if there:
                self._objects.delete(key)
            if not self._cut.remove(key) and not there:
                raise error_of(errno.ENOENT)
            self._keep_directory(path.parent)

    def rename(self, old: VirtualPath, new: VirtualPath) -> JobSteps[None]:
        """Rename a file, or a directory of few objects: copy, look whether it is there, delete."""
        tree = self._tree
        for path in (old, new):
            tree.require(path, "rename")
            tree.require_changeable(path)
        for path in (old, new):
            tree.require_throughout(path, "rename")
        source, target = tree.key(old), tree.new_key(new)
        found = self._objects.head(source)
        if found is None:
            yield from self._rename_directory(old, new)
            return
        self.require_parent(new)
        if self._directories.exists(target + "/"):
            raise error_of(errno.EISDIR)
        if source == target:
            return
        if "overwrite" not in tree.permissions.at(new.parts) and self._objects.head(target) is not None:
            raise Refusal(553, f"{new} already exists.")
        yield from self._copy(source, target, found)
        with self.changing(*self._with_parent(old, source)):
            self._forget(source, found)
            self._keep_directory(old.parent)
        with self.changing(target):
            self._cut.remove(target)

    def _copy(self, source: str, target: str, found: Found) -> JobSteps[None]:
        with_count = partial(self.changing, target)
        yield from copy_object(self._objects, self._multiparts, source, target, found, with_count)

    def _forget(self, source: str, found: Found) -> None:
        """Delete the old name. Raises Refusal if it has another object now, which stays."""
        now = self._objects.head(source)
        if now is not None and now.etag != found.etag:
            raise Refusal(450, "The file was changed meanwhile: both names exist now.")
        self._objects.delete(source)

    def _rename_directory(self, old: VirtualPath, new: VirtualPath) -> JobSteps[None]:
        source, target = self._tree.directory(old), self._tree.directory(new)
        if not self._directories.exists(source):
            raise error_of(errno.ENOENT)
        if not self._most_renamed:
            raise Refusal(553, "Directories in this storage cannot be renamed: make a new one and move the files.")
        self._require_free(new, target)
        if target.startswith(source):
            raise error_of(errno.EINVAL)
        page = self._objects.page(source, flat=True, most=min(1000, self._most_renamed + 1))
        objects = page.objects
        while page.following is not None and len(objects) <= self._most_renamed:
            page = self._objects.page(source, flat=True, following=page.following)
            objects = objects + page.objects
            yield
        if len(objects) > self._most_renamed:
            raise Refusal(553, f"The directory has more than {self._most_renamed} objects: it cannot be renamed.")
        for each in objects:  # all copies first: until then the old directory is whole
            found = self._objects.head(each.key)
            if found is not None:
                yield from self._copy(each.key, target + each.key[len(source) :], found)
            yield
        yield from self._abort_below(source)
        for first in range(0, len(objects), 1000):
            self._delete(objects[first : first + 1000])
            yield
        with self.changing(*self._with_parent(old, source)):
            self._keep_directory(old.parent)

    def _require_free(self, new: VirtualPath, target: str) -> None:
        """Raise an exception unless a directory can get a name."""
        self.require_parent(new)
        if self._objects.head(target.rstrip("/")) is not None:
            raise error_of(errno.ENOTDIR)
        there = self._objects.page(target, flat=True, most=2).objects
        if any(each.key != target for each in there):
            raise error_of(errno.ENOTEMPTY)
        if there and "rmdir" not in self._tree.permissions.at(new.parts):
            raise Refusal(553, f"{new} already exists.")


def _before_and_after(freed: Amount) -> Measure:
    """Return a measure for a removal whose amount is known: this first, and nothing afterwards."""
    amounts = iter((freed, Amount()))

    def measure(_: Container[Hashable]) -> Amount:
        return next(amounts, Amount())

    return measure


def error_of(number: int) -> OSError:
    """Return the error with this number."""
    return OSError(number, os.strerror(number))
