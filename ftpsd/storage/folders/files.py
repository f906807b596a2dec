"""The files of a user with folders: each command goes to the mount that has its path."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from ftpsd.protocol.interfaces import Opening, Reader, Source, Upload, Usage
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMISSIONS
from ftpsd.protocol.replies import Refusal, Reply
from ftpsd.storage.backend import Files
from ftpsd.storage.folders.directories import MISSING, FolderDirectories
from ftpsd.storage.folders.mounts import MountTable
from ftpsd.storage.listings import Listings
from ftpsd.storage.walks import Walks
from ftpsd.system.jobs.job_queue import JobQueue


class FolderFiles:
    """The files of one user in one session: the home, with folders mounted in it. See `Files` for the methods.

    Only directories that contain a folder, or lead to one, are handled here: the folders are listed in them. Every
    other path is that of one mount, and so is each operation on it.
    """

    def __init__(self, table: MountTable, directories: FolderDirectories, queue: JobQueue, walks: Walks) -> None:
        self._table = table
        self.directories = directories
        self._listings = Listings(directories)
        self._call = queue.call
        self._walks = walks

    def _files(self, path: VirtualPath) -> Files:
        """Return the files that have a path. Raises Refusal (450) for a folder that is not available, and tries again
        to open it."""
        self._table.at(path.parts).open()
        return self._table.files(path.parts)

    def _changeable(self, path: VirtualPath) -> Files:
        self._table.require_no_folder(path)
        return self._files(path)

    def _leads(self, path: VirtualPath) -> bool:
        """Return whether a directory contains a folder, or leads to one."""
        return bool(self._table.names_in(path.parts))

    # --- for transfers -----------------------------------------------------------------------------

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Return the opening of a listing."""
        if self._lists_folders(path):
            return partial(self._listings.listing, path, request, line)
        return self._files(path).listing(path, request, line)

    def _lists_folders(self, path: VirtualPath) -> bool:
        # The last name may be a pattern that matches a folder.
        return self._leads(path) or (any(sign in path.name for sign in "*?[") and self._leads(path.parent))

    def reader(self, path: VirtualPath, offset: int, end: int | None, checksum: str = "") -> Opening[Reader]:
        """Return the opening of a file for reading."""
        return self._plain(path).reader(path, offset, end, checksum)

    def _plain(self, path: VirtualPath) -> Files:
        if path.parts and self._leads(path):
            raise Refusal(550, "Not a plain file.")
        return self._files(path)

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Opening[Upload]:
        """Return the opening of an upload."""
        if path.parts and (self._leads(path) or self._table.is_folder(path.parts)):
            if not unique:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            path = path.parent.child(f"{path.name}.file")  # the name is only the beginning of the new one
        return partial(self._open, self._files(path).writer(path, offset, append, unique), path.parent)

    def _open(self, opening: Opening[Upload], parent: VirtualPath) -> Upload:
        with self._explaining(parent):
            return opening()

    # --- a few disk calls --------------------------------------------------------------------------

    def entry(self, path: VirtualPath, *permissions: str) -> Awaitable[Entry]:
        """Return the facts of a name."""
        if self._leads(path):
            return self._call(self.directories.entry, path, *permissions)
        return self._files(path).entry(path, *permissions)

    async def require_directory(self, path: VirtualPath) -> None:
        """Return if the path is a directory in which the user has any permission."""
        if self._leads(path):
            await self.entry(path, *PERMISSIONS)
        else:
            await self._files(path).require_directory(path)

    async def make_directory(self, path: VirtualPath) -> None:
        """Make an empty directory."""
        if self._leads(path) or self._table.is_folder(path.parts):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with self._explaining(path.parent):
            await self._files(path).make_directory(path)

    def remove(self, path: VirtualPath) -> Awaitable[None]:
        """Remove a file, a link, or the part file of an upload that was cut."""
        return self._changeable(path).remove(path)

    async def rename(self, old: VirtualPath, new: VirtualPath) -> None:
        """Rename a file or directory; a file also from one mount to another."""
        source = self._changeable(old)
        self._table.require_no_folder(new, 553)
        target = self._files(new)
        with self._explaining(new.parent):
            await (source.rename(old, new) if source is target else source.move_to(target, old, new))

    def set_time(self, path: VirtualPath, modified: float) -> Awaitable[float]:
        """Set the time of modification."""
        return self._changeable(path).set_time(path, modified)

    def set_mode(self, path: VirtualPath, mode: int) -> Awaitable[int]:
        """Set the permission bits."""
        return self._changeable(path).set_mode(path, mode)

    def size(self, path: VirtualPath) -> Awaitable[int]:
        """Return the size of a file in bytes."""
        return self._plain(path).size(path)

    async def free_space(self, path: VirtualPath) -> int:
        """Return the free bytes of the mount: none in a directory that only leads to folders."""
        try:
            return await self._files(path).free_space(path)
        except MISSING:
            if not self._leads(path):
                raise
            return 0

    async def available_space(self, path: VirtualPath) -> int:
        """Return the free bytes for a new file."""
        try:
            return await self._files(path).available_space(path)
        except MISSING:
            if not self._leads(path):
                raise
            return 0

    def usage(self, path: VirtualPath) -> Awaitable[Usage | None]:
        """Return what the mount holds."""
        return self._files(path).usage(path)

    @contextmanager
    def _explaining(self, parent: VirtualPath) -> Iterator[None]:
        """Say why nothing can be made in a directory that only leads to folders."""
        try:
            yield
        except MISSING:
            if not self._leads(parent):
                raise
            raise Refusal(550, f"{parent} contains only folders of the server: nothing can be added.") from None

    # --- walks -------------------------------------------------------------------------------------

    def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> Awaitable[list[Entry]]:
        """Return the first entries of a listing."""
        if self._lists_folders(path):
            return self._walks.run(self._listings.first_entries(path, request, limit))
        return self._files(path).first_entries(path, request, limit)

    def remove_directory(self, path: VirtualPath) -> Awaitable[None]:
        """Remove an empty directory."""
        return self._changeable(path).remove_directory(path)

    def remove_tree(self, path: VirtualPath) -> Awaitable[None]:
        """Remove a directory and all below it."""
        return self._changeable(path).remove_tree(path)

    @property
    def walking(self) -> bool:
        """Whether a command walks through a directory or a tree now."""
        return self._walks.walking or any(each.files is not None and each.files.walking for each in self._table.all)

    def stop(self, reply: Reply) -> None:
        """End the walk that runs, if there is one."""
        self._walks.stop(reply)
        for each in self._table.all:
            if each.files is not None:
                each.files.stop(reply)

    # --- the session -------------------------------------------------------------------------------

    def move_to(self, other: Files, old: VirtualPath, new: VirtualPath) -> Awaitable[None]:
        """Raise Refusal: this is the whole tree of a user."""
        raise Refusal(553, "Nothing can be moved there.")

    def close(self) -> None:
        """End the walk that runs, and close all mounts."""
        self._walks.close()
        for each in self._table.all:
            each.close()
