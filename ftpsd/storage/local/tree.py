"""Walk and remove a directory with all below it.

By renames, clients make trees that are deeper than any path in a command, than the stack, and than the number of
descriptors of a process. Names that go away meanwhile are left out.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from ftpsd.protocol.paths import MAX_DEPTH
from ftpsd.system.jobs.job_lock import LockSteps, repeated

#: Entries of a directory that are read in one step.
STEP = 100

#: The most names of directories that a walk holds in memory for its top; half as many for each level below.
_MAX_NAMES = 8192

#: How often a directory is scanned at most, where fewer names would be held: clients can make a large one at any depth.
_MOST_SCANS = 25

#: Levels that are removed by recursion; directories below them are moved to the top first.
_LEVELS = 64

#: The prefix of their names there. Clients see them and can remove them, if the daemon was killed meanwhile.
_MOVED_PREFIX = "being-removed-"

#: Errors of opening a directory that went away, became something else, or is not readable for the daemon.
_NOT_TO_BE_READ: tuple[type[OSError], ...] = (FileNotFoundError, NotADirectoryError, PermissionError)

#: How many of the directories on the current path of a walk stay open, the innermost ones.
_KEPT_OPEN = 16

#: How many names of 255 bytes fit into the path of one call.
_NAMES_PER_PATH = 15

#: Classes of errors.
Errors = tuple[type[OSError], ...]

#: Identifies a file or directory: device and inode.
Identity = tuple[int, int]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def identity(info: os.stat_result) -> Identity:
    """Return the identity of a file or directory."""
    return info.st_dev, info.st_ino


class Piece(NamedTuple):
    """Some of the names in one directory of a tree: its path from the top, its descriptor, and the names."""

    parts: tuple[str, ...]
    descriptor: int
    names: list[str]
    directories: list[str]


def directories(top: str, at: int | None = None, skip: Errors = _NOT_TO_BE_READ) -> Iterator[Piece]:
    """Walk a tree in short steps: yield its names, those of directories apart. Links are not followed.

    `at` is a descriptor for a relative `top`; `skip` are errors for which a directory is left out.
    """
    try:
        root = os.open(top, _OPEN, dir_fd=at)
    except skip:
        return
    path: list[str] = []
    levels: list[_Level] = []
    try:
        levels.append((yield from _visit(root, os.open(".", _OPEN, dir_fd=root), path, skip)))
        while levels:
            level = levels[-1]
            name = next(level.names, "")
            if name is None:
                yield Piece((), -1, [], [])
            elif not name:
                levels.pop()
                del path[-1:]
                if levels:
                    levels[-1].return_from(level)
                level.close()
            elif (here := level.open(root, path, name, skip)) >= 0:
                path.append(name)
                levels.append((yield from _visit(root, here, path, skip)))
                for each in levels[-_KEPT_OPEN - 1 : -_KEPT_OPEN]:
                    each.close()
    finally:
        for each in levels:
            each.close()
        os.close(root)


@dataclass(slots=True)
class _Level:
    """A directory on the current path of a walk, and the names of its subdirectories that are still to be walked."""

    identity: Identity
    names: Iterator[str | None]
    descriptor: int

    def open(self, root: int, path: list[str], name: str, skip: Errors) -> int:
        """Open one of its directories. Return -1 if that is not possible."""
        try:
            if self.descriptor < 0:
                self.descriptor = _reopen(root, path, self.identity)
            return os.open(name, _OPEN, dir_fd=self.descriptor)
        except skip:
            return -1

    def return_from(self, below: _Level) -> None:
        """Open it again, if it was closed, by the way out of a directory in it. By its path it would take long."""
        if self.descriptor < 0 <= below.descriptor:
            with suppress(OSError):
                above = os.open("..", _OPEN, dir_fd=below.descriptor)
                if identity(os.fstat(above)) == self.identity:
                    self.descriptor = above
                else:
                    os.close(above)

    def close(self) -> None:
        """Close it; it may be opened again."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _visit(root: int, here: int, path: list[str], skip: Errors) -> Generator[Piece, None, _Level]:
    """Yield the names in a directory. Takes over its descriptor."""
    parts, below = tuple(path), Below(len(path))
    try:
        known = identity(os.fstat(here))
        try:
            for names, found in names_in(here):
                below.add(found)
                yield Piece(parts, here, names, found)
        except skip:
            pass
    except BaseException:
        os.close(here)
        raise
    return _Level(known, below.names(lambda: _scan_again(root, path, known, skip)), here)


