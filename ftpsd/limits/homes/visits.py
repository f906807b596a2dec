"""The sessions of all processes in a home, and who counts it: SharedHomeVisits."""

from __future__ import annotations

from threading import Lock

from ftpsd.limits.homes.layout import COUNTED, COUNTING, PROGRESS, SESSIONS
from ftpsd.limits.shared.slot import Slot
from ftpsd.limits.shared.table import SharedTable


class SharedHomeVisits:
    """A `HomeVisits`. `enter` and `leave` are for the reactor thread."""

    def __init__(self, table: SharedTable, slot: Slot) -> None:
        self._slot = slot
        self._threads = Lock()
        self._lock = None if slot.place is None else table.places.byte_lock(slot.place, COUNTING)

    @property
    def counted(self) -> float | None:
        """When the home was counted, in seconds of the clock; None before the first time."""
        return self._slot.floats[COUNTED] or None

    @property
    def progress(self) -> float:
        """When the walk that counts the home took its last step, in seconds of the clock."""
        return self._slot.floats[PROGRESS]

    @progress.setter
    def progress(self, now: float) -> None:
        self._slot.floats[PROGRESS] = now

    @property
    def sessions(self) -> int:
        """The sessions in the home."""
        return self._slot.total(SESSIONS)

    def enter(self) -> None:
        """Note that a session has begun."""
        self._slot.add(SESSIONS, 1)

    def leave(self) -> None:
        """Note that a session has ended."""
        self._slot.add(SESSIONS, -1)

    @property
    def is_being_counted(self) -> bool:
        """Whether somebody counts the home now."""
        return self._threads.locked() or (self._lock is not None and self._lock.is_taken())

    def begin_count(self) -> bool:
        """Begin to count the home. Return False if somebody else does that now."""
        if not self._threads.acquire(blocking=False):
            return False
        if self._lock is None or self._lock.try_acquire():
            return True
        self._threads.release()
        return False

    def end_count(self) -> None:
        """End what `begin_count` has begun, in any thread. The kernel does if this process is killed."""
        if self._lock is not None:
            self._lock.release()
        self._threads.release()

    def forget(self) -> None:
        """Note that changes are not counted any more."""
        self._slot.floats[COUNTED] = 0.0
