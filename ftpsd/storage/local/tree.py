"""A directory and all below it: walked, removed. Renames make trees deeper than any path that a client may say,
deeper than the stack and than the number of descriptors that a process may have. What goes away meanwhile is
passed over.
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

#: Entries of a directory that are read in one step.
STEP = 100

#: Names of directories that a walk holds in memory: so many for its top, half as many for what is below, and so on.
_MOST_NAMES = 8192

#: Levels that are removed in one go; what is deeper is moved up first.
_LEVELS = 64

#: Names for that, which a client may see and say: were the daemon killed meanwhile, he can remove what is left.
_MOVED = "being-removed-"

#: Opening such a directory says that it went away, became something else, or is not for the daemon.
_NOT_TO_BE_READ: tuple[type[OSError], ...] = (FileNotFoundError, NotADirectoryError, PermissionError)

#: Directories on the way to where a walk is that stay open, the innermost ones.
_OPENED = 16

#: Names of 255 bytes that make no path too long for one call.
_IN_A_PATH = 15

#: Classes of errors.
Errors = tuple[type[OSError], ...]

#: A file or directory, whatever its name: device and inode.
Identity = tuple[int, int]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def identity(info: os.stat_result) -> Identity:
    """Which one it is."""
    return info.st_dev, info.st_ino


class Piece(NamedTuple):
    """Some of the names in one directory of a tree: the way from the top to it, the same, open, and the names."""

    parts: tuple[str, ...]
    descriptor: int
    names: list[str]
    directories: list[str]


def directories(top: str, at: int | None = None, skip: Errors = _NOT_TO_BE_READ) -> Iterator[Piece]:
    """Walk a tree in short steps: yield its names, those of directories apart. Links are not followed.

    A tree may be deeper than a recursion or a path can be, since a rename puts one below another, and wider than
    the memory. `skip`: errors for which a directory is left out.
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
                level.close()
                levels.pop()
                del path[-1:]
            elif (here := level.open(root, path, name, skip)) >= 0:
                path.append(name)
                levels.append((yield from _visit(root, here, path, skip)))
                for each in levels[-_OPENED - 1 : -_OPENED]:
                    each.close()
    finally:
        for each in levels:
            each.close()
        os.close(root)


@dataclass(slots=True)
class _Level:
    """A directory on the way to where a walk is, and the names of the directories in it."""

    identity: Identity
    names: Iterator[str | None]
    descriptor: int

    def open(self, root: int, path: list[str], name: str, skip: Errors) -> int:
        """Open one of its directories; -1 if that cannot be done."""
        try:
            if self.descriptor < 0:
                self.descriptor = _reopen(root, path, self.identity)
            return os.open(name, _OPEN, dir_fd=self.descriptor)
        except skip:
            return -1

    def close(self) -> None:
        """Close it; it may be opened again."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _visit(root: int, here: int, path: list[str], skip: Errors) -> Generator[Piece, None, _Level]:
    """Yield what is in a directory. Takes over the descriptor."""
    parts, limit, below = tuple(path), portion(len(path)), list[str]()
    try:
        known = identity(os.fstat(here))
        try:
            for names, found in names_in(here):
                if len(below) <= limit:
                    below += found
                yield Piece(parts, here, names, found)
        except skip:
            pass
    except BaseException:
        os.close(here)
        raise
    return _Level(known, in_portions(below, limit, lambda: _scan_again(root, path, known, skip)), here)


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
    """Open a directory that was visited; FileNotFoundError if it is not there any more."""
    here = _descend(root, path)
    # On the way a rename may have put a link in a directory's place: it leads to another one.
    if identity(os.fstat(here)) != known:
        os.close(here)
        raise FileNotFoundError(errno.ENOENT, "it was moved")
    return here


def _descend(root: int, path: list[str]) -> int:
    here = os.open(".", _OPEN, dir_fd=root)
    for first in range(0, len(path), _IN_A_PATH):
        try:
            deeper = os.open("/".join(path[first : first + _IN_A_PATH]), _OPEN, dir_fd=here)
        finally:
            os.close(here)
        here = deeper
    return here


def portion(depth: int) -> int:
    """Return how many names of directories a walk may hold in memory for one directory at that depth."""
    return max(_MOST_NAMES >> depth, 64 if depth < MAX_DEPTH else 4)


def in_portions(names: list[str], limit: int, scan: Callable[[], Iterable[list[str]]]) -> Iterator[str | None]:
    """Yield the names; if they are more than the limit, all those that scans find, in the order of the names and so
    many at a time. None in between: no step is long.

    A directory of 200,000 others is scanned 25 times then, which takes less than opening each of them.
    """
    if len(names) <= limit:
        yield from names
        return
    last = ""
    while names:
        names = []
        for found in scan():
            names = sorted([*names, *(name for name in found if name > last)])[:limit]
            yield None
        yield from names
        last = names[-1] if names else ""


#: Times that a removal begins anew in directories to which somebody keeps adding names.
_MOST_ROUNDS = 1000

#: Removes a name from an open directory; whether it is that of a directory.
Delete = Callable[[int, str, bool], object]


def delete(directory: int, name: str, is_directory: bool) -> None:
    """Remove a name: that of an empty directory, or of something else, if it is still there."""
    if is_directory:
        os.rmdir(name, dir_fd=directory)
    else:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)


def remove(directory: int, name: str, delete: Delete = delete) -> Generator[None, None, None]:
    """Remove the tree `name` of a directory in short steps; links in it go, what they lead to stays.

    Raises OSError where it cannot: also if somebody adds names as fast as they go.
    """
    top = os.open(name, _OPEN, dir_fd=directory)
    try:
        yield from _clear(top, top, 0, delete, iter(range(_MOST_ROUNDS)))
    finally:
        os.close(top)
    delete(directory, name, True)


def _clear(top: int, directory: int, depth: int, delete: Delete, rounds: Iterator[int]) -> Generator[None, None, None]:
    """Empty a directory. What it held at first is removed; for what comes meanwhile there are so many rounds in all.

    Then names are left, and it cannot be removed.
    """
    size, expected, removed = portion(depth) // 8, 0, 0
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
                delete(directory, entry.name, False)
            elif depth == _LEVELS:  # to `top`, for another round
                os.rename(entry.name, _MOVED + secrets.token_hex(8), src_dir_fd=directory, dst_dir_fd=top)
            else:
                below = os.open(entry.name, _OPEN, dir_fd=directory)
                try:
                    yield from _clear(top, below, depth + 1, delete, rounds)
                finally:
                    os.close(below)
                delete(directory, entry.name, True)
            yield


def _first(directory: int, count: int) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return list(islice(found, count))


def _count(directory: int) -> Generator[None, None, int]:
    number = 0
    for names, below in names_in(directory):
        number += len(names) + len(below)
        yield
    return number
