"""How many sessions there are, in all and per address."""

from __future__ import annotations

from collections import Counter

from ftpsd.settings import Limits
from ftpsd.wire import Address


class SessionCounts:
    """Counts of sessions. The limits are given with each question: they change on reload."""

    def __init__(self) -> None:
        self.total = 0
        self._by_address: Counter[Address] = Counter()

    def refusal(self, limits: Limits, client: Address) -> str | None:
        """Why one more session of this client is too many; None if it is not."""
        if self.total >= limits.sessions:
            return "Too many sessions. Try again later."
        if self._by_address.get(client, 0) >= limits.sessions_per_address:
            return "Too many sessions from your address. Try again later."
        return None

    def enter(self, client: Address) -> None:
        """A session begins."""
        self.total += 1
        self._by_address[client] += 1

    def leave(self, client: Address) -> None:
        """A session ends."""
        self.total -= 1
        self._by_address[client] -= 1
        if not self._by_address[client]:
            del self._by_address[client]
