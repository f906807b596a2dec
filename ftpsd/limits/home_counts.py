"""How many bytes and files each home with a quota holds, and the homes of each group with a quota together.

`storage` measures homes and changes. Here are only the sums, and the decision whether they may become larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol
from weakref import WeakSet, WeakValueDictionary

from ftpsd.config.settings import QuotaSettings
from ftpsd.protocol.replies import Refusal, readable_size


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes, and the number of files and directories that hold them."""

    bytes: int = 0
    files: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.files + other.files)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.bytes - other.bytes, self.files - other.files)


class GroupCount(Protocol):
    """What the homes of the members of a group hold together: the sum of the counts of its homes.

    It changes in the same step as the count of the home, whoever changes that one.
    """

    @property
    def amount(self) -> Amount:
        """What the homes hold now. Does not block."""

    @property
    def homes(self) -> Set[str]:
        """The homes that are included."""

    def include(self, home: str) -> None:
        """Add what a home holds, now and in the future. May be called in any thread."""

    def exclude(self, home: str) -> None:
        """Include a home no longer. May be called in any thread."""


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """The quota of a group, and what its homes hold."""

    name: str
    count: GroupCount
    quota: QuotaSettings


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """The limits that a user must keep: that of the home, and those of the user's groups."""

    home: QuotaSettings = field(default_factory=QuotaSettings)
    groups: tuple[GroupLimit, ...] = ()


#: An amount to add, and the limits that it must keep.
Charge = tuple[Amount, QuotaLimits]


class HomeCount(Protocol):
    """What one home holds. All sessions that have the home share it.

    The methods are called in worker threads, and `charge` before each write of an upload. So they are not awaitable,
    and must only add numbers. A ledger in another process would lease space in advance.
    """

    @property
    def amount(self) -> Amount:
        """What the home holds now, with what running uploads were charged. Does not block."""

    def charge(self, amount: Amount, limits: QuotaLimits) -> None:
        """Add an amount. Raises Refusal (552), and adds nothing, if that would exceed a limit."""

    def correct(self, difference: Amount, charges: Iterable[Charge]) -> None:
        """Add a measured difference, which no limit stops, and charges, in one step. Raises Refusal for a charge."""

    def set(self, amount: Amount) -> None:
        """Replace the amount: the home was counted."""


class HomeLedger(Protocol):
    """The part of a ledger that counts homes. It outlives reloads. The methods may be called in any thread."""

    def home(self, home: str) -> HomeCount:
        """Return the count of a home; nothing is counted there at first."""

    def group(self, name: str) -> GroupCount:
        """Return the count of a group; it has no homes at first."""


class LocalHomeCount:
    """The count of a home in this process. Homes that groups may have in common have one lock."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or Lock()
        #: What the home holds.
        self.amount = Amount()
        #: The groups that include the home. Only they and `LocalGroupCount` change it.
        self.groups: WeakSet[LocalGroupCount] = WeakSet()

    def charge(self, amount: Amount, limits: QuotaLimits) -> None:
        """Add an amount. Raises Refusal (552), and adds nothing, if that would exceed a limit."""
        with self._lock:
            self._charge(amount, limits)

    def _charge(self, amount: Amount, limits: QuotaLimits) -> None:
        _check(self.amount, amount, limits.home)
        for group in limits.groups:
            _check(group.count.amount, amount, group.quota, group.name)
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

    def set(self, amount: Amount) -> None:
        """Replace the amount: the home was counted."""
        with self._lock:
            self._add(amount - self.amount)


class LocalGroupCount:
    """The count of a group in this process. `find` returns the count of a home."""

    def __init__(self, lock: Lock, find: Callable[[str], LocalHomeCount]) -> None:
        self._lock = lock
        self._find = find
        self._homes: dict[str, LocalHomeCount] = {}
        #: What the homes hold.
        self.amount = Amount()

    @property
    def homes(self) -> Set[str]:
        """The homes that are included."""
        return self._homes.keys()

    def include(self, home: str) -> None:
        """Add what a home holds, now and in the future."""
        count = self._find(home)
        with self._lock:
            if home not in self._homes:
                self._homes[home] = count
                count.groups.add(self)
                self.amount += count.amount

    def exclude(self, home: str) -> None:
        """Include a home no longer."""
        with self._lock:
            count = self._homes.pop(home, None)
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

    def home(self, home: str) -> LocalHomeCount:
        """Return the count of a home; nothing is counted there at first."""
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


def _check(used: Amount, more: Amount, quota: QuotaSettings, group: str = "") -> None:
    """Raise Refusal if an amount may not be added."""
    if quota.bytes is not None and more.bytes > 0 and used.bytes + more.bytes > quota.bytes:
        raise bytes_exceeded(used.bytes, quota.bytes, group)
    if quota.files is not None and more.files > 0 and used.files + more.files > quota.files:
        raise files_exceeded(used.files, quota.files, group)


def bytes_exceeded(used: int, limit: int, group: str = "") -> Refusal:
    """Return the refusal of a change that would exceed a limit of bytes: that of a group, if it has a name."""
    return Refusal(552, f"{_quota(group)} exceeded: {readable_size(max(0, used))} of {readable_size(limit)} used.")


def files_exceeded(used: int, limit: int, group: str = "") -> Refusal:
    """Return the refusal of a change that would exceed a limit of files."""
    return Refusal(552, f"{_quota(group)} exceeded: {max(0, used)} of {limit} files and directories used.")


def _quota(group: str) -> str:
    return f"Quota of the group {group}" if group else "Quota"
