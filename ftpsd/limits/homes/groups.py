"""The sums of groups in the shared table, and which homes each includes: GroupSlots and SharedGroupCount.

A home names the groups that include it. So whoever changes what it holds, knows which sums change, too.

Locks are taken in this order: that of the home's amounts, then those of its groups by their places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import blake2b
from typing import Protocol

from twisted.logger import Logger

from ftpsd.limits.home_counts import Amount
from ftpsd.limits.homes.layout import (
    AMOUNTS,
    CLEARS,
    COMPLETED,
    DIGEST,
    FIRST_GROUP,
    GROUPS,
    HOME,
    MOST_GROUPS,
    add_to,
    amount_in,
)
from ftpsd.limits.shared.locks import RangeLock
from ftpsd.limits.shared.slot import Slot
from ftpsd.limits.shared.table import SharedTable

log = Logger(namespace="ftpsd")

#: More than the table has places.
_PLACES = 1 << 20

_ENTRIES = range(FIRST_GROUP, FIRST_GROUP + MOST_GROUPS)

#: Seconds to wait for the lock of amounts. The supervisor ends a worker that was stopped sooner.
PATIENCE = 60.0


class GroupSlots:
    """The slots of groups by their places, each with one lock in this process."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table
        self._locks: dict[int, RangeLock] = {}

    def lock(self, place: int) -> RangeLock:
        """Return the lock of the amounts of a place."""
        lock = self._locks.get(place)
        return lock or self._locks.setdefault(place, self._table.places.range_lock(place, AMOUNTS, PATIENCE))

    @contextmanager
    def adding(self, home: memoryview) -> Iterator[list[memoryview]]:
        """Lock the groups that include a home, whose lock the caller holds, and return their fields."""
        with ExitStack() as stack:
            groups = []
            for place in sorted(self._places(home)):
                stack.enter_context(self.lock(place))
                groups.append(self._fresh(place))
            yield groups

    def _places(self, home: memoryview) -> list[int]:
        return [abs(home[at]) % _PLACES for at in _ENTRIES if self._is_valid(home, at)]

    def _is_valid(self, home: memoryview, at: int) -> bool:
        """Return whether a field of a home names a group, and the group has its place still."""
        entry = abs(home[at])
        return bool(entry) and self._table.places.fields(entry % _PLACES)[DIGEST] == entry // _PLACES

    def _fresh(self, place: int) -> memoryview:
        """Return the fields of a group. After the end of a process its sum is computed again. The caller has its lock.

        Nobody changes a home of the group meanwhile, since that takes the lock.
        """
        fields, clears = self._table.places.fields(place), self._table.places.clears
        if fields[CLEARS] != clears:
            total = Amount()
            for home in self._table.places.fields_of_kind(HOME):
                if includes(home, reference(place, fields[DIGEST])):
                    total += amount_in(home)
            add_to(fields, total - amount_in(fields))
            fields[CLEARS] = clears
        return fields

    def include(self, home: memoryview, group: int, by_login: bool) -> None:
        """Include a home in a group. The caller holds the home's lock."""
        known = includes(home, group)
        at = known or next((at for at in _ENTRIES if not self._is_valid(home, at)), None)
        if at is None:
            log.error("a home is in more than {most} groups with quotas: the others do not count it", most=MOST_GROUPS)
            return
        with self.lock(group % _PLACES):
            fields = self._fresh(group % _PLACES)
            if not known:
                home[GROUPS] += not home[at]
                add_to(fields, amount_in(home))
            if not known or by_login:
                home[at] = -group if by_login else group

    def exclude(self, home: memoryview, group: int) -> None:
        """Include a home no longer, unless a login has included it. The caller holds the home's lock."""
        at = includes(home, group)
        if at is not None and home[at] > 0:
            with self.lock(group % _PLACES):
                fields = self._fresh(group % _PLACES)
                home[at] = 0
                home[GROUPS] -= 1
                add_to(fields, Amount() - amount_in(home))


def reference(place: int, digest: int) -> int:
    """Return what names a group in the slot of a home: its place, which may become that of another, and its digest."""
    return digest * _PLACES + place


def includes(home: memoryview, group: int) -> int | None:
    """Return which field of a home names a group, or None."""
    return next((at for at in _ENTRIES if abs(home[at]) == group), None)


class Countable(Protocol):
    """The fields of a home, and its lock."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """The lock of what it holds."""

    @property
    def fields(self) -> memoryview:
        """The fields of its slot."""


class SharedGroupCount:
    """The count of a group: a `GroupCount`. `find` returns that of a home, and `knows` whether there is one."""

    def __init__(
        self,
        name: str,
        slot: Slot,
        groups: GroupSlots,
        find: Callable[[str], Countable],
        knows: Callable[[str], bool],
    ) -> None:
        self._slot = slot
        self._groups = groups
        self._find = find
        self._knows = knows
        digest = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=5).digest(), "big") + 1
        #: See `reference`; None if this process does not share the slot.
        self._reference = None if slot.place is None else reference(slot.place, digest)
        slot.ints[DIGEST] = digest

    @property
    def amount(self) -> Amount:
        """What the homes hold now. Does not block."""
        return amount_in(self._slot.ints)

    @property
    def completed(self) -> int:
        """See `GroupCount`."""
        digest: int = self._slot.ints[COMPLETED]
        return digest

    @completed.setter
    def completed(self, digest: int) -> None:
        self._slot.ints[COMPLETED] = digest

    def include(self, home: str, by_login: bool = False) -> None:
        """Add what a home holds, now and in the future."""
        count = self._find(home)
        with count.lock:
            if self._reference is not None:
                self._groups.include(count.fields, self._reference, by_login)

    def exclude(self, home: str) -> None:
        """Include a home no longer, unless a login has included it."""
        if not self._knows(home):
            return
        count = self._find(home)
        with count.lock:
            if self._reference is not None:
                self._groups.exclude(count.fields, self._reference)
