"""The sessions and transfers of users and groups in this process: LocalUserCounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar, get_args
from weakref import WeakValueDictionary

from ftpsd.limits.token_bucket import RateLimit
from ftpsd.limits.user_limits import Share, Sharer
from ftpsd.protocol.interfaces import Direction
from ftpsd.system.reactor import Now

T = TypeVar("T")


class LocalUserCounts:
    """The counts of a daemon that is one process: see `user_limits.UserCounts`."""

    def __init__(self, clock: Now) -> None:
        self.clock = clock
        #: Sessions that have logged in, by who shares limits, and then by name.
        self._sessions: dict[Sharer, Counter[str]] = {kind: Counter() for kind in get_args(Sharer)}
        #: Transfers of files that run, the same way.
        self._transfers: dict[Sharer, Counter[str]] = {kind: Counter() for kind in get_args(Sharer)}
        #: By share, direction and rate. A rate that a reload has changed has a rate limit of its own.
        self._rate_limits: WeakValueDictionary[tuple[Sharer, str, Direction, int], RateLimit] = WeakValueDictionary()

    @property
    def sessions(self) -> Counter[str]:
        """Sessions that have logged in, by user."""
        return self._sessions["user"]

    @property
    def transfers(self) -> Counter[str]:
        """Transfers of files that run, by user."""
        return self._transfers["user"]

    @property
    def group_sessions(self) -> Counter[str]:
        """Sessions that have logged in, by group; only groups with limits of their own."""
        return self._sessions["group"]

    @property
    def group_transfers(self) -> Counter[str]:
        """Transfers of files that run, by group; only groups with limits of their own."""
        return self._transfers["group"]

    def add_session(self, shares: Sequence[Share]) -> None:
        """Count a session of a user whose password was right. Raises SessionEnd (421) for one too many."""
        for share in shares:
            most = share.limits.sessions
            if most is not None and self._sessions[share.kind][share.name] >= most:
                raise share.one_session_too_many()
        _count(self._sessions, shares, 1)

    def remove_session(self, shares: Sequence[Share]) -> None:
        """Count a session no longer."""
        _count(self._sessions, shares, -1)

    def add_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer that begins. Raises Refusal (450) if too many transfers run."""
        for share in shares:
            most = share.limits.transfers
            if most is not None and self._transfers[share.kind][share.name] >= most:
                raise share.one_transfer_too_many()
        _count(self._transfers, shares, 1)

    def remove_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer no longer."""
        _count(self._transfers, shares, -1)

    async def when_free(self, count: Callable[[], T]) -> T:
        """Call a function that counts something: no other process has a lock."""
        return count()

    def rate_limit(self, share: Share, direction: Direction) -> list[RateLimit]:
        """Return the rate limit of all sessions that have a share; empty if it has no rate."""
        rate = share.rate(direction)
        if rate is None:
            return []
        key = (share.kind, share.name, direction, int(rate))
        return [self._rate_limits.get(key) or self._rate_limits.setdefault(key, RateLimit(rate, self.clock))]


def _count(counters: dict[Sharer, Counter[str]], shares: Sequence[Share], difference: int) -> None:
    for share in shares:
        counter = counters[share.kind]
        count = counter.get(share.name, 0) + difference
        if count:
            counter[share.name] = count
        else:
            counter.pop(share.name, None)
