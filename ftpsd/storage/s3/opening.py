"""Open files of a store for reading and writing: `Openings`. Everything here blocks."""

from __future__ import annotations

import errno
import secrets
from functools import partial

from ftpsd.protocol import interfaces
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import require_in_file
from ftpsd.storage.s3.calls.progress import Progress
from ftpsd.storage.s3.changes import Changes, error_of
from ftpsd.storage.s3.directories import S3Directories
from ftpsd.storage.s3.reader import S3Reader
from ftpsd.storage.s3.tree import Tree
from ftpsd.storage.s3.uploads.publishing import Replaces, Target
from ftpsd.storage.s3.uploads.upload import UploadTools, begin_upload


class Openings:
    """Opens the files of one session."""

    def __init__(self, tree: Tree, directories: S3Directories, changes: Changes, tools: UploadTools) -> None:
        self._tree = tree
        self._directories = directories
        self._changes = changes
        self._tools = tools

    def size(self, path: VirtualPath) -> int:
        """Return the size of a file, or what is kept of an upload that was cut if there is no file."""
        tree, permissions = self._tree, self._tree.permissions.at(path.parts)
        if tree.is_root(path):
            raise _not_plain()
        key = tree.key(path)
        found = self._tools.objects.head(key)
        if found is not None:
            tree.require(path, "list", "download")
            return found.size
        tree.require(path, "list", "download", "upload")
        if self._directories.exists(key + "/"):
            raise _not_plain()
        cut = self._directories.incomplete(path) if "upload" in permissions else None
        if cut is None:
            raise error_of(errno.ENOENT)
        return cut.size

    def reader(self, path: VirtualPath, offset: int, end: int | None, checksum: str = "") -> S3Reader:
        """Open a file for reading from `offset` to its present end. See `interfaces.Files.reader`."""
        self._tree.require(path, "download")
        if self._tree.is_root(path):
            raise _not_plain()
        key, objects, size = self._tree.key(path), self._tools.objects, self._tools.part_size
        stop = offset + size if end is None else min(end, offset + size)
        opened = None if checksum else objects.open(key, offset, stop - 1)  # most files need no other request
        found, body = opened if opened is not None else (objects.head(key, checksum), None)
        if found is None:
            if self._directories.exists(key + "/"):
                raise _not_plain()
            if self._directories.incomplete(path) is not None:
                raise Refusal(550, f"Upload of {path} is incomplete: resume or delete it.")
            raise error_of(errno.ENOENT)
        require_in_file(offset, end, found.size)
        bounds = offset, found.size if end is None else min(end, found.size)
        return S3Reader(objects, self._tools.sending, key, found, bounds, size, body)

    def writer(
        self, path: VirtualPath, offset: int, append: bool, unique: bool, progress: Progress
    ) -> interfaces.Upload:
        """Begin an upload. Nobody sees it before it is published."""
        tree = self._tree
        if tree.is_root(path):
            raise error_of(errno.EISDIR)
        key = tree.new_key(path)
        if unique:
            path, key = self._free_name(path)
        old = self._tools.objects.head(key)
        if old is None:
            if self._directories.exists(key + "/"):
                raise Refusal(550, "Not a plain file.")
            self._changes.require_parent(path)
        tree.require(path, "upload" if old is None else "append" if append else "overwrite")
        replaces: Replaces = "nothing" if old is None else "the old file"
        if not unique and "overwrite" in tree.permissions.at(path.parts):
            replaces = "anything"
        target = Target(key, path.name, old, append, replaces)
        start = partial(begin_upload, self._tools, target, offset, progress)
        begin = partial(self._changes.claims.upload, path, append, offset, start)
        if self._changes.counter is None:
            return begin()
        return self._changes.counter.upload(partial(self._tools.measure, (key,)), begin)

    def _free_name(self, path: VirtualPath) -> tuple[VirtualPath, str]:
        """Return a path that is free, and its key. It starts with as much of the wanted name as fits."""
        for _ in range(100):
            found = path.parent.child(f"{path.name[:200]}.{secrets.token_hex(4)}")
            key = self._tree.new_key(found)
            if self._tools.objects.head(key) is None:
                return found, key
        raise error_of(errno.EEXIST)


def _not_plain() -> Refusal:
    return Refusal(550, "Not a plain file.")
