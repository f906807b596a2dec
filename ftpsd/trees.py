"""A directory and all below it, removed. Renames make trees deeper than any path that a client may say,
deeper than the stack and than the number of descriptors that a process may have.
"""

from __future__ import annotations

import os
import secrets

from ftpsd.uploads import PRIVATE

#: Levels that are removed in one go; what is deeper is moved up first.
_LEVELS = 64

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(directory: int, name: str) -> None:
    """Removes the tree `name` of a directory; links in it go, what they lead to stays. OSError where it cannot."""
    top = os.open(name, _OPEN, dir_fd=directory)
    try:
        while _clear(top, top, 0):
            pass
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=directory)


def _clear(top: int, directory: int, depth: int) -> bool:
    """Removes what is in a directory; whether something was moved up to `top`, for another round."""
    with os.scandir(directory) as found:
        entries = list(found)
    moved = False
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=directory)
        elif depth == _LEVELS:
            os.rename(entry.name, PRIVATE + secrets.token_hex(8), src_dir_fd=directory, dst_dir_fd=top)
            moved = True
        else:
            moved |= _remove_below(top, directory, entry.name, depth)
    return moved


def _remove_below(top: int, directory: int, name: str, depth: int) -> bool:
    below = os.open(name, _OPEN, dir_fd=directory)
    try:
        moved = _clear(top, below, depth + 1)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=directory)
    return moved
