"""What tells, after a crash, whether a change of a name was made: the evidence of an intent, and the decision.

The rules, for a change that gives an inode another name, or removes its name:

1. The new name has the inode: the change was made.
2. The old name has the inode: it was not made.
3. Neither: somebody has renamed a directory, then the home is searched for the inode, with the same rules. If it is not
   there, the change was made, and the file was replaced or removed afterwards.

An upload that appends a few bytes in place is decided by the bytes at the place where they belong. Device numbers are
not compared, since a restart of the machine may change them.

FAT and exFAT give their files new inode numbers when they are mounted. There the names decide: the change was made if
the old name is gone, from the whole home if the new name is not there.

What tells of a change in an object store is decided by the storage (`DecideInStore`): it alone can ask the store.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ftpsd.outbox.segments import Entry
from ftpsd.system.file_systems import type_of

#: Directories that are searched at most.
_MOST_DIRECTORIES = 200_000


class Undecidable(Exception):
    """The file system of the change is not there now, or does not answer. Ask again later."""


class Lost(Exception):
    """Nobody can tell any more whether the change was made."""


#: Returns whether a change in a store was made, by its evidence. Blocks. Raises Undecidable or Lost.
DecideInStore = Callable[[Entry], bool]


def without_stores(evidence: Entry) -> bool:
    """Raise Undecidable: no store is configured."""
    raise Undecidable(f"the store {evidence['store']} is not configured")


#: File systems that give their files new inode numbers when they are mounted.
_NUMBERED_ANEW = frozenset({"exfat", "msdos", "vfat"})


class Home(NamedTuple):
    """The home in which a change is made."""

    path: str
    #: Its inode number, or the type of a file system that gives new numbers when it is mounted.
    mark: int | str


def home_at(path: str) -> Home:
    """Return the home with this path. Blocks. Raises OSError."""
    info = os.stat(path)
    kind = type_of(info.st_dev)
    return Home(path, kind if kind in _NUMBERED_ANEW else info.st_ino)


def moved(home: Home, inode: int, old: str | None, new: str | None) -> Entry:
    """Return the evidence that an inode gets the name `new` for the name `old`, or loses that.

    Both are absolute paths; `old` is a name alone if it is in the directory of `new`.
    """
    return {"home": home, "inode": inode, "old": old, "new": new}


def appended(home: Home, inode: int, file: str, offset: int, data: bytes) -> Entry:
    """Return the evidence that bytes are appended to a file in place."""
    checksum = zlib.crc32(data)
    return {"home": home, "inode": inode, "new": file, "offset": offset, "count": len(data), "checksum": checksum}


def file_of(evidence: Entry) -> str:
    """Return the path of the file that a change is about: the new one, unless it is removed."""
    return str(evidence["new"] or evidence["old"])


def was_made(evidence: Entry, in_store: DecideInStore = without_stores) -> bool:
    """Return whether the change was made. Blocks. Raises Undecidable or Lost."""
    if "store" in evidence:
        return in_store(evidence)
    home = evidence["home"]
    assert isinstance(home, list | tuple)
    path, mark = home
    numbered = isinstance(mark, int)
    try:
        if home_at(path).mark != mark:
            raise Undecidable(f"{path} is another directory than before")
        if "offset" in evidence:
            return _has_bytes(evidence, numbered)
        return _has_new_name(path, evidence) if numbered else _has_lost_old_name(path, evidence)
    except OSError as error:
        raise Undecidable(str(error)) from None


def _has_new_name(home: str, evidence: Entry) -> bool:
    inode, old, new = (evidence[name] for name in ("inode", "old", "new"))
    assert isinstance(inode, int) and isinstance(old, str)
    if isinstance(new, str):
        if _inode(new) == inode:
            return True
        old = os.path.join(os.path.dirname(new), old)
    if _inode(old) == inode:
        return False
    names = set(_names(home, inode))
    if isinstance(new, str) and os.path.basename(new) in names:
        return True
    return os.path.basename(old) not in names


def _has_lost_old_name(home: str, evidence: Entry) -> bool:
    """Decide without inode numbers. Names are compared as they are listed: another spelling finds the file, too."""
    old, new = evidence["old"], evidence["new"]
    assert isinstance(old, str)
    if isinstance(new, str):
        old = os.path.join(os.path.dirname(new), old)
    directory, name = os.path.split(old)
    try:
        if name in os.listdir(directory):
            return False
    except (FileNotFoundError, NotADirectoryError):
        pass
    if isinstance(new, str) and os.path.lexists(new):
        return True
    return name not in _names(home)


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def _names(home: str, inode: int | None = None) -> Iterator[str]:
    """Yield the names in a home, or those that an inode has there."""
    for count, (directory, _, _) in enumerate(os.walk(home)):
        if count >= _MOST_DIRECTORIES:
            raise Lost(f"{home} is too large to be searched")
        with os.scandir(directory) as found:
            yield from (each.name for each in found if inode is None or each.inode() == inode)


def _has_bytes(evidence: Entry, numbered: bool) -> bool:
    file, offset, count = (evidence[name] for name in ("new", "offset", "count"))
    assert isinstance(file, str) and isinstance(offset, int) and isinstance(count, int)
    if numbered and _inode(file) != evidence["inode"]:
        raise Lost(f"{file} was replaced")
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return zlib.crc32(os.pread(fd, count, offset)) == evidence["checksum"]
    finally:
        os.close(fd)
