"""What tells, after a crash, whether a change of a name was made: the evidence of an intent, and the decision.

The rules, for a change that gives an inode another name, or removes its name:

1. The new name has the inode: the change was made.
2. The old name has the inode: it was not made.
3. Neither: it was made, and the file was replaced or removed afterwards.

An upload that appends a few bytes in place is decided by the bytes at the place where they belong. Device numbers are
not compared, since a restart of the machine may change them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ftpsd.outbox.segments import Entry

#: Directories that are searched, at most, for one that was renamed.
_MOST_DIRECTORIES = 200_000


class Undecidable(Exception):
    """The file system of the change is not there now, or does not answer. Ask again later."""


class Lost(Exception):
    """The directory of the change is gone: nobody can tell any more."""


class Spot(NamedTuple):
    """A name in a directory, whose path and inode were noted."""

    directory: str
    inode: int
    name: str

    @property
    def path(self) -> str:
        """The path at the time of the note."""
        return os.path.join(self.directory, self.name)


def spot(directory: int, name: str) -> Spot:
    """Return the spot of a name in an open directory."""
    return Spot(os.readlink(f"/proc/self/fd/{directory}"), os.fstat(directory).st_ino, name)


def moved(home: Spot, inode: int, old: Spot | None, new: Spot | None) -> Entry:
    """Return the evidence that an inode gets the name `new` for the name `old`, or loses that."""
    return {"home": list(home), "inode": inode, "old": _listed(old), "new": _listed(new)}


def appended(home: Spot, inode: int, where: Spot, offset: int, data: bytes) -> Entry:
    """Return the evidence that bytes are appended to a file in place."""
    return {
        "home": list(home),
        "inode": inode,
        "new": list(where),
        "offset": offset,
        "count": len(data),
        "checksum": zlib.crc32(data),
    }


def _listed(place: Spot | None) -> object:
    return None if place is None else list(place)


def was_made(evidence: Entry) -> bool:
    """Return whether the change was made. Blocks. Raises Undecidable or Lost."""
    home = _spot(evidence["home"])
    assert home is not None
    try:
        if os.stat(home.directory).st_ino != home.inode:
            raise Undecidable(f"{home.directory} is another directory than before")
        old, new = (_found(_spot(evidence.get(key)), home.directory) for key in ("old", "new"))
        inode = evidence["inode"]
        if "offset" in evidence:
            assert new is not None
            return _has_bytes(new, evidence)
        if new is not None and _inode(new) == inode:
            return True
        return old is None or _inode(old) != inode
    except OSError as error:
        raise Undecidable(str(error)) from None


def _spot(value: object) -> Spot | None:
    if not isinstance(value, list):
        return None
    directory, inode, name = value
    assert isinstance(directory, str) and isinstance(inode, int) and isinstance(name, str)
    return Spot(directory, inode, name)


def _found(place: Spot | None, home: str) -> str | None:
    """Return the path of a spot now: somebody may have renamed its directory."""
    if place is None:
        return None
    for directory in (place.directory, *_directories(home)):
        try:
            if os.stat(directory).st_ino == place.inode:
                return os.path.join(directory, place.name)
        except FileNotFoundError:
            pass
    raise Lost(f"{place.directory} is gone")


def _directories(home: str) -> Iterator[str]:
    for count, (directory, _, _) in enumerate(os.walk(home)):
        if count >= _MOST_DIRECTORIES:
            return
        yield directory


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None


def _has_bytes(path: str, evidence: Entry) -> bool:
    offset, count = evidence["offset"], evidence["count"]
    assert isinstance(offset, int) and isinstance(count, int)
    if _inode(path) != evidence["inode"]:
        raise Lost(f"{path} was replaced")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return zlib.crc32(os.pread(fd, count, offset)) == evidence["checksum"]
    finally:
        os.close(fd)
