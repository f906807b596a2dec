"""Rename a file in a store: copy, look whether the copy is there, delete. Everything here blocks, in steps."""

from __future__ import annotations

import errno

from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.changes import Changes, HomeTools, error_of
from ftpsd.storage.s3.copying import Copier
from ftpsd.storage.s3.directory_renames import DirectoryRenames
from ftpsd.system.jobs.job_queue import JobSteps


class Renames:
    """Renames for one user."""

    def __init__(self, tools: HomeTools, changes: Changes, copier: Copier, of_directories: DirectoryRenames) -> None:
        self._tree = tools.tree
        self._objects = tools.objects
        self._cut = tools.cut
        self._directories = tools.directories
        self._changes = changes
        self._copier = copier
        self._of_directories = of_directories

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
            yield from self._of_directories.rename(old, new)
            return
        self._changes.require_parent(new)
        if self._directories.exists(target + "/"):
            raise error_of(errno.EISDIR)
        if source == target:
            return
        free = "overwrite" not in tree.permissions.at(new.parts)
        if free and self._objects.head(target) is not None:
            raise Refusal(553, f"{new} already exists.")
        yield from self._copier.copy(source, target, found, free)
        changes = self._changes
        with (
            changes.claims.renaming(old, new, (source, target), found),
            changes.changing(*changes.with_parent(old, source)),
        ):
            if not self._objects.delete_unchanged(source, found.etag):
                raise Refusal(450, "The file was changed meanwhile: both names exist now.")
            changes.keep_directory(old.parent)
        with changes.changing(target):
            self._cut.remove(target)
