"""How many bytes and files each home with a quota holds: the numbers that all sessions in a home share.

`storage` measures homes and changes. Here is only the sum, and the decision whether it may become larger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Protocol
from weakref import WeakValueDictionary

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


#: An amount to add, and the limits that it must keep.
Charge = tuple[Amount, QuotaSettings]


class HomeCount(Protocol):
    """What one home holds. All sessions that have the home share it.

    The methods are called in worker threads, and `charge` before each write of an upload. So they are not awaitable,
    and must only add numbers. A ledger in another process would lease space in advance.
    """

    @property
    def amount(self) -> Amount:
        """What the home holds now, with what running uploads were charged. Does not block."""

    def charge(self, amount: Amount, limit: QuotaSettings) -> None:
        """Add an amount. Raises Refusal (552), and adds nothing, if that would exceed the limit."""

    def correct(self, difference: Amount, charges: Iterable[Charge]) -> None:
        """Add a measured difference, which no limit stops, and charges, in one step. Raises Refusal for a charge."""

    def set(self, amount: Amount) -> None:
        """Replace the amount: the home was counted."""


class HomeLedger(Protocol):
    """The part of a ledger that counts homes. It outlives reloads."""

    def home(self, home: str) -> HomeCount:
        """Return the count of a home; nothing is counted there at first. May be called in any thread."""


class LocalHomeCount:
    """The count of a home in this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        #: What the home holds.
        self.amount = Amount()

    def charge(self, amount: Amount, limit: QuotaSettings) -> None:
        """Add an amount. Raises Refusal (552), and adds nothing, if that would exceed the limit."""
        with self._lock:
            self._charge(amount, limit)

    def _charge(self, amount: Amount, limit: QuotaSettings) -> None:
        total = self.amount + amount
        if limit.bytes is not None and amount.bytes > 0 and total.bytes > limit.bytes:
            raise bytes_exceeded(self.amount.bytes, limit.bytes)
        if limit.files is not None and amount.files > 0 and total.files > limit.files:
            raise files_exceeded(self.amount.files, limit.files)
        self.amount = total

    def correct(self, difference: Amount, charges: Iterable[Charge]) -> None:
        """Add a measured difference, which no limit stops, and charges, in one step. Raises Refusal for a charge."""
        with self._lock:
            self.amount += difference
            for amount, limit in charges:
                self._charge(amount, limit)

    def set(self, amount: Amount) -> None:
        """Replace the amount: the home was counted."""
        with self._lock:
            self.amount = amount


class LocalHomeCounts:
    """The counts of all homes in this process: a `HomeLedger`. Each exists as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: WeakValueDictionary[str, LocalHomeCount] = WeakValueDictionary()

    def home(self, home: str) -> LocalHomeCount:
        """Return the count of a home; nothing is counted there at first."""
        with self._lock:
            count = self._counts.get(home)
            if count is None:
                count = self._counts[home] = LocalHomeCount()
            return count


def bytes_exceeded(used: int, limit: int) -> Refusal:
    """Return the refusal of a change that would exceed a limit of bytes."""
    return Refusal(552, f"Quota exceeded: {readable_size(max(0, used))} of {readable_size(limit)} used.")


def files_exceeded(used: int, limit: int) -> Refusal:
    """Return the refusal of a change that would exceed a limit of files."""
    return Refusal(552, f"Quota exceeded: {max(0, used)} of {limit} files and directories used.")
