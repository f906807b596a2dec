"""The processes that use the shared table, and which of them live: Members."""

from __future__ import annotations

from ftpsd.limits.shared.locks import ByteLock
from ftpsd.limits.shared.memory import TableMemory
from ftpsd.limits.shared.places import LOCKS

#: The distance between the numbers of two processes that have the same index, one after the other.
_NEXT = 128

#: The byte that the process with index 0 locks while it lives. The next one locks the second byte before that.
_FIRST_LOCK = LOCKS - 256


class Members:
    """Tells which processes have ended, from the moment at which they end. For any thread.

    Each process locks a byte of its own, which the kernel releases when the process is killed. The supervisor notices
    the end later. It notes it here, and then another process may get the index.
    """

    def __init__(self, memory: TableMemory, locks: int, index: int) -> None:
        """`locks` is the descriptor of the file on which this process takes its locks."""
        #: How many processes have ended, and which one has its lock, by their indexes.
        self._ended, self._locked = memory.members()
        self._locks = locks
        self._index = index
        self._join()

    def _join(self) -> None:
        """Get a number, and the lock. A process without the lock lives until the supervisor says otherwise."""
        #: The number of this process. No other process of the table has had it.
        self.own = self._number(self._index)
        if self._lock_of(self._index).try_acquire():
            self._locked[self._index] = self.own + 1

    def _lock_of(self, index: int) -> ByteLock:
        return ByteLock(self._locks, _FIRST_LOCK - 2 * index)

    def lives(self, number: int) -> bool:
        """Return whether the process with a number has not ended."""
        if number == self.own:
            return True
        index = number % _NEXT
        if self._ended[index] != number // _NEXT:
            return False
        return bool(self._locked[index] != number + 1) or self._lock_of(index).is_taken()

    def unnoticed(self) -> frozenset[int]:
        """Return the indexes of the processes that have ended, which the supervisor has not noticed yet."""
        numbers = enumerate(map(self._number, range(len(self._ended))))
        return frozenset(index for index, number in numbers if self._is_unnoticed(index, number))

    def _is_unnoticed(self, index: int, number: int) -> bool:
        return bool(self._locked[index] == number + 1) and not self.lives(number)

    def ends(self) -> int:
        """Return a number that grows whenever a process ends, and again when the supervisor notes that."""
        numbers = enumerate(map(self._number, range(len(self._ended))))
        return sum(2 * (number // _NEXT) + self._is_unnoticed(index, number) for index, number in numbers)

    def _number(self, index: int) -> int:
        number: int = self._ended[index] * _NEXT + index
        return number

    def end(self, index: int) -> None:
        """Note that the process with an index has ended. Only the supervisor does."""
        self._ended[index] += 1
        if index == self._index:  # it was a supervisor before this one
            self._join()
