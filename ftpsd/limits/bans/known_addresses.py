"""The addresses from which users have recently logged in: KnownAddresses.

All times are those of a clock that no one sets. The table is bounded, for each user and in all, and no user can push
out the addresses of another: a user with too many addresses loses the oldest ones, and when the whole table is full the
user with the most addresses loses one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

DAY = 86_400

#: Seconds for which an address stays known after a login: longer than a holiday.
KNOWN = 30 * DAY

#: The number of addresses that are remembered, of each user and of all users.
MAX_PER_USER, MAX_TOTAL = 50, 10_000


class KnownAddresses:
    """Users and their addresses, each with the time of a login. The user who logged in last stands last."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str, float]] = {}
        self._count = 0

    def record(self, user: str, address: str, now: float) -> bool:
        """Record a login. Return whether the table has changed: once a day, so that frequent logins cost nothing."""
        before = self._pop(user, address)
        changed = now - before >= DAY
        self._push(user, address, now if changed else before)
        return changed

    def merge(self, user: str, address: str, when: float) -> None:
        """Add an address that was stored. If it is here already, the later time counts."""
        self._push(user, address, max(when, self._pop(user, address)))

    def _pop(self, user: str, address: str) -> float:
        before = self._users.get(user, {}).pop(address, None)
        self._count -= before is not None
        return -math.inf if before is None else before

    def _push(self, user: str, address: str, when: float) -> None:
        addresses = self._users.pop(user, {})
        addresses[address] = when
        self._users[user] = addresses
        self._count += 1

    def make_room(self) -> Iterator[tuple[str, str]]:
        """Drop addresses until the table is within its bounds. Yield the user and address of each."""
        last = next(reversed(self._users))
        while len(self._users[last]) > MAX_PER_USER:
            yield self._drop_oldest(last)
        while self._count > MAX_TOTAL:
            yield self._drop_oldest(max(self._users, key=lambda user: len(self._users[user])))

    def _drop_oldest(self, user: str) -> tuple[str, str]:
        addresses = self._users[user]
        address = next(iter(addresses))
        self._pop(user, address)
        if not addresses:
            del self._users[user]
        return user, address

    def has(self, user: str, address: str, now: float) -> bool:
        """Return whether this user has recently logged in from there."""
        return now - self._users.get(user, {}).get(address, -math.inf) < KNOWN

    def shift(self, seconds: float, now: float) -> None:
        """Correct the times: all logins were so many seconds later than was believed, but not later than now."""
        for addresses in self._users.values():
            for address, when in addresses.items():
                addresses[address] = max(when, min(when + seconds, now))

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        return ((user, address, when) for user, each in self._users.items() for address, when in each.items())

    def __len__(self) -> int:
        return self._count
