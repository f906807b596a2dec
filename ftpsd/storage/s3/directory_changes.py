"""Make and remove directories in a store. Everything here blocks."""

from __future__ import annotations

import errno

from ftpsd.limits.home_counts import Amount
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.answers import Listed
from ftpsd.storage.s3.calls.client import requests
from ftpsd.storage.s3.changes import MARKER_TYPE, Changes, HomeTools, error_of
from ftpsd.storage.s3.measure import Freed, abort_counted
from ftpsd.system.jobs.job_queue import JobSteps

#: How often a tree that other programs fill is listed again while it is removed.
_ROUNDS = 100_000


class DirectoryChanges:
    """Makes and removes directories of one user."""

    def __init__(self, tools: HomeTools, changes: Changes) -> None:
        self._tree = tools.tree
        self._objects = tools.objects
        self._cut = tools.cut
        self._directories = tools.directories
        self._changes = changes

    def make_directory(self, path: VirtualPath) -> None:
        """Make an empty directory."""
        if self._tree.is_root(path):
            raise error_of(errno.EEXIST)
        self._tree.require(path, "mkdir")
        key = self._tree.new_key(path)
        if self._objects.head(key) is not None or self._directories.exists(key + "/"):
            raise error_of(errno.EEXIST)
        self._changes.require_parent(path)
        with self._changes.changing(key + "/"):
            if self._changes.counter is not None:
                self._changes.counter.require_a_file()
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
        yield from self.abort_below(directory)
        with self._changes.changing(*self._changes.with_parent(path, directory)):
            self._objects.delete(directory)
            self._changes.keep_directory(path.parent)

    def abort_below(self, directory: str) -> JobSteps[None]:
        """Remove the uploads below a directory that were cut. Raises OSError if one runs."""
        for portion in self._cut.open_below(directory):
            if any(each.identity in self._cut.running for each in portion):
                raise error_of(errno.ENOTEMPTY)
            for each in portion:
                found = self._cut.look(each)
                if found is not None:
                    abort_counted(self._cut, found, self._changes.counted)
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
        yield from self.abort_below(directory)
        for _ in range(_ROUNDS):
            found = self._objects.page(directory, flat=True).objects
            if not found:
                break
            for some in requests(found):
                self.delete(some)
                yield
        with self._changes.changing(*self._changes.with_parent(path, directory)):
            self._changes.keep_directory(path.parent)

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

    def delete(self, found: list[Listed]) -> None:
        """Delete the objects of one request. Raises Refusal if the store refuses some."""
        freed = Freed(_amount(found))
        with self._changes.counted(freed):
            left = frozenset(self._objects.delete_all([each.key for each in found]))
            freed.left = _amount([each for each in found if each.key in left])
        if left:
            raise Refusal(550, f"The object store does not permit deleting {len(left)} of the objects.")


def _amount(objects: list[Listed]) -> Amount:
    return Amount(sum(each.size for each in objects), len(objects))
