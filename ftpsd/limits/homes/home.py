"""The counts of homes in the shared table: SharedHomeCount and SharedHomeCounts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Final
from weakref import WeakValueDictionary

from ftpsd.limits.home_counts import Amount, Charge, QuotaLimits, check
from ftpsd.limits.homes.groups import PATIENCE, GroupSlots, SharedGroupCount
from ftpsd.limits.homes.layout import (
    AMOUNTS,
    CHARGED,
    COUNTED,
    DOUBTS,
    GROUP,
    GROUPS,
    HOME,
    PAID,
    add_to,
    amount_in,
    pack,
    unpack,
)
from ftpsd.limits.homes.names import SharedHomeNames
from ftpsd.limits.homes.visits import SharedHomeVisits
from ftpsd.limits.shared.slot import Slot
from ftpsd.limits.shared.table import SharedTable

#: How often a home is looked at, without its locks, before it counts as doubtful.
_LOOKS = 3

_NO_GROUPS: AbstractContextManager[Sequence[memoryview]] = nullcontext(())


class SharedHomeCount:
    """The count of a home: a `HomeCount`."""

    def __init__(self, table: SharedTable, slot: Slot, groups: GroupSlots, home: str) -> None:
        self._slot = slot
        self._groups = groups
        self._members = table.members
        #: See `Countable`.
        self.fields: Final = slot.ints
        self.lock: Final[AbstractContextManager[object]] = (
            Lock() if slot.place is None else table.places.range_lock(slot.place, AMOUNTS, PATIENCE)
        )
        #: See `HomeCount`.
        self.names: Final = SharedHomeNames(table, slot, home)
        self.visits: Final = SharedHomeVisits(table, slot)

    @property
    def amount(self) -> Amount:
        """What the home holds now, with what running uploads were charged. Does not block."""
        return amount_in(self.fields)

    @property
    def is_doubtful(self) -> bool:
        """Whether a process has ended that has changed names or was charged for uploads (see `layout`)."""
        if self.fields[DOUBTS]:
            return True
        return all(self.fields[PAID] != self._slot.total(CHARGED) or self.names.is_abandoned for _ in range(_LOOKS))

    def charge(self, amount: Amount, limits: QuotaLimits) -> None:
        """Charge a running upload. Raises Refusal (552), and adds nothing, if that would exceed a limit."""
        with self.lock, self._adding() as groups:
            self._charge(amount, limits, groups)

    def _adding(self) -> AbstractContextManager[Sequence[memoryview]]:
        return self._groups.adding(self.fields) if self.fields[GROUPS] else _NO_GROUPS

    def _charge(self, amount: Amount, limits: QuotaLimits, groups: Sequence[memoryview]) -> None:
        check(self.amount, amount, limits.home)
        for group in limits.groups:
            check(group.count.amount, amount, group.quota, group.name)
        packed = pack(amount)
        self.fields[PAID] += packed
        self._add(amount, groups)
        self._slot.add(CHARGED, packed)

    def _add(self, amount: Amount, groups: Sequence[memoryview]) -> None:
        for fields in (self.fields, *groups):
            add_to(fields, amount)

    def correct(self, difference: Amount, charges: Iterable[Charge]) -> None:
        """Add a measured difference, which no limit stops, and charges, in one step. Raises Refusal for a charge."""
        with self.lock, self._adding() as groups:
            self._add(difference, groups)
            for amount, limits in charges:
                self._charge(amount, limits, groups)

    def set(self, measured: Amount, when: float, changes: int) -> bool:
        """Replace what was measured (see `HomeCount`)."""
        with self.lock, self._adding() as groups:
            ended = self._members.unnoticed()  # the walk has measured their part files
            charged = enumerate(self._slot.numbers(CHARGED))
            paid = sum(number for process, number in charged if process not in ended)
            if self.names.changes != changes:  # also of processes that have ended, or were cleared, during the walk
                return False
            self._add(measured + unpack(paid) - self.amount, groups)
            self.fields[PAID], self.fields[DOUBTS] = paid, 0
            self._slot.floats[COUNTED] = when
            return True


class SharedHomeCounts:
    """The counts of all homes in a table that processes share: a `HomeLedger`."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table
        self._lock = Lock()
        self._group_slots = GroupSlots(table)
        #: One object for each, since it has the locks among the threads of this process.
        self._homes: WeakValueDictionary[str, SharedHomeCount] = WeakValueDictionary()
        self._groups: WeakValueDictionary[str, SharedGroupCount] = WeakValueDictionary()

    def knows_home(self, home: str) -> bool:
        """Return whether there is a count of a home in any process, or one from before."""
        return home in self._homes or self._table.has(HOME, home)

    def home(self, home: str) -> SharedHomeCount:
        """Return the count of a home, which is empty until the home is counted."""
        count = self._homes.get(home)
        if count is None:
            slot = self._table.slot(HOME, home, kept=True)  # may wait: not under a lock for which others wait
            with self._lock:
                count = self._homes.get(home)
                if count is None:
                    count = self._homes[home] = SharedHomeCount(self._table, slot, self._group_slots, home)
        return count

    def group(self, name: str) -> SharedGroupCount:
        """Return the count of a group; it has no homes at first."""
        count = self._groups.get(name)
        if count is None:
            slot = self._table.slot(GROUP, name, kept=True)
            with self._lock:
                count = self._groups.get(name)
                if count is None:
                    count = self._groups[name] = SharedGroupCount(
                        name, slot, self._group_slots, self.home, self.knows_home
                    )
        return count
