"""The sessions and transfers of users and groups in all processes: SharedUserCounts.

Each process counts in its own columns. A limit is checked under the locks of all slots that have one, so no session or
transfer is one too many, and none is refused because of another one that is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from contextlib import ExitStack
from typing import TypeVar
from weakref import WeakValueDictionary

from ftpsd.limits.shared.rates import SharedRateState
from ftpsd.limits.shared.slot import Slot
from ftpsd.limits.shared.table import SharedTable
from ftpsd.limits.token_bucket import RateLimit
from ftpsd.limits.user_limits import Share, Sharer
from ftpsd.protocol.interfaces import Direction
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import Now

T = TypeVar("T")

#: The slots that a process keeps after the last session.
RECENT = 256

#: The columns of a slot of a user, a group, a network, or the server.
SESSIONS, TRANSFERS = 0, 1


class SharedCountsByName(Mapping[str, int]):
    """The sums of one column by the names of a kind, as they are when somebody reads. Reading waits for nobody."""

    def __init__(self, table: SharedTable, kind: Sharer, column: int) -> None:
        self._table = table
        self._kind = kind
        self._column = column

    def _all(self) -> dict[str, int]:
        return dict(self._table.totals(self._kind, self._column))

    def __getitem__(self, name: str) -> int:
        total = self._table.total(self._kind, name, self._column)
        if not total:
            raise KeyError(name)
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> ItemsView[str, int]:
        """Return all names with their counts, read in one pass."""
        return self._all().items()

    def values(self) -> ValuesView[int]:
        """Return all counts, read in one pass."""
        return self._all().values()


class SharedUserCounts:
    """The counts of a daemon of several processes: see `user_limits.UserCounts`."""

    def __init__(self, table: SharedTable, clock: Now) -> None:
        """The clock must be the same in all processes."""
        self.clock = clock
        self.sessions = SharedCountsByName(table, "user", SESSIONS)
        self.transfers = SharedCountsByName(table, "user", TRANSFERS)
        self.group_sessions = SharedCountsByName(table, "group", SESSIONS)
        self.group_transfers = SharedCountsByName(table, "group", TRANSFERS)
        self._table = table
        #: The slots in which this process has counted something, so that they keep it.
        self._held: dict[tuple[Sharer, str], Slot] = {}
        #: Slots in which something was counted last: the next session of the same user needs no lock to find its slot.
        self._recent: deque[Slot] = deque(maxlen=RECENT)
        self._rate_limits: WeakValueDictionary[tuple[Sharer, str, Direction, int], RateLimit] = WeakValueDictionary()

    def add_session(self, shares: Sequence[Share]) -> None:
        """Count a session of a user whose password was right. Raises SessionEnd (421) for one too many."""
        self._add(shares, SESSIONS, [share.limits.sessions for share in shares], Share.one_session_too_many)

    def remove_session(self, shares: Sequence[Share]) -> None:
        """Count a session no longer."""
        self._remove(shares, SESSIONS)

    def add_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer that begins. Raises Refusal (450) if too many transfers run."""
        self._add(shares, TRANSFERS, [share.limits.transfers for share in shares], Share.one_transfer_too_many)

    def remove_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer no longer."""
        self._remove(shares, TRANSFERS)

    def rate_limit(self, share: Share, direction: Direction) -> list[RateLimit]:
        """Return the rate limit that all sessions of a share have together; an empty list if there is none."""
        rate = share.rate(direction)
        if rate is None:
            return []
        key = (share.kind, share.name, direction, int(rate))
        limit = self._rate_limits.get(key)
        if limit is None:
            # A rate that a reload has changed is another slot.
            slot = self._table.slot("rate", f"{share.kind} {direction} {int(rate)} {share.name}")
            limit = self._rate_limits[key] = RateLimit(rate, self.clock, SharedRateState(slot))
        return [limit]

    async def when_free(self, count: Callable[[], T]) -> T:
        """Call a function that counts something when no other process has a lock that it needs."""
        return await self._table.patience.retry(count)

    def _add(
        self,
        shares: Sequence[Share],
        column: int,
        limits: Sequence[int | None],
        refusal: Callable[[Share], Refusal],
    ) -> None:
        slots = [self._slot(share) for share in shares]
        limited = [each for each in zip(shares, slots, limits, strict=True) if each[2] is not None]
        with ExitStack() as locks:
            for _, slot, _ in sorted(limited, key=lambda each: (each[0].kind, each[0].name)):
                locks.enter_context(slot.lock())  # in the same order in all processes: nobody waits in a circle
            for share, slot, most in limited:
                if most is not None and slot.total(column) >= most:
                    raise refusal(share)
            for slot in slots:
                slot.add(column, 1)
        for share, slot in zip(shares, slots, strict=True):
            self._held[share.kind, share.name] = slot

    def _remove(self, shares: Sequence[Share], column: int) -> None:
        for share in shares:
            slot = self._slot(share)
            slot.add(column, -1)
            if not slot.own(SESSIONS) and not slot.own(TRANSFERS):
                self._recent.append(self._held.pop((share.kind, share.name)))

    def _slot(self, share: Share) -> Slot:
        return self._held.get((share.kind, share.name)) or self._table.slot(share.kind, share.name)
