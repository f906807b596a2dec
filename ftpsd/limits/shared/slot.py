"""One row of the shared table: Slot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

#: The processes that may use the table at the same time: the supervisor, and workers that serve or drain.
PROCESSES = 65

#: The fields of a slot, of 8 bytes each; and its columns, which have one integer for each process. One more column has
#: the references of the processes.
FIELDS, COLUMNS = 28, 2

#: The integers of a slot: the kind, the fields, the name, the references, the columns.
INTS = 256

_NAME = 1 + FIELDS
_NAME_INTS = 32
_REFERENCES = _NAME + _NAME_INTS
_COLUMNS = tuple(_REFERENCES + number * PROCESSES for number in range(1, COLUMNS + 1))
assert _COLUMNS[-1] + PROCESSES <= INTS


class Slot:
    """One row of the table. Everything is 0 in a new slot. For any thread.

    A slot keeps its contents while any process has a `Slot` for it. After that, a full table may give it to another
    name. Processes see one change of a field or of an own column completely or not at all, even if its process is
    killed. Several changes look like one only to holders of the lock, and a process may be killed between them.
    """

    __slots__ = ("__weakref__", "_ints", "_lock", "_own", "_used", "floats", "ints", "place")

    def __init__(
        self,
        ints: memoryview,
        floats: memoryview[float],
        lock: AbstractContextManager[object],
        own: int,
        used: Callable[[], int],
        place: int | None = None,
    ) -> None:
        """`own` is the number of this process in each column; `used` returns how many numbers of a column are used."""
        #: The fields, as integers or as floating point numbers of the same 8 bytes.
        self.ints: Final = fields_of(ints)
        self.floats: Final = floats[1:_NAME]
        #: The place in the table; None if the table was full, so that other processes do not have this slot.
        self.place: Final = place
        self._ints = ints
        self._lock = lock
        self._own = own
        self._used = used

    @property
    def shared(self) -> bool:
        """Whether other processes have this slot, too."""
        return self.place is not None

    def lock(self) -> AbstractContextManager[object]:
        """Return the lock of this slot, for threads of all processes. Not reentrant. Entering may raise TableBusy."""
        return self._lock

    def add(self, column: int, difference: int) -> None:
        """Add to the number of this process in column 0 or 1. Callers hold the lock, or are always the same thread."""
        self._ints[_COLUMNS[column] + self._own] += difference

    def own(self, column: int) -> int:
        """Return the number of this process in a column."""
        number: int = self._ints[_COLUMNS[column] + self._own]
        return number

    def numbers(self, column: int) -> list[int]:
        """Return the numbers of all processes in a column."""
        first = _COLUMNS[column]
        return [*self._ints[first : first + self._used()]]

    def total(self, column: int) -> int:
        """Return the sum of a column over all processes."""
        return column_total(self._ints, column, self._used())


def set_name(ints: memoryview, name: str) -> None:
    """Write the name of a slot, as much of it as there is room for."""
    data = name.encode("utf-8", "surrogatepass")[: 8 * _NAME_INTS].ljust(8 * _NAME_INTS, b"\0")
    ints[_NAME:_REFERENCES] = memoryview(data).cast("q")


def name_of(ints: memoryview) -> str:
    """Return the name of a slot."""
    return ints[_NAME:_REFERENCES].tobytes().rstrip(b"\0").decode("utf-8", "replace")


def fields_of(ints: memoryview) -> memoryview:
    """Return the fields of a slot."""
    return ints[1:_NAME]


def column_total(ints: memoryview, column: int, used: int) -> int:
    """Return the sum of a column of a slot over the first `used` processes."""
    first = _COLUMNS[column]
    return sum(ints[first : first + used])


def clear_process(ints: memoryview, process: int) -> None:
    """Set the numbers of a process in all columns of a slot to 0."""
    for first in (_REFERENCES, *_COLUMNS):
        ints[first + process] = 0


def refer(ints: memoryview, process: int, refers: bool) -> None:
    """Note whether a process uses a slot."""
    ints[_REFERENCES + process] = int(refers)


def is_used(ints: memoryview) -> bool:
    """Return whether any process uses a slot."""
    return any(ints[_REFERENCES : _REFERENCES + PROCESSES])
