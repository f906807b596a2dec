"""The names in a home that several processes change: SharedHomeNames."""

from __future__ import annotations

import time
from collections.abc import Container, Hashable
from functools import partial
from typing import Final, cast

from ftpsd.limits.homes.groups import PATIENCE
from ftpsd.limits.homes.layout import CHANGES, CHARGED, DOUBTS, HOLDER, NAMES, TURNS, WANTED
from ftpsd.limits.homes.turns import Turns
from ftpsd.limits.shared.file_set import FileKey
from ftpsd.limits.shared.locks import ByteLock
from ftpsd.limits.shared.patience import TableBusy
from ftpsd.limits.shared.slot import Slot
from ftpsd.limits.shared.table import SharedTable
from ftpsd.system.jobs.job_lock import JobLock

#: Seconds between two attempts of a thread that waits.
_PAUSE = 0.005


class SharedHomeNames(JobLock):
    """The names in a home: a `HomeNames`. Part files are identified by device and inode."""

    def __init__(self, table: SharedTable, slot: Slot, home: str) -> None:
        super().__init__()
        self._table = table
        self._slot = slot
        self._fields = slot.ints
        self._lock = None if slot.place is None else table.places.byte_lock(slot.place, NAMES)
        self._turns = Turns(slot.ints, partial(table.slot, TURNS, home))
        #: The part files of running uploads in all homes.
        self.charged: Final = cast(Container[Hashable], table.files)

    @property
    def changes(self) -> int:
        """The number of changes so far.

        It also grows when a process ends, whose part files are measured from then on, and when the supervisor notices
        that, and clears its charges.
        """
        changes: int = self._fields[CHANGES]
        return changes + self._table.members.ends()

    @property
    def are_charged(self) -> bool:
        """Whether uploads in this home are charged."""
        return self._slot.total(CHARGED) != 0

    def _enter(self, wait: bool) -> bool:
        """Keep the other processes away."""
        if self._lock is None:
            return True
        while not self._try_lock(self._lock):
            if not wait:
                return False  # whoever tries again and again calls `must_wait`
            self._turns.wait()
            time.sleep(_PAUSE)
        if self._fields[HOLDER]:  # it was killed, and nobody knows what it has done
            self._fields[DOUBTS] = 1
            self.changed()
        self._fields[HOLDER] = 1
        return True

    def _try_lock(self, lock: ByteLock) -> bool:
        """Take the lock if no process has it, and none goes first."""
        turns = self._turns
        if (self._fields[WANTED] and turns.is_anothers()) or not lock.try_acquire():
            return False
        if turns.waits:
            turns.begin()
        return True

    def must_wait(self) -> bool:
        """Return whether another process changes names, or goes first. This process waits from now on, or still."""
        if self._lock is None:
            return False
        self._turns.wait()
        return self._lock.is_taken() or self._turns.is_anothers()

    def _leave(self) -> None:
        if self._lock is not None:
            self._fields[HOLDER] = 0
            self._lock.release()

    @property
    def is_abandoned(self) -> bool:
        """Whether the process that changed names has ended, and no other one has noticed that yet."""
        return bool(self._fields[HOLDER]) and not self._depth and self._lock is not None and not self._lock.is_taken()

    def changed(self) -> None:
        """Note that names have changed."""
        self._fields[CHANGES] += 1

    def exclude(self, part_file: Hashable) -> None:
        """Add to the part files that are charged. Raises TableBusy if there are too many uploads."""
        if not self._table.files.add(cast(FileKey, part_file)):
            raise TableBusy

    def include(self, part_file: Hashable) -> None:
        """Remove from the part files that are charged.

        As with amounts, the process that has the lock is waited for: the file is there, and must be counted.
        """
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                return self._table.files.discard(cast(FileKey, part_file))
            except TableBusy:
                if time.monotonic() > limit:
                    raise
