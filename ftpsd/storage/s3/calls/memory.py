"""The memory for the parts of files that are on their way: `Memory`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from threading import Condition
from time import monotonic

#: The fewest bytes that a transfer takes at a time: as many as one write has at most.
STEP = 512 * 1024

#: Seconds without bytes after which a part loses its right to be completed in any case.
_SILENT = 10.0


class Memory:
    """Counts the bytes that all transfers of a store hold.

    No user may hold more than is left for others. So one user alone gets half, several users get equal parts, and a new
    one finds some: slow clients do not stop others. `FairQueue` has the same rule for threads.

    Many uploads that hold some of a part each could wait for each other. So one part at a time may be completed beyond
    all this, until it is sent, or until its client has sent nothing for a while.

    The methods may be called in any thread, and do not block unless they say so.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._freed = Condition()
        self._held: Counter[str] = Counter()
        self.held = 0
        #: The part that may be completed in any case, and when it took bytes last.
        self._beyond: Hashable | None = None
        self._taken = 0.0

    def take(self, owner: str, size: int, force: bool = False, part: Hashable | None = None) -> bool:
        """Take bytes for a user. Return whether there were enough; with `force` there always are.

        `part` is what they are for, if it is given to `give` in the end.
        """
        with self._freed:
            if not force and not self._permits(owner, size, part):
                return False
            self._held[owner] += size
            self.held += size
            return True

    def _permits(self, owner: str, size: int, part: Hashable | None) -> bool:
        if self._held[owner] + size <= self.limit - self.held - size:
            return True
        if part is None:
            return False
        now = monotonic()
        if self._beyond is None or now - self._taken > _SILENT:
            self._beyond = part
        if self._beyond is part:
            self._taken = now
        return self._beyond is part

    def give(self, owner: str, size: int, part: Hashable | None = None) -> None:
        """Give bytes back, and all rights of a part."""
        with self._freed:
            if part is not None and self._beyond is part:
                self._beyond = None
            self.held -= size
            self._held[owner] -= size
            if not self._held[owner]:
                del self._held[owner]
            self._freed.notify_all()

    def wait(self, owner: str, size: int, seconds: float, part: Hashable | None = None) -> bool:
        """Take bytes when there are enough. Blocks for up to so many seconds; return whether they were taken."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._permits(owner, size, part), seconds):
                return False
            self._held[owner] += size
            self.held += size
            return True
