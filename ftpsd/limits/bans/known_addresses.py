"""From where users have logged in of late. All times are those of a clock that no one sets.

It is bounded, for each user and in all, and no user costs another what is known of him: who has too many addresses
loses his own oldest, and when all is full it is one of the user who has the most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

DAY = 86_400

#: Seconds for which a login makes an address known as the user's: longer than a holiday.
KNOWN = 30 * DAY

#: How many addresses are remembered of a user, and of all together.
EACH, ALL = 50, 10_000


class Known:
    """Users and their addresses, each with the time of a login; who has logged in last stands last."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str, float]] = {}
        self._count = 0

    def saw(self, user: str, address: str, now: float) -> bool:
        """Somebody has logged in; whether that has changed what is known. Kept to the day: busy users cost nothing."""
        before = self._pop(user, address)
        changed = now - before >= DAY
        self._push(user, address, now if changed else before)
        return changed

    def add(self, user: str, address: str, when: float) -> None:
        """What is known from elsewhere: the later time counts."""
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

    def crowded_out(self) -> Iterator[tuple[str, str]]:
        """Forgets what is too much since the last login; whose address it was."""
        last = next(reversed(self._users))
        while len(self._users[last]) > EACH:
            yield self._forget_of(last)
        while self._count > ALL:
            yield self._forget_of(max(self._users, key=lambda user: len(self._users[user])))

    def _forget_of(self, user: str) -> tuple[str, str]:
        addresses = self._users[user]
        address = next(iter(addresses))
        self._pop(user, address)
        if not addresses:
            del self._users[user]
        return user, address

    def has(self, user: str, address: str, now: float) -> bool:
        """Whether this user has logged in from there of late."""
        return now - self._users.get(user, {}).get(address, -math.inf) < KNOWN

    def later(self, seconds: float, now: float) -> None:
        """All logins were so much later than was thought, but not later than now."""
        for addresses in self._users.values():
            for address, when in addresses.items():
                addresses[address] = max(when, min(when + seconds, now))

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        return ((user, address, when) for user, each in self._users.items() for address, when in each.items())

    def __len__(self) -> int:
        return self._count
