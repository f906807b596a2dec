"""A set of files that all processes know: SharedFileSet."""

from __future__ import annotations

import struct

from ftpsd.limits.shared.directory import KeyDirectory
from ftpsd.limits.shared.locks import RangeLock
from ftpsd.limits.shared.members import Members
from ftpsd.limits.shared.patience import TableBusy

#: Device and inode of a file.
FileKey = tuple[int, int]

#: Spreads neighbouring inodes of all devices over the table.
_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class SharedFileSet:
    """Files by device and inode, each with the process that has added it. For any thread; calls may raise TableBusy.

    A file is no longer here from the moment at which its process ends.
    """

    def __init__(self, keys: memoryview, owners: memoryview, lock: RangeLock, members: Members) -> None:
        self._keys = KeyDirectory(keys)
        self._owners = owners
        self._lock = lock
        self._members = members

    def add(self, file: FileKey) -> bool:
        """Add a file, or make this process its owner. Return False if the set is full."""
        key = _key(file)
        with self._lock:
            place = self._keys.find(key)
            if place is None and (place := self._keys.free_place(key)) is None:
                return False
            self._owners[place] = self._members.own
            self._keys.put(place, key)
            return True

    def discard(self, file: FileKey) -> None:
        """Remove a file if it is here, whoever has added it."""
        with self._lock:
            place = self._keys.find(_key(file))
            if place is not None:
                self._keys.remove(place)

    def __contains__(self, file: FileKey) -> bool:
        """Return whether a file is here. Waits for no lock."""
        place = self._keys.find(_key(file))
        return place is not None and self._members.lives(self._owners[place])

    def __len__(self) -> int:
        """Return the number of places that are used."""
        return sum(1 for _ in self._keys.used())

    def make_room(self) -> None:
        """Free the places of processes that have ended. If a process that was stopped has the lock, a later call does.

        Nobody may do that without the lock: another process may be about to add one of these files again.
        """
        places = [place for place in self._keys.used() if not self._members.lives(self._owners[place])]
        try:
            with self._lock:
                for place in places:
                    if not self._members.lives(self._owners[place]):
                        self._keys.remove(place)
        except TableBusy:
            return


def _key(file: FileKey) -> bytes:
    device, inode = file
    mixed = ((inode ^ device << 32) * _FACTOR) & _MASK
    return struct.pack("<QQ", mixed ^ mixed >> 32, device & _MASK)
