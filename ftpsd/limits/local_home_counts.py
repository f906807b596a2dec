"""The counts of all homes in this process: LocalHomeCounts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from threading import Lock
from weakref import WeakSet, WeakValueDictionary

from ftpsd.limits.home_counts import Amount, Charge, QuotaLimits, check
from ftpsd.system.jobs.job_lock import JobLock


class LocalHomeNames(JobLock):
    """The names in a home that only this process changes: a `HomeNames`."""

    def __init__(self) -> None:
        super().__init__()
        #: See `HomeNames`.
        self.changes = 0
        self.charged: set[Hashable] = set()
        self.exclude = self.charged.add
        self.include = self.charged.discard

    @property
    def are_charged(self) -> bool:
        """Whether part files of running uploads are charged."""
        return bool(self.charged)

    def changed(self) -> None:
        """Note that names have changed."""
        self.changes += 1


class LocalHomeVisits:
    """The sessions in a home, all of them in this process: a `HomeVisits`."""

    def __init__(self) -> None:
        #: See `HomeVisits`.
        self.counted: float | None = None
        self.sessions = 0
        self.progress = 0.0
        self._counting = Lock()

    def enter(self) -> None:
        """Note that a session has begun."""
        self.sessions += 1

    def leave(self) -> None:
        """Note that a session has ended."""
        self.sessions -= 1

    @property
    def is_being_counted(self) -> bool:
        """Whether somebody counts the home for the first time now."""
        return self._counting.locked()

    def begin_count(self) -> bool:
        """Begin to count the home. Return False if somebody else does that now."""
        return self._counting.acquire(blocking=False)

    def end_count(self) -> None:
        """End what `begin_count` has begun, in any thread."""
        self._counting.release()

    def forget(self) -> None:
        """Note that changes are not counted any more."""
        self.counted = None


class LocalHomeCount:
    """The count of a home in this process. Homes that groups may have in common have one lock."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or Lock()
        #: See `HomeCount`.
        self.names = LocalHomeNames()
        self.visits = LocalHomeVisits()
        #: What running uploads were charged.
        self._charged = Amount()
        #: What the home holds.
        self.amount = Amount()
        #: The groups that include the home. Only they and `LocalGroupCount` change it.
        self.groups: WeakSet[LocalGroupCount] = WeakSet()

    @property
    def is_doubtful(self) -> bool:
        """Whether the count may be wrong. Other threads do not die on their own."""
        return False

    def charge(self, amount: Amount, limits: QuotaLimits) -> None:
        """Charge a running upload. Raises Refusal (552), and adds nothing, if that would exceed a limit."""
        with self._lock:
            self._charge(amount, limits)

    def _charge(self, amount: Amount, limits: QuotaLimits) -> None:
        check(self.amount, amount, limits.home)
        for group in limits.groups:
            check(group.count.amount, amount, group.quota, group.name)
        self._charged += amount
        self._add(amount)

    def _add(self, amount: Amount) -> None:
        self.amount += amount
        for group in self.groups:
            group.amount += amount

    def correct(self, difference: Amount, charges: Iterable[Charge]) -> None:
        """Add a measured difference, which no limit stops, and charges, in one step. Raises Refusal for a charge."""
        with self._lock:
            self._add(difference)
            for amount, limits in charges:
                self._charge(amount, limits)

    def set(self, measured: Amount, when: float, changes: int) -> bool:
        """Replace what was measured (see `HomeCount`)."""
        if self.names.changes != changes:
            return False
        with self._lock:
            self._add(measured + self._charged - self.amount)
        self.visits.counted = when
        return True


class LocalGroupCount:
    """The count of a group in this process. `find` returns the count of a home."""

    def __init__(self, lock: Lock, find: Callable[[str], LocalHomeCount]) -> None:
        self._lock = lock
        self._find = find
        self._homes: dict[str, LocalHomeCount] = {}
        self._by_login: set[str] = set()
        #: What the homes hold.
        self.amount = Amount()
        #: See `GroupCount`.
        self.completed = 0

    def include(self, home: str, by_login: bool = False) -> None:
        """Add what a home holds, now and in the future."""
        count = self._find(home)
        with self._lock:
            if by_login:
                self._by_login.add(home)
            if home not in self._homes:
                self._homes[home] = count
                count.groups.add(self)
                self.amount += count.amount

    def exclude(self, home: str) -> None:
        """Include a home no longer, unless a login has included it."""
        with self._lock:
            count = None if home in self._by_login else self._homes.pop(home, None)
            if count is not None:
                count.groups.discard(self)
                self.amount -= count.amount


class LocalHomeCounts:
    """The counts of all homes in this process: a `HomeLedger`. Each exists as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = Lock()
        #: One lock for all counts, since groups may overlap. It is held for a few additions.
        self._adding = Lock()
        self._homes: WeakValueDictionary[str, LocalHomeCount] = WeakValueDictionary()
        self._groups: WeakValueDictionary[str, LocalGroupCount] = WeakValueDictionary()

    def knows_home(self, home: str) -> bool:
        """Return whether there is a count of a home."""
        return home in self._homes

    def home(self, home: str) -> LocalHomeCount:
        """Return the count of a home, which is empty until the home is counted."""
        with self._lock:
            count = self._homes.get(home)
            if count is None:
                count = self._homes[home] = LocalHomeCount(self._adding)
            return count

    def group(self, name: str) -> LocalGroupCount:
        """Return the count of a group; it has no homes at first."""
        with self._lock:
            count = self._groups.get(name)
            if count is None:
                count = self._groups[name] = LocalGroupCount(self._adding, self.home)
            return count
