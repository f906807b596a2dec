"""Who waits for one of a few places: each lane gets one in turn, however many wait in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from twisted.internet.defer import Deferred, succeed


class Lanes:
    """So many places. Everything is for the reactor thread."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[Hashable, deque[Deferred[None]]] = {}
        self._calling = False

    def enter(self, lane: Hashable) -> Deferred[None]:
        """A place, at once or when those of other lanes, and those who came to this one before, have had theirs."""
        if self._free and not self._waiting:
            self._free -= 1
            return succeed(None)
        place: Deferred[None] = Deferred()
        self._waiting.setdefault(lane, deque()).append(place)
        return place

    def leave(self) -> None:
        """Gives a place back: the next one gets it. Who leaves it at once, when called, does not call in turn."""
        self._free += 1
        if self._calling:
            return
        self._calling = True
        try:
            while self._free and self._waiting:
                self._free -= 1
                self._next().callback(None)
        finally:
            self._calling = False

    def _next(self) -> Deferred[None]:
        lane = next(iter(self._waiting))
        queue = self._waiting.pop(lane)
        first = queue.popleft()
        if queue:
            self._waiting[lane] = queue  # behind all others
        return first
