"""Rename a directory of a store, object by object: `DirectoryRenames`. Everything here blocks, in steps.

Other sessions and programs go on storing files in the directory meanwhile. What they store is copied, too, as long as
that ends. Only what was copied and has not changed since is deleted; the rest stays under the old name.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import NamedTuple

from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Found, Listed
from ftpsd.storage.s3.calls.client import PAGE
from ftpsd.storage.s3.calls.errors import ObjectChanged
from ftpsd.storage.s3.calls.together import together
from ftpsd.storage.s3.changes import Changes, HomeTools, error_of
from ftpsd.storage.s3.copying import Copier, Exists, is_copy
from ftpsd.storage.s3.directory_changes import DirectoryChanges
from ftpsd.system.jobs.job_queue import JobSteps

#: How often the directory is listed again, and what has changed is copied.
_ROUNDS = 3


class Copied(NamedTuple):
    """An object that is copied: how it was listed and found, and the ETag of the copy.

    That is empty until the copy is known to be there, and None if the new directory had its marker before.
    """

    listed: Listed
    found: Found
    copy: str | None = ""


class DirectoryRenames:
    """Renames directories for one user. `most` are the objects of a directory that may be renamed."""

    def __init__(self, tools: HomeTools, changes: Changes, trees: DirectoryChanges, copier: Copier, most: int) -> None:
        self._submit = tools.submit
        self._tree = tools.tree
        self._objects = tools.objects
        self._directories = tools.directories
        self._changes = changes
        self._trees = trees
        self._copier = copier
        self._most = most

    def rename(self, old: VirtualPath, new: VirtualPath) -> JobSteps[None]:
        """Rename a directory: copy all its objects, then delete them. If a copy fails, remove the copies."""
        source, target = self._tree.directory(old), self._tree.directory(new)
        if not self._directories.exists(source):
            raise error_of(errno.ENOENT)
        if not self._most:
            raise Refusal(553, "Directories in this object store cannot be renamed: make a new one and move the files.")
        has_marker = self._require_free(new, target)
        if target.startswith(source):
            raise error_of(errno.EINVAL)
        copied = dict[str, Copied]()
        try:
            there = yield from self._list(source)
            for _ in range(_ROUNDS):
                changed = [each for each in there if each.key not in copied or copied[each.key].listed != each]
                if not changed:
                    break
                yield from self._copy(changed, source, target, copied, has_marker)
                there = yield from self._list(source)
            yield from self._trees.abort_below(source)
        except BaseException:
            for key, each in copied.items():
                with suppress(Refusal, OSError):
                    self._remove_copy(target + key[len(source) :], each)
            raise
        with self._changes.claims.renaming(old, new, (source, target), None):
            yield from self._delete(there, source, target, copied)
            if self._directories.exists(source):
                raise Refusal(450, f"Files were stored in {old} meanwhile: they stay there, the others were renamed.")
        with self._changes.changing(*self._changes.with_parent(old, source)):
            self._changes.keep_directory(old.parent)

    def _list(self, source: str) -> JobSteps[list[Listed]]:
        """Return all objects of a directory. Raises Refusal if there are too many."""
        page = self._objects.page(source, flat=True, most=min(PAGE, self._most + 1))
        found = page.objects
        while page.following is not None and len(found) <= self._most:
            page = self._objects.page(source, flat=True, following=page.following)
            found = found + page.objects
            yield
        if len(found) > self._most:
            raise Refusal(553, f"The directory has more than {self._most} objects: it cannot be renamed.")
        return found

    def _copy(
        self, listed: list[Listed], source: str, target: str, copied: dict[str, Copied], has_marker: bool
    ) -> JobSteps[None]:
        def copy(each: Listed) -> JobSteps[None]:
            found, key = self._objects.head(each.key), target + each.key[len(source) :]
            if found is None:
                return
            before = copied.get(each.key)
            if before is not None:
                self._remove_copy(key, before)
            if has_marker and key == target:
                copied[each.key] = Copied(each, found, None)
                return
            copied[each.key] = Copied(each, found)
            try:
                etag = yield from self._copier.copy(each.key, key, found, free=key != target)
            except Exists:
                del copied[each.key]
                raise
            except (FileNotFoundError, ObjectChanged):  # deleted or replaced meanwhile: the next listing tells
                del copied[each.key]
                return
            copied[each.key] = Copied(each, found, etag)

        # The counts of a home change one after the other: more at a time would only keep other sessions waiting.
        parallel = None if self._changes.counter is None else 1
        yield from together(self._submit, listed, copy, parallel)

    def _delete(self, there: list[Listed], source: str, target: str, copied: dict[str, Copied]) -> JobSteps[None]:
        """Delete what was copied, and the copies of what others have removed or replaced since."""
        still = {each.key: each for each in there}

        def delete(key: str) -> None:
            each, is_gone = copied[key], False
            if still.get(key) == each.listed:
                with self._changes.changing(key):
                    is_gone = self._objects.delete_unchanged(key, each.found.etag)
            if not is_gone:  # the old name has the newer object, or was removed: the copy is out of date
                self._remove_copy(target + key[len(source) :], each)

        yield from together(self._submit, copied, delete, None if self._changes.counter is None else 1)

    def _remove_copy(self, key: str, copied: Copied) -> None:
        etag = copied.copy
        if etag == "":  # nobody knows whether the copy was made
            there = self._objects.head(key)
            etag = there.etag if there is not None and is_copy(there, copied.found) else None
        if etag is not None:
            with self._changes.changing(key):
                self._objects.delete_unchanged(key, etag)

    def _require_free(self, new: VirtualPath, target: str) -> bool:
        """Raise an exception unless a directory can get a name. Return whether there is an empty one, with a marker."""
        self._changes.require_parent(new)
        if self._objects.head(target.rstrip("/")) is not None:
            raise error_of(errno.ENOTDIR)
        there = self._objects.page(target, flat=True, most=2).objects
        if any(each.key != target for each in there):
            raise error_of(errno.ENOTEMPTY)
        if there and "rmdir" not in self._tree.permissions.at(new.parts):
            raise Refusal(553, f"{new} already exists.")
        return bool(there)
