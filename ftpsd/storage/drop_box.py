"""Files of a drop box: clients that do not know each other put files in, and learn of none that are there.

Each upload becomes a new file: its name gets a random suffix, whether or not there is a file of this name. All other
commands are refused before the storage is asked, and errors do not tell a file from a name that does not exist.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

from ftpsd.protocol.interfaces import Files, Opening, Reader, Source, Upload, Usage
from ftpsd.protocol.listing import Entry
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Refusal, Reply


class DropBoxFiles:
    """The files of one session in a drop box. See `interfaces.Files` for what the methods do."""

    def __init__(self, files: Files) -> None:
        self._files = files

    # --- what is permitted ---------------------------------------------------------------------------

    def writer(self, path: VirtualPath, offset: int = 0, append: bool = False, unique: bool = False) -> Opening[Upload]:
        """Return the opening of an upload with a unique name, also for STOR and APPE."""
        if offset:
            raise Refusal(553, "Uploads cannot be resumed here: send the whole file.")
        return partial(_open, self._files.writer(path, unique=True))

    async def require_directory(self, path: VirtualPath) -> None:
        """Return if the path is a directory."""
        with _hiding_files():
            await self._files.require_directory(path)

    def free_space(self, path: VirtualPath) -> Awaitable[int]:
        """Return the free bytes of the storage or the quota."""
        return self._files.free_space(path)

    @property
    def walking(self) -> bool:
        """Nothing here walks."""
        return False

    def stop(self, reply: Reply) -> None:
        """There is nothing to stop."""

    # --- what is not ---------------------------------------------------------------------------------

    def listing(self, path: VirtualPath, request: ListRequest, line: Callable[[Entry], str]) -> Opening[Source]:
        """Raise Refusal, as all methods below do."""
        _refuse()

    def reader(self, path: VirtualPath, offset: int, end: int | None, checksum: str = "") -> Opening[Reader]:
        """Raise Refusal."""
        _refuse()

    async def entry(self, path: VirtualPath, *permissions: str) -> Entry:
        """Raise Refusal."""
        _refuse()

    async def first_entries(self, path: VirtualPath, request: ListRequest, limit: int) -> list[Entry]:
        """Raise Refusal."""
        _refuse()

    async def make_directory(self, path: VirtualPath) -> None:
        """Raise Refusal."""
        _refuse()

    async def remove_directory(self, path: VirtualPath) -> None:
        """Raise Refusal."""
        _refuse()

    async def remove_tree(self, path: VirtualPath) -> None:
        """Raise Refusal."""
        _refuse()

    async def remove(self, path: VirtualPath) -> None:
        """Raise Refusal."""
        _refuse()

    async def rename(self, old: VirtualPath, new: VirtualPath) -> None:
        """Raise Refusal."""
        _refuse()

    async def set_time(self, path: VirtualPath, modified: float) -> float:
        """Raise Refusal."""
        _refuse()

    async def set_mode(self, path: VirtualPath, mode: int) -> int:
        """Raise Refusal."""
        _refuse()

    async def size(self, path: VirtualPath) -> int:
        """Raise Refusal."""
        _refuse()

    async def available_space(self, path: VirtualPath) -> int:
        """Raise Refusal."""
        _refuse()

    async def usage(self, path: VirtualPath) -> Usage | None:
        """Return nothing: it would show what others have sent."""
        return None


def _refuse() -> NoReturn:
    raise Refusal(550, "Not permitted here: files can only be sent.")


def _open(opening: Opening[Upload]) -> Upload:
    with _hiding_files():
        return opening()


@contextmanager
def _hiding_files() -> Iterator[None]:
    """Report a path that leads to or through a file as one that does not exist."""
    try:
        yield
    except NotADirectoryError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
