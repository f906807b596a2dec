"""Whose turn it is to change the names in a home that several processes change: Turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ftpsd.limits.homes.layout import WANTED
from ftpsd.limits.shared.patience import TableBusy
from ftpsd.limits.shared.slot import Slot

#: The columns of the slot with the turns of a home: since when a process has waited, 0 if it does not, and when it has
#: looked for its turn. Both in milliseconds.
_WAITS, _LOOKED = 0, 1

#: The milliseconds for which a process may change names while others wait, one change after the other: to pass the lock
#: on takes some milliseconds.
_TURN = 20

#: The milliseconds after which one that has not looked for its turn does not wait any more: it was stopped, or killed.
_FORGOTTEN = 500


class Turns:
    """Lets the processes that wait change names in the order in which they have come.

    One that finds the lock taken notes since when it waits. One that has had the lock takes it no more after its turn,
    until those that have waited for longer have had theirs. As long as the field WANTED of the home is 0, nobody waits,
    and the caller need not ask. The caller has the lock among the threads of this process.
    """

    def __init__(self, fields: memoryview, find: Callable[[], Slot]) -> None:
        """`fields` are those of the home. `find` returns the slot with the turns. It may raise TableBusy."""
        self._fields: Final = fields
        self._find = find
        self._slot: Slot | None = None
        #: Whether this process waits.
        self.waits = False
        #: When the turn of this process ends if others wait: it begins when this process gets the lock after it has
        #: waited, or else when it first finds that others wait; 0 before that.
        self._ends = 0

    def is_anothers(self) -> bool:
        """Return whether another process goes first."""
        now, wanted = _now(), self._fields[WANTED]
        if now - wanted > _FORGOTTEN:
            self._fields[WANTED] = 0
        if not self._others_wait(now):
            return False
        if self.waits:
            return True
        self._ends = self._ends or now + _TURN
        return now >= self._ends

    def _others_wait(self, now: int) -> bool:
        """Return whether other processes have waited for longer than this one."""
        slot = self._known()
        if slot is None:
            return False
        since = slot.own(_WAITS) or now
        waiting = zip(slot.numbers(_WAITS), slot.numbers(_LOOKED), strict=True)
        return any(0 < each < since and now - looked <= _FORGOTTEN for each, looked in waiting)

    def _known(self) -> Slot | None:
        if self._slot is None:
            try:
                self._slot = self._find()
            except TableBusy:
                return None
        return self._slot

    def wait(self) -> None:
        """Note that this process waits, from now on or still."""
        slot = self._known()
        if slot is not None:
            now = _now()
            if not self.waits:
                self.waits = True
                slot.add(_WAITS, now - slot.own(_WAITS))
            slot.add(_LOOKED, now - slot.own(_LOOKED))
            self._fields[WANTED] = now

    def begin(self) -> None:
        """Note that this process has waited, and has the lock."""
        if self._slot is not None:
            self._slot.add(_WAITS, -self._slot.own(_WAITS))
        self.waits = False
        self._ends = _now() + _TURN


def _now() -> int:
    return int(1000 * time.monotonic())
