"""The memory of the shared table: how it is laid out, and which slot a name has. Callers hold the locks."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from ftpsd.limits.shared.directory import KEY, KeyDirectory
from ftpsd.limits.shared.slot import INTS, PROCESSES, column_total, fields_of, is_used, name_of, refer, set_name

_PAGE = 4096
_SLOT = 8 * INTS
_EMPTY = memoryview(bytes(_SLOT)).cast("q")

#: Where the numbers about processes begin in the first page, in integers: two for each process.
_MEMBERS = 64
assert _MEMBERS + 2 * PROCESSES <= _PAGE // 8


def create_file(slots: int, files: int) -> int:
    """Return the descriptor of a file in memory for a table of some size."""
    descriptor = os.memfd_create("ftpsd-table", os.MFD_CLOEXEC)
    os.truncate(descriptor, file_size(slots, files))
    return descriptor


def file_size(slots: int, files: int) -> int:
    """Return the bytes of the file."""
    return _slots_begin(slots, files) + slots * _SLOT


def _slots_begin(slots: int, files: int) -> int:
    return _PAGE + (slots + files) * KEY + 8 * files


class TableMemory:
    """The parts of the file, in this order.

    A page with a few numbers for all, the keys of the slots, those of the files, the owners of the files, the slots.
    """

    def __init__(self, descriptor: int, slots: int, files: int) -> None:
        self._begin = _slots_begin(slots, files)
        memory = memoryview(mmap.mmap(descriptor, self._begin + slots * _SLOT))
        self._ints, self._floats = memory.cast("q"), memory.cast("d")
        files_begin, owners_begin = _PAGE + slots * KEY, _PAGE + (slots + files) * KEY
        self._keys = KeyDirectory(memory[_PAGE:files_begin])
        #: The keys of the files, and the process that has added each.
        self.files: Final = memory[files_begin:owners_begin]
        self.owners: Final = memory[owners_begin : self._begin].cast("q")

    def use_columns(self, count: int) -> None:
        """Let all processes read at least so many numbers of each column."""
        self._ints[0] = max(self._ints[0], count)

    def columns(self) -> int:
        """Return how many numbers of each column are used."""
        count: int = self._ints[0]
        return count

    def count_clear(self) -> None:
        """Add to `clears`. Only the supervisor does."""
        self._ints[1] += 1

    def clears(self) -> int:
        """Return the number of calls of `count_clear`."""
        count: int = self._ints[1]
        return count

    def members(self) -> tuple[memoryview, memoryview]:
        """Return two rows of integers, with one for each process (see `Members`)."""
        middle = _MEMBERS + PROCESSES
        return self._ints[_MEMBERS:middle], self._ints[middle : middle + PROCESSES]

    def ints(self, place: int) -> memoryview:
        """Return the integers of a slot."""
        first = (self._begin + place * _SLOT) // 8
        return self._ints[first : first + INTS]

    def floats(self, place: int) -> memoryview[float]:
        """Return the same bytes as floating point numbers."""
        first = (self._begin + place * _SLOT) // 8
        return self._floats[first : first + INTS]

    def take(self, kind: str, name: str, process: int, kept: bool) -> int | None:
        """Return the place of a slot that a process uses from now on; None if there is no place.

        It is empty unless a process uses it already. With `kept`, it has the contents from its last use, unless another
        name has needed the slot since then.
        """
        key = _digest(kind, name)
        place = self._keys.find(key)
        keeps = kept and place is not None
        if place is None:
            place = self._free_place(key)
        if place is not None:
            ints = self.ints(place)
            if not keeps and not is_used(ints):
                ints[:] = _EMPTY
                ints[0] = _number(kind)
                set_name(ints, name)
                self._keys.put(place, key)
            refer(ints, process, True)
        return place

    def _free_place(self, key: bytes) -> int | None:
        place = self._keys.free_place(key)
        if place is None:
            place = next((each for each in self._keys.window(key) if not is_used(self.ints(each))), None)
        return place

    def has(self, kind: str, name: str) -> bool:
        """Return whether a name has a slot."""
        return self._keys.find(_digest(kind, name)) is not None

    def total(self, kind: str, name: str, column: int) -> int:
        """Return the sum of a column for a name; 0 if it has no slot."""
        place = self._keys.find(_digest(kind, name))
        return 0 if place is None else column_total(self.ints(place), column, self.columns())

    def totals(self, kind: str, column: int) -> Iterator[tuple[str, int]]:
        """Iterate over the names of all slots of a kind, and the sums of a column; only those that are not 0."""
        wanted = _number(kind)
        for ints in self.all():
            if ints[0] == wanted and (total := column_total(ints, column, self.columns())):
                yield name_of(ints), total

    def fields_of_kind(self, kind: str) -> Iterator[memoryview]:
        """Iterate over the fields of all slots of a kind."""
        wanted = _number(kind)
        return (fields_of(ints) for ints in self.all() if ints[0] == wanted)

    def all(self) -> Iterator[memoryview]:
        """Iterate over the integers of all slots."""
        return map(self.ints, self._keys.used())


def _digest(kind: str, name: str) -> bytes:
    return blake2b(f"{kind}\0{name}".encode("utf-8", "surrogatepass"), digest_size=KEY).digest()


def _number(kind: str) -> int:
    return int.from_bytes(kind.encode()[:7], "little")
