"""How many bytes and files each home with a quota holds, and the homes of each group with a quota together.

`storage` measures homes and changes. Here are only the sums, and the decision whether they may become larger.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

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

    #: A digest of the homes of all members when all of them were counted and included; 0 before.
    completed: int

    def include(self, home: str, by_login: bool = False) -> None:
        """Add what a home holds, now and in the future. May be called in any thread."""

    def exclude(self, home: str) -> None:
        """Include a home no longer, unless a login has included it. May be called in any thread."""


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


class HomeNames(Protocol):
    """The names in a home: a lock that is held while they change, and the part files that are charged.

    All methods but `changes` and `acquire` are for the thread that holds the lock, which is a `JobLock`.
    """

    @property
    def changes(self) -> int:
        """The number of changes so far."""

    @property
    def charged(self) -> Container[Hashable]:
        """The part files of running uploads, which are charged for them until they end."""

    @property
    def are_charged(self) -> bool:
        """Whether there are such part files in this home."""

    def acquire(self, wait: bool = False) -> None:
        """Take the lock. Raises Busy in a worker thread if somebody else has it, unless `wait` is true."""

    def release(self) -> None:
        """Give the lock back."""

    def changed(self) -> None:
        """Note that names have changed."""

    def exclude(self, part_file: Hashable) -> None:
        """Add to the part files that are charged."""

    def include(self, part_file: Hashable) -> None:
        """Remove from the part files that are charged."""


class HomeVisits(Protocol):
    """The sessions in a home, and when it was counted. The methods may be called in any thread, and do not block."""

    #: When the walk that counts the home took its last step, in seconds of the clock.
    progress: float

    @property
    def counted(self) -> float | None:
        """When it was counted, in seconds of the clock; None before the first time."""

    @property
    def sessions(self) -> int:
        """The sessions in the home."""

    def enter(self) -> None:
        """Note that a session has begun."""

    def leave(self) -> None:
        """Note that a session has ended."""

    @property
    def is_being_counted(self) -> bool:
        """Whether somebody counts the home for the first time now."""

    def begin_count(self) -> bool:
        """Begin to count the home for the first time. Return False if somebody else does that now."""

    def end_count(self) -> None:
        """End what `begin_count` has begun."""

    def forget(self) -> None:
        """Note that changes are not counted any more: if they ever are again, the home must be counted first."""


class HomeCount(Protocol):
    """What one home holds. All sessions that have the home share it.

    The methods are called in worker threads, and `charge` before each write of an upload. So they are not awaitable,
    and must only add numbers.
    """

    @property
    def names(self) -> HomeNames:
        """The names in the home."""

    @property
    def visits(self) -> HomeVisits:
        """The sessions in the home, and when it was counted."""

    @property
    def amount(self) -> Amount:
        """What the home holds now, with what running uploads were charged. Does not block."""

    @property
    def is_doubtful(self) -> bool:
        """Whether the count may be wrong, since a process was killed that has changed the home or uploaded there."""

    def charge(self, amount: Amount, limits: QuotaLimits) -> None:
        """Charge a running upload. Raises Refusal (552), and adds nothing, if that would exceed a limit."""

    def correct(self, difference: Amount, charges: Iterable[Charge]) -> None:
        """Add a measured difference, which no limit stops, and charges, in one step. Raises Refusal for a charge."""

    def set(self, measured: Amount, when: float, changes: int) -> bool:
        """Replace what was measured: a walk that began at this time has found this, without what is charged.

        Return False, and replace nothing, if names have changed since there were so many `changes`. The caller holds
        the lock of the names.
        """


class HomeLedger(Protocol):
    """The part of a ledger that counts homes. It outlives reloads. The methods may be called in any thread."""

    def knows_home(self, home: str) -> bool:
        """Return whether there is a count of a home. Waits for no lock."""

    def home(self, home: str) -> HomeCount:
        """Return the count of a home, which is empty until the home is counted."""

    def group(self, name: str) -> GroupCount:
        """Return the count of a group; it has no homes at first."""


def check(used: Amount, more: Amount, quota: QuotaSettings, group: str = "") -> None:
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
