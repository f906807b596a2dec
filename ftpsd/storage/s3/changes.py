"""Change files and directories in a store. Everything here blocks.

S3 has no rename and no directories: a rename copies and deletes, and a directory is a marker (see `tree`). A directory
whose last entry goes gets a marker, so that it stays, as on a disk.
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from ftpsd.protocol.paths import VirtualPath
from ftpsd.storage.backend import ChangeCounter, Measure
from ftpsd.storage.s3.calls.client import Objects
from ftpsd.storage.s3.calls.tasks import Submit
from ftpsd.storage.s3.claims import Claims
from ftpsd.storage.s3.directories import S3Directories
from ftpsd.storage.s3.measure import measure_keys
from ftpsd.storage.s3.tree import Tree
from ftpsd.storage.s3.uploads.cut_uploads import CutUploads

_UNCOUNTED = nullcontext()

#: The content type of markers, which other programs know.
MARKER_TYPE = "application/x-directory"


@dataclass(frozen=True)
class HomeTools:
    """What all changes in one home or folder need: its names, and the calls of its store."""

    tree: Tree
    objects: Objects
    cut: CutUploads
    directories: S3Directories
    #: Runs jobs in the threads of the store.
    submit: Submit


class Changes:
    """Removes files of one user, and counts changes. `directory_changes` and `renames` have the others."""

    def __init__(self, tools: HomeTools, claims: Claims) -> None:
        self.claims = claims
        self._tree = tools.tree
        self._objects = tools.objects
        self._cut = tools.cut
        self._directories = tools.directories
        #: Counts changes, if somebody has a quota in the home.
        self.counter: ChangeCounter | None = None

    def changing(self, *keys: str) -> AbstractContextManager[object]:
        """Return a context manager that counts what its body does to keys and their open uploads for a quota."""
        return self.counted(partial(measure_keys, self._objects, self._cut, keys))

    def counted(self, measure: Measure) -> AbstractContextManager[object]:
        """Return a context manager that counts what its body changes, if there is a quota."""
        return _UNCOUNTED if self.counter is None else self.counter.changing(measure)

    def require_parent(self, path: VirtualPath) -> None:
        """Raise FileNotFoundError unless the directory that is to contain a path exists."""
        parent = path.parent
        if not self._tree.is_root(parent) and not self._directories.exists(self._tree.directory(parent)):
            raise error_of(errno.ENOENT)

    def keep_directory(self, path: VirtualPath) -> None:
        """Make a marker for a directory that has lost its last entry. The caller counts it."""
        if self._tree.is_root(path):
            return
        directory = self._tree.directory(path)
        if not self._directories.exists(directory):
            self._objects.put(directory, b"", kind=MARKER_TYPE)

    def with_parent(self, path: VirtualPath, key: str) -> tuple[str, ...]:
        """Return the keys that change if `key` is removed: itself, and its directory, which may get a marker."""
        parent = path.parent
        return (key,) if self._tree.is_root(parent) else (key, self._tree.directory(parent))

    # --- files -------------------------------------------------------------------------------------

    def remove(self, path: VirtualPath) -> None:
        """Remove a file, and an upload of that name that was cut."""
        self._tree.require(path, "delete")
        self._tree.require_changeable(path)
        key = self._tree.key(path)
        found = self._objects.head(key)
        if found is None and self._directories.exists(key + "/"):
            raise error_of(errno.EISDIR)
        if found is None and self._cut.find(key) is None:
            raise error_of(errno.ENOENT)
        with self.claims.removing(path, key, found), self.changing(*self.with_parent(path, key)):
            if found is not None:
                self._objects.delete(key)
            self._cut.remove(key, elsewhere=True)
            self.keep_directory(path.parent)


def error_of(number: int) -> OSError:
    """Return the error with this number."""
    return OSError(number, os.strerror(number))
