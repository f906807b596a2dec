"""Measure what names and homes hold, for quotas.

A file counts with its size under each of its names, a directory as a file without bytes. An empty part file counts
nothing: it is only the lock of an upload.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Hashable, Iterator

from ftpsd.limits.home_counts import Amount
from ftpsd.storage.local.part_files import PRIVATE, part_name
from ftpsd.storage.local.tree import directories, identity

_NOTHING = Amount()
_DIRECTORY = Amount(0, 1)


def measure(names: tuple[tuple[int, str], ...], charged: Container[Hashable]) -> Amount:
    """Return what names, given with their open directories, and their part files hold (see `backend.Measure`)."""
    total = _NOTHING
    for directory, name in names:
        total += measure_name(directory, name, charged) + measure_name(directory, part_name(name), charged)
    return total


def measure_name(directory: int, name: str, charged: Container[Hashable]) -> Amount:
    """Return what one name holds."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return _NOTHING
    if stat.S_ISDIR(info.st_mode):
        return _DIRECTORY
    if not stat.S_ISREG(info.st_mode) or identity(info) in charged:
        return _NOTHING
    if not info.st_size and name.startswith(PRIVATE):
        return _NOTHING
    return Amount(info.st_size, 1)


class DirectoryMeter:
    """Measures homes that are directories of this machine."""

    def exists(self, home: str) -> bool:
        """Return whether the home is a directory."""
        return os.path.isdir(home)

    def amounts(self, home: str, charged: Container[Hashable]) -> Iterator[Amount]:
        """Yield what the home holds, one portion of a directory in each step."""
        for piece in directories(home):
            size, number = 0, len(piece.directories)
            for name in piece.names:
                found = measure_name(piece.descriptor, name, charged)
                size, number = size + found.bytes, number + found.files
            yield Amount(size, number)


class OpenPartFile:
    """A second descriptor of a part file."""

    def __init__(self, fd: int, held: int) -> None:
        """`held` is how many bytes it had when its upload began."""
        self._fd = os.dup(fd)
        #: See `PartFile`.
        self.held = Amount(held, 1) if held else _NOTHING
        self.identity = identity(os.fstat(self._fd))

    def amount(self) -> Amount:
        """Return what the disk holds of it now: nothing if it has no name any more."""
        info = os.fstat(self._fd)
        return Amount(info.st_size, 1) if info.st_nlink else _NOTHING

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
