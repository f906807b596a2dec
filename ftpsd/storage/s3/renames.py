"""Rename in a store: copy, look whether the copy is there, delete. Everything here blocks, in steps."""

from __future__ import annotations

import errno
from functools import partial

from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.client import PAGE, Found, Multiparts, Objects
from ftpsd.storage.s3.changes import Changes, error_of
from ftpsd.storage.s3.copying import copy_object
from ftpsd.storage.s3.directories import S3Directories
from ftpsd.storage.s3.directory_changes import DirectoryChanges
from ftpsd.storage.s3.tree import Tree
from ftpsd.storage.s3.uploads.cut_uploads import CutUploads
from ftpsd.system.worker_threads import JobSteps


class Renames:
    """Renames for one user. `most_renamed` are the objects of a directory that may be renamed."""

    def __init__(
        self,
        tree: Tree,
        objects: Objects,
        multiparts: Multiparts,
        cut: CutUploads,
        directories: S3Directories,
        changes: Changes,
        trees: DirectoryChanges,
        most_renamed: int,
    ) -> None:
        self._tree = tree
        self._objects = objects
        self._multiparts = multiparts
        self._cut = cut
        self._directories = directories
        self._changes = changes
        self._trees = trees
        self._most_renamed = most_renamed

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
        self._changes.require_parent(new)
        if self._directories.exists(target + "/"):
            raise error_of(errno.EISDIR)
        if source == target:
            return
        if "overwrite" not in tree.permissions.at(new.parts) and self._objects.head(target) is not None:
            raise Refusal(553, f"{new} already exists.")
        yield from self._copy(source, target, found)
        changes = self._changes
        with (
            changes.claims.renaming(old, new, (source, target), found),
            changes.changing(*changes.with_parent(old, source)),
        ):
            self._forget(source, found)
            changes.keep_directory(old.parent)
        with changes.changing(target):
            self._cut.remove(target)

    def _copy(self, source: str, target: str, found: Found) -> JobSteps[None]:
        with_count = partial(self._changes.changing, target)
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
        page = self._objects.page(source, flat=True, most=min(PAGE, self._most_renamed + 1))
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
        yield from self._trees.abort_below(source)
        with self._changes.claims.renaming(old, new, (source, target), None):
            for first in range(0, len(objects), PAGE):
                self._trees.delete(objects[first : first + PAGE])
                yield
        with self._changes.changing(*self._changes.with_parent(old, source)):
            self._changes.keep_directory(old.parent)

    def _require_free(self, new: VirtualPath, target: str) -> None:
        """Raise an exception unless a directory can get a name."""
        self._changes.require_parent(new)
        if self._objects.head(target.rstrip("/")) is not None:
            raise error_of(errno.ENOTDIR)
        there = self._objects.page(target, flat=True, most=2).objects
        if any(each.key != target for each in there):
            raise error_of(errno.ENOTEMPTY)
        if there and "rmdir" not in self._tree.permissions.at(new.parts):
            raise Refusal(553, f"{new} already exists.")
