"""The table that all processes of the daemon share: SharedTable.

It is a file in memory (memfd_create) that each process maps. A process that is killed leaves nothing behind but its
columns, which the supervisor clears. Any process finds or creates a slot by a kind and a name, under a lock; after that
it uses the slot without the table.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from functools import partial
from threading import Lock
from typing import Final
from weakref import ref

from twisted.logger import Logger

from ftpsd.limits.shared.file_set import SharedFileSet
from ftpsd.limits.shared.locks import PATIENCE, RangeLock
from ftpsd.limits.shared.members import Members
from ftpsd.limits.shared.memory import TableMemory, create_file, file_size
from ftpsd.limits.shared.patience import Patience
from ftpsd.limits.shared.places import LOCKS, Places
from ftpsd.limits.shared.slot import INTS, PROCESSES, Slot, clear_process, refer

log = Logger(namespace="ftpsd")

#: The slots of the table, of 2 KiB, and the files of the set. Memory is used for those that were ever used.
SLOTS, FILES = 32_768, 65_536

#: The number of the supervisor as a process of the table. Workers have the numbers from 0.
SUPERVISOR = -1

#: A kind and a name.
_Key = tuple[str, str]


class SharedTable:
    """Slots by kind and name, and a set of files. For any thread."""

    def __init__(self, descriptor: int, index: int, slots: int = SLOTS, files: int = FILES) -> None:
        """Map a table. `index` is the number of this process, unique among the processes that live."""
        if not SUPERVISOR <= index < PROCESSES - 1:
            raise ValueError(f"no process can have the number {index}")
        #: The file, to pass on to new processes.
        self.descriptor: Final = descriptor
        #: The locks belong to this description, and other processes have their own.
        self._locks = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        #: How long threads of this process wait for locks.
        self.patience: Final = Patience()
        self._lock = RangeLock(self._locks, LOCKS - 2, self.patience)
        self._memory = memory = TableMemory(descriptor, slots, files)
        self._own = index + 1
        memory.use_columns(self._own + 1)
        #: Returns whether a name, of a kind, has a slot. Waits for no lock.
        self.has: Final = memory.has
        #: The processes that use the table.
        self.members: Final = Members(memory, self._locks, self._own)
        #: The files whose bytes some process has charged.
        files_lock = RangeLock(self._locks, LOCKS - 4, self.patience)
        self.files: Final = SharedFileSet(memory.files, memory.owners, files_lock, self.members)
        #: The places of the slots, for those who need more than a slot has.
        self.places: Final = Places(memory, self._locks, self.patience)
        self._opening = Lock()
        self._slots: dict[_Key, ref[Slot]] = {}
        #: Keys and places of slots that this process no longer uses. An object may end in the middle of anything, so
        #: its end must not wait for a lock.
        self._gone: deque[tuple[_Key, int | None]] = deque()
        self._is_full = False
        self._process = os.getpid()

    @classmethod
    def create(cls, slots: int = SLOTS, files: int = FILES) -> SharedTable:
        """Return a new table, in the supervisor."""
        return cls(create_file(slots, files), SUPERVISOR, slots, files)

    @classmethod
    def attach(cls, descriptor: int, index: int, slots: int = SLOTS, files: int = FILES) -> SharedTable:
        """Return the table of the supervisor, in a worker. It takes the descriptor over."""
        return cls(descriptor, index, slots, files)

    def close(self) -> None:
        """Close the descriptors. Slots can be used no longer."""
        os.close(self._locks)
        os.close(self.descriptor)

    def slot(self, kind: str, name: str, kept: bool = False) -> Slot:
        """Return the slot of a name, which is new if no process uses it. May raise TableBusy.

        With `kept`, it has the contents from its last use, unless another name has needed the slot since then. If all
        slots of the table are in use, the slot is one of this process alone, and so are its limits. The log reports
        that, and nobody is refused for it.
        """
        key = kind, name
        slot = self._open_slot(key)
        if slot is None:
            if not self._opening.acquire(timeout=self.patience.seconds(PATIENCE)):
                raise self.patience.exhausted()
            try:
                slot = self._open_slot(key) or self._make(key, kept)
            finally:
                self._opening.release()
            self._release_gone()
        return slot

    def totals(self, kind: str, column: int) -> Iterator[tuple[str, int]]:
        """Iterate over the names of a kind, and the sums of a column that are not 0. Waits for no lock.

        Names are cut to 256 bytes.
        """
        return self._memory.totals(kind, column)

    def total(self, kind: str, name: str, column: int) -> int:
        """Return the sum of a column for a name; 0 if it has no slot. Waits for no lock."""
        return self._memory.total(kind, name, column)

    def clear(self, index: int) -> None:
        """Free everything that a process held which has ended.

        Its files go first, then its numbers: what it was charged for may be counted twice meanwhile, but not left out.
        A process that has read its files there, and reads its numbers when they have gone, sees that `Members.ends` has
        grown in between.
        """
        self.members.end(index + 1)
        self._memory.count_clear()
        for ints in self._memory.all():
            clear_process(ints, index + 1)
        self.files.make_room()

    # --- the slots of this process -----------------------------------------------------------------

    def _open_slot(self, key: _Key) -> Slot | None:
        reference = self._slots.get(key)
        return None if reference is None else reference()

    def _make(self, key: _Key, kept: bool) -> Slot:
        with self._lock:
            place = self._memory.take(*key, self._own, kept)
        slot = self._private() if place is None else self._shared(place)
        self._slots[key] = ref(slot, partial(self._slot_gone, key, place))
        return slot

    def _shared(self, place: int) -> Slot:
        memory = self._memory
        lock = RangeLock(self._locks, LOCKS + 2 * place, self.patience)
        return Slot(memory.ints(place), memory.floats(place), lock, self._own, memory.columns, place)

    def _private(self) -> Slot:
        if not self._is_full:
            self._is_full = True
            log.error("the table of limits is full: further limits are counted by each worker process alone")
        memory = memoryview(bytearray(8 * INTS))
        return Slot(memory.cast("q"), memory.cast("d"), Lock(), self._own, self._memory.columns)

    def _slot_gone(self, key: _Key, place: int | None, _: ref[Slot]) -> None:
        if os.getpid() == self._process:  # a forked process has the objects, too, but uses none of the slots
            self._gone.append((key, place))
            self._release_gone()

    def _release_gone(self) -> None:
        """Note which slots this process no longer uses; if a thread is here already, that one does it."""
        while self._gone and self._opening.acquire(blocking=False):
            try:
                while self._gone:
                    self._forget(*self._gone.popleft())
            finally:
                self._opening.release()

    def _forget(self, key: _Key, place: int | None) -> None:
        reference = self._slots.get(key)
        if reference is not None and reference() is None:
            del self._slots[key]
            if place is not None:
                refer(self._memory.ints(place), self._own, False)


def take_over(descriptor: int) -> SharedTable | None:
    """Return the table of the last supervisor, in the next one; None if it has another layout."""
    if os.fstat(descriptor).st_size != file_size(SLOTS, FILES):
        os.close(descriptor)
        return None
    table = SharedTable(descriptor, SUPERVISOR)
    table.clear(SUPERVISOR)
    return table
