"""Finds the place of a key in shared memory: KeyDirectory."""

from __future__ import annotations

from collections.abc import Iterator

#: The bytes of a key. A key of zeros is a free place.
KEY = 16

#: A key is in one of this many places in a row. So a search is one comparison of 2 KiB, however full the table is.
WINDOW = 128

_FREE = bytes(KEY)


class KeyDirectory:
    """The keys of a table, in `memory`: one of `KEY` bytes for each place. Callers hold a lock for all that it changes.

    Keys that a client may choose must be digests: their first bytes say where they are looked for.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._places = len(memory) // KEY

    def find(self, key: bytes) -> int | None:
        """Return the place of a key, or None."""
        return self._search(self._first(key), key)

    def free_place(self, key: bytes) -> int | None:
        """Return a free place for a key that is not here, or None if there is none."""
        return self._search(self._first(key), _FREE)

    def window(self, key: bytes) -> range:
        """Return the places where a key may be."""
        first = self._first(key)
        return range(first, min(first + WINDOW, self._places))

    def put(self, place: int, key: bytes) -> None:
        """Write a key to a place, instead of the one that is there."""
        self._memory[place * KEY : (place + 1) * KEY] = key

    def remove(self, place: int) -> None:
        """Free a place."""
        self.put(place, _FREE)

    def used(self) -> Iterator[int]:
        """Iterate over the places that are not free."""
        for first in range(0, self._places, WINDOW):
            keys = self._memory[first * KEY : (first + WINDOW) * KEY].tobytes()
            if keys.count(0) < len(keys):
                yield from (first + at // KEY for at in range(0, len(keys), KEY) if keys[at : at + KEY] != _FREE)

    def _first(self, key: bytes) -> int:
        return int.from_bytes(key[:8], "little") % max(1, self._places - WINDOW + 1)

    def _search(self, first: int, key: bytes) -> int | None:
        keys = self._memory[first * KEY : (first + WINDOW) * KEY].tobytes()
        found = keys.find(key)
        while found % KEY and found != -1:
            found = keys.find(key, found + 1)
        return None if found == -1 else first + found // KEY
