"""Access to slots by their place in the table, without a `Slot`: further locks, and the fields: Places."""

from __future__ import annotations

from collections.abc import Iterator

from ftpsd.limits.shared.locks import ByteLock, RangeLock
from ftpsd.limits.shared.memory import TableMemory
from ftpsd.limits.shared.patience import Patience
from ftpsd.limits.shared.slot import fields_of

#: The bytes that are locked are around this one, behind the end of the file. The kernel joins locks on neighbours, so
#: each second one is used.
LOCKS = 1 << 40

#: The distance between the locks of a place.
_NEXT_LOCK = 1 << 32


class Places:
    """The places of a table. Nothing here waits for a lock."""

    def __init__(self, memory: TableMemory, locks: int, patience: Patience) -> None:
        """`locks` is the descriptor of the file on which this process takes its locks."""
        self._memory = memory
        self._patience = patience
        self._locks = locks

    def range_lock(self, place: int, number: int, seconds: float) -> RangeLock:
        """Return a further lock of a place, besides that of its slot. `number` is 1 or more."""
        return RangeLock(self._locks, _lock_of(place, number), self._patience, seconds)

    def byte_lock(self, place: int, number: int) -> ByteLock:
        """Return the same lock, for callers who exclude the other threads of this process."""
        return ByteLock(self._locks, _lock_of(place, number))

    def fields(self, place: int) -> memoryview:
        """Return the fields of the slot that is at a place now."""
        return fields_of(self._memory.ints(place))

    def fields_of_kind(self, kind: str) -> Iterator[memoryview]:
        """Iterate over the fields of all slots of a kind."""
        return self._memory.fields_of_kind(kind)

    @property
    def clears(self) -> int:
        """A number that changes with each `SharedTable.clear`, in all processes (see there)."""
        return self._memory.clears()


def _lock_of(place: int, number: int) -> int:
    return LOCKS + number * _NEXT_LOCK + 2 * place
