"""A set of files that all processes know: SharedFileSet."""

from __future__ import annotations

import struct

from ftpsd.limits.shared.directory import KeyDirectory
from ftpsd.limits.shared.locks import RangeLock, TolerantLock

#: Device and inode of a file.
FileKey = tuple[int, int]

#: Spreads neighbouring inodes of all devices over the table.
_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class SharedFileSet:
    """Files by device and inode, each with the process that has added it. For any thread; calls may raise TableBusy."""

    def __init__(self, keys: memoryview, owners: memoryview, lock: RangeLock, own: int) -> None:
        self._keys = KeyDirectory(keys)
        self._owners = owners
        self._lock = lock
        self._own = own

    def add(self, file: FileKey) -> bool:
        """Add a file, or make this process its owner. Return False if the set is full."""
        key = _key(file)
        with self._lock:
            place = self._keys.find(key)
            if place is None and (place := self._keys.free_place(key)) is None:
                return False
            self._owners[place] = self._own
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
        return self._keys.find(_key(file)) is not None

    def __len__(self) -> int:
        """Return the number of files."""
        return sum(1 for _ in self._keys.used())

    def clear(self, process: int) -> None:
        """Remove the files of a process that has ended, but not those that another one has added again."""
        places = [place for place in self._keys.used() if self._owners[place] == process]
        with TolerantLock(self._lock):
            for place in places:
                if self._owners[place] == process:
                    self._keys.remove(place)


def _key(file: FileKey) -> bytes:
    device, inode = file
    mixed = ((inode ^ device << 32) * _FACTOR) & _MASK
    return struct.pack("<QQ", mixed ^ mixed >> 32, device & _MASK)
