"""A directory and all below it: walked, removed. Renames make trees deeper than any path that a client may say,
deeper than the stack and than the number of descriptors that a process may have. What goes away meanwhile is
passed over.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal

#: Levels that are removed in one go; what is deeper is moved up first.
_LEVELS = 64

#: Names for that, which a client may see and say: were the daemon killed meanwhile, he can remove what is left.
_MOVED = "being-removed-"

#: Opening such a directory says that it went away, became something else, or is not for the daemon.
_NOT_TO_BE_READ = (FileNotFoundError, NotADirectoryError, PermissionError)

#: Names of 255 bytes that make no path too long for one call.
_IN_A_PATH = 15

#: How far below a name something changes: not at all, or in a directory.
Levels = Literal[0, 1]

#: A file or directory, whatever its name: device and inode.
Identity = tuple[int, int]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def identity(info: os.stat_result) -> Identity:
    """Which one it is."""
    return info.st_dev, info.st_ino


def directories(top: str, at: int | None = None) -> Iterator[tuple[int, list[str], list[str]]]:
    """Each directory of a tree, open, with the names in it: those that are no directories, and those that are. Links
    are not followed.

    A tree may be deeper than a recursion or a path can be: a rename puts one below another.
    """
    try:
        root = os.open(top, _OPEN, dir_fd=at)
    except _NOT_TO_BE_READ:
        return
    try:
        waiting: list[tuple[tuple[str, ...], Identity]] = [((), identity(os.fstat(root)))]
        while waiting:
            parts, known = waiting.pop()
            try:
                here = _descend(root, parts)
            except _NOT_TO_BE_READ:
                continue
            try:
                # On the way a rename may have put a link in a directory's place: it leads to another one.
                if identity(os.fstat(here)) == known:
                    names, below = _scan(here)
                    waiting += (((*parts, name), found) for name, found in below.items())
                    yield here, names, list(below)
            finally:
                os.close(here)
    finally:
        os.close(root)


def _descend(root: int, parts: tuple[str, ...]) -> int:
    here = os.open(".", _OPEN, dir_fd=root)
    for first in range(0, len(parts), _IN_A_PATH):
        path = "/".join(parts[first : first + _IN_A_PATH])
        try:
            deeper = os.open(path, _OPEN, dir_fd=here)
        finally:
            os.close(here)
        here = deeper
    return here


def _scan(directory: int) -> tuple[list[str], dict[str, Identity]]:
    names: list[str] = []
    below: dict[str, Identity] = {}
    with os.scandir(directory) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    below[entry.name] = identity(entry.stat(follow_symlinks=False))
            else:
                names.append(entry.name)
    return names, below


def unlink(directory: int, name: str) -> None:
    """Removes a name that is no directory, if it is still there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def remove(directory: int, name: str, each: Callable[[int, str], object] = unlink) -> None:
    """Removes the tree `name` of a directory; links in it go, what they lead to stays. OSError where it cannot.

    `each` removes one that is no directory.
    """
    top = os.open(name, _OPEN, dir_fd=directory)
    try:
        while _clear(top, top, 0, each):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=directory)


def _clear(top: int, directory: int, depth: int, each: Callable[[int, str], object]) -> bool:
    """Removes what is in a directory; whether something was moved up to `top`, for another round."""
    with os.scandir(directory) as found:
        entries = list(found)
    moved = False
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            each(directory, entry.name)
        elif depth == _LEVELS:
            os.rename(entry.name, _MOVED + secrets.token_hex(8), src_dir_fd=directory, dst_dir_fd=top)
            moved = True
        else:
            moved |= _remove_below(top, directory, entry.name, depth, each)
    return moved


def _remove_below(top: int, directory: int, name: str, depth: int, each: Callable[[int, str], object]) -> bool:
    below = os.open(name, _OPEN, dir_fd=directory)
    try:
        moved = _clear(top, below, depth + 1, each)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=directory)
    return moved