def names_in(directory: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the names in an open directory in portions, those of directories apart."""
    with os.scandir(directory) as found:
        while entries := list(islice(found, STEP)):
            names, below = list[str](), list[str]()
            for entry in entries:
                (below if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
            yield names, below


def _scan_again(root: int, path: list[str], known: Identity, skip: Errors) -> Iterator[list[str]]:
    try:
        here = _reopen(root, path, known)
        try:
            for _, below in names_in(here):
                yield below
        finally:
            os.close(here)
    except skip:
        return


def _reopen(root: int, path: list[str], known: Identity) -> int:
    """Open a directory of the current path again. Raises FileNotFoundError if it is not there any more."""
    here = _descend(root, path)
    # A rename may have put a link in the place of a directory on the path: it leads to another directory.
    if identity(os.fstat(here)) != known:
        os.close(here)
        raise FileNotFoundError(errno.ENOENT, "directory was moved")
    return here


def _descend(root: int, path: list[str]) -> int:
    here = os.open(".", _OPEN, dir_fd=root)
    for first in range(0, len(path), _NAMES_PER_PATH):
        try:
            deeper = os.open("/".join(path[first : first + _NAMES_PER_PATH]), _OPEN, dir_fd=here)
        finally:
            os.close(here)
        here = deeper
    return here


def _portion(depth: int) -> int:
    """Return how many names of directories a walk may hold in memory for one directory at this depth."""
    return max(_MAX_NAMES >> depth, 64 if depth < MAX_DEPTH else 4)


class Below:
    """The names of the directories in one directory: all of them, or their number if a walk may not hold so many."""

    __slots__ = ("_held", "_limit", "_total")

    def __init__(self, depth: int) -> None:
        self._limit = _portion(depth)
        self._held: list[str] = []
        self._total = 0

    def add(self, names: list[str]) -> None:
        """Add some of the names."""
        self._total += len(names)
        if len(self._held) <= self._limit:
            self._held += names

    def names(self, scan: Callable[[], Iterable[list[str]]]) -> Iterator[str | None]:
        """Yield the names, and None between them so that no step takes long.

        If they are more than the limit, scan the directory for each portion, in the order of the names. A directory
        with 200,000 others is scanned 25 times, which takes less time than to open each of these.
        """
        if len(self._held) <= self._limit:
            yield from self._held
            return
        self._held, last = [], ""
        limit = max(self._limit, -(-self._total // _MOST_SCANS))  # rounded up
        while True:
            names = list[str]()
            for found in scan():
                end = names[-1] if len(names) == limit else None
                new = [name for name in found if name > last and (end is None or name < end)]
                if new:
                    names = sorted([*names, *new])[:limit]
                yield None
            if not names:
                return
            yield from names
            last = names[-1]


#: How often a removal starts again in directories to which other programs keep adding names.
_MAX_ROUNDS = 1000

#: Removes a name from an open directory; the third argument says whether it is that of a directory.
Delete = Callable[[int, str, bool], object]


def delete(directory: int, name: str, is_directory: bool) -> None:
    """Remove an empty directory, or something else if it is still there."""
    if is_directory:
        os.rmdir(name, dir_fd=directory)
    else:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def remove(directory: int, name: str, delete: Delete = delete) -> LockSteps[None]:
    """Remove the tree `name` of a directory in short steps. Of links in it, their targets stay.

    Raises OSError if that is not possible, also if other programs add names as fast as they are removed.
    """
    top = os.open(name, _OPEN, dir_fd=directory)
    try:
        yield from _clear(top, top, 0, delete, iter(range(_MAX_ROUNDS)))
    finally:
        os.close(top)
    yield from repeated(delete, directory, name, True)


def _clear(top: int, directory: int, depth: int, delete: Delete, rounds: Iterator[int]) -> LockSteps[None]:
    """Empty a directory. Names that are added meanwhile are removed in further rounds, as far as `rounds` has any.

    If names are left then, the directory cannot be removed.
    """
    size, expected, removed = _portion(depth) // 8, 0, 0
    while entries := _first(directory, size):
        if not removed:
            expected = len(entries)
            if expected == size:
                expected = yield from _count(directory)
        elif removed >= expected and next(rounds, None) is None:
            return
        removed += len(entries)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield from repeated(delete, directory, entry.name, False)
            elif depth == _LEVELS:  # it is removed in another round of `top`
                os.rename(entry.name, _MOVED_PREFIX + secrets.token_hex(8), src_dir_fd=directory, dst_dir_fd=top)
            else:
                below = os.open(entry.name, _OPEN, dir_fd=directory)
                try:
                    yield from _clear(top, below, depth + 1, delete, rounds)
                finally:
                    os.close(below)
                yield from repeated(delete, directory, entry.name, True)
            yield None


def _first(directory: int, count: int) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return list(islice(found, count))


def _count(directory: int) -> Generator[None, None, int]:
    number = 0
    for names, below in names_in(directory):
        number += len(names) + len(below)
        yield
    return number
