"""Send events and log lines to the supervisor, in order and in batches: Sender.

A batch is sent when the supervisor has answered the last one, so a slow supervisor is not flooded. What waits is
bounded: when the queue is full, new items are dropped and counted, and the supervisor logs their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.events.hub import CAPACITY, QueueState
from ftpsd.system.link import Link, LinkLost
from ftpsd.system.reactor import Clock, DelayedCall

#: Seconds for which items are collected, unless there are many. A batch costs 100 µs, however few items it has.
INTERVAL = 0.05

#: The most items of a batch: their listeners take less than 5 ms in the supervisor.
BATCH = 100


class Sender:
    """The items of one worker that wait for the supervisor. Items are JSON. For the reactor thread.

    idle        nothing waits
    collecting  `_next` is a call in a moment: it sends what waits then
    sending     a batch is not answered yet; items that come now wait for the next one
    """

    def __init__(self, clock: Clock, link: Link) -> None:
        #: Is called before each batch: what it tells the supervisor costs no further wake-up.
        self.before_batch: Callable[[], object] = lambda: None
        self._clock = clock
        self._link = link
        self._items: deque[object] = deque()
        self._next: DelayedCall | None = None
        self._sending = False
        #: How many of the first items were sent to a supervisor that has gone without an answer.
        self._returned = 0
        #: Items that were dropped since the last batch, and before.
        self._dropping = self._dropped = 0

    def state(self) -> QueueState:
        """Return the state for metrics."""
        return QueueState(len(self._items), CAPACITY, self._dropping + self._dropped)

    def put(self, item: object) -> None:
        """Append an item, or drop it. It is sent in a later turn of the reactor."""
        items = self._items
        if len(items) >= CAPACITY:
            self._dropping += 1
            return
        items.append(item)
        if self._sending:
            return
        if self._next is None:
            self._next = self._clock.callLater(INTERVAL, self._send)
        elif len(items) == BATCH:
            self._next.cancel()
            self._next = self._clock.callLater(0, self._send)

    def flush(self) -> None:
        """Send all that waits now, so that the supervisor has it before whatever is sent next."""
        while self._items and self._link.transport is not None:
            self._link.tell("journal.batch", *self._take())

    async def close(self) -> None:
        """Send all that waits, and return when the supervisor has it. Raises LinkLost if it does not answer."""
        await self._call()
        while self._items:
            await self._call()

    def _take(self) -> tuple[list[object], int]:
        items = self._items
        self._returned = 0
        batch = [items.popleft() for _ in range(min(BATCH, len(items)))]
        dropped, self._dropping = self._dropping, 0
        self._dropped += dropped
        return batch, dropped

    def _send(self) -> None:
        self._next = None
        if not (self._items or self._dropping):
            return  # they were flushed
        if self._link.transport is None:  # the supervisor has gone, and another one may take its place
            self._next = self._clock.callLater(INTERVAL, self._send)
            return
        self._sending = True
        self._call().addBoth(self._answered)

    def _call(self) -> Deferred[object]:
        self.before_batch()
        batch, dropped = self._take()
        answer: Deferred[object] = self._link.call("journal.batch", batch, dropped)
        return answer.addErrback(self._not_answered, batch, dropped)

    def _not_answered(self, failure: Failure, batch: list[object], dropped: int) -> Failure:
        """Keep a batch for the next supervisor if this one has gone: it answers each batch that it gets.

        One that was not answered in time may have arrived. It is not sent again, so that nothing comes twice.
        """
        if isinstance(failure.value, LinkLost) and failure.value.closed:
            for item in batch:
                self._items.insert(self._returned, item)
                self._returned += 1
            self._dropped -= dropped
            self._dropping += dropped
        return failure

    def _answered(self, _: object) -> None:
        self._sending = False
        if self._items or self._dropping:
            delay = 0 if len(self._items) >= BATCH else INTERVAL
            self._next = self._clock.callLater(delay, self._send)
