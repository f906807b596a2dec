"""Send events and log lines to the supervisor, in order and in batches: Sender.

A batch is sent when the supervisor has answered the last one, so a slow supervisor is not flooded. What waits is
bounded: when the queue is full, new items are dropped and counted, and the supervisor logs their number.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred

from ftpsd.events.hub import CAPACITY, QueueState
from ftpsd.system.link import Link
from ftpsd.system.reactor import Clock

#: Seconds between two batches, unless many items wait. A batch costs 150 µs, however few items it has.
INTERVAL = 0.02

#: The most items of a batch: their listeners take less than 5 ms in the supervisor.
BATCH = 100


class Sender:
    """The items of one worker that wait for the supervisor. Items are JSON. For the reactor thread.

    idle     nothing waits
    sending  a batch is sent and not answered, or the next one is due within `INTERVAL`
    """

    def __init__(self, clock: Clock, link: Link) -> None:
        self._clock = clock
        self._link = link
        self._items: deque[object] = deque()
        self._sending = False
        #: Items that were dropped since the last batch, and before.
        self._dropping = self._dropped = 0

    def state(self) -> QueueState:
        """Return the state for metrics."""
        return QueueState(len(self._items), CAPACITY, self._dropping + self._dropped)

    def put(self, item: object) -> None:
        """Append an item, or drop it. It is sent in a later turn of the reactor."""
        if len(self._items) >= CAPACITY:
            self._dropping += 1
            return
        self._items.append(item)
        if not self._sending:
            self._sending = True
            self._clock.callLater(0, self._send)

    def flush(self) -> None:
        """Send all that waits now, so that the supervisor has it before whatever is sent next."""
        while self._items:
            self._link.tell("journal.batch", *self._next())

    async def close(self) -> None:
        """Send all that waits, and return when the supervisor has it. Raises LinkLost if it does not answer."""
        self.flush()
        await self._link.call("journal.batch", *self._next())

    def _next(self) -> tuple[list[object], int]:
        items = self._items
        batch = [items.popleft() for _ in range(min(BATCH, len(items)))]
        dropped, self._dropping = self._dropping, 0
        self._dropped += dropped
        return batch, dropped

    def _send(self) -> None:
        began = self._clock.seconds()
        answered: Deferred[object] = self._link.call("journal.batch", *self._next())
        # A batch that was not answered in time may have arrived: it is not sent again, so that nothing comes twice.
        answered.addBoth(lambda _: self._continue(began))

    def _continue(self, began: float) -> None:
        if len(self._items) >= BATCH:
            self._clock.callLater(0, self._send)
        else:
            self._clock.callLater(max(0.0, began + INTERVAL - self._clock.seconds()), self._next_or_idle)

    def _next_or_idle(self) -> None:
        if self._items or self._dropping:
            self._send()
        else:
            self._sending = False
