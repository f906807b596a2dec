"""The memory for the parts of files that are on their way: `Memory`."""

from __future__ import annotations

from collections import Counter
from threading import Condition

#: The fewest bytes that a transfer takes at a time: as many as one write has at most.
STEP = 512 * 1024


class Memory:
    """Counts the bytes that all transfers of a store hold.

    No user may hold more than is left for others. So one user alone gets half, several users get equal parts, and a new
    one finds some: slow clients do not stop others. `FairQueue` has the same rule for threads.

    The methods may be called in any thread, and do not block unless they say so.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._freed = Condition()
        self._held: Counter[str] = Counter()
        self.held = 0

    def take(self, owner: str, size: int, force: bool = False) -> bool:
        """Take bytes for a user. Return whether there were enough; with `force` there always are."""
        with self._freed:
            if not force and not self._permits(owner, size):
                return False
            self._held[owner] += size
            self.held += size
            return True

    def _permits(self, owner: str, size: int) -> bool:
        return self._held[owner] + size <= self.limit - self.held - size

    def give(self, owner: str, size: int) -> None:
        """Give bytes back."""
        with self._freed:
            self.held -= size
            self._held[owner] -= size
            if not self._held[owner]:
                del self._held[owner]
            self._freed.notify_all()

    def wait(self, owner: str, size: int, seconds: float) -> bool:
        """Take bytes when there are enough. Blocks for up to so many seconds; return whether they were taken."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._permits(owner, size), seconds):
                return False
            self._held[owner] += size
            self.held += size
            return True
