"""The hub: every event of the daemon is published here, and listeners subscribe to the kinds that they want.

No listener can break or delay a session. One that raises is logged and stays subscribed. One that takes its time gets
an `EventQueue`, which is bounded and counts what it drops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from attrs import frozen
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.events.durable_ids import DurableIds
from ftpsd.events.tally import Tally
from ftpsd.events.types import Event
from ftpsd.system.reactor import Clock, Now

log = Logger(namespace="ftpsd")

E = TypeVar("E", bound=Event)

#: Events that a queue holds, and that its consumer gets at once, if the caller says nothing else.
CAPACITY = 10_000
BATCH = 100

#: Gets events in the order in which they were published. If it returns a Deferred, the next ones come
#: when that has fired.
Consumer = Callable[[Sequence[Event]], object]


class Publisher(Protocol):
    """What those who publish events know of the hub."""

    def publish(self, event: Event) -> None:
        """Give an event to each listener of its kind. Never raises. For the reactor thread."""

    @property
    def wanted(self) -> Collection[type[Event]]:
        """The kinds of events that somebody listens to. An event of another kind need not be made."""


class Hub:
    """The only hub of a daemon. Everything is for the reactor thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listeners: dict[type[Event], tuple[tuple[str, Callable[..., object]], ...]] = {}
        self._failed: set[str] = set()
        #: The kinds of events that somebody listens to.
        self.wanted: Collection[type[Event]] = self._listeners.keys()
        #: The time in seconds since some moment in the past.
        self.now: Now = clock.seconds
        #: Counts what happens too often for an event each time; None while nobody counts.
        self.tally: Tally | None = None
        #: The ids of changes that are in the journal, and whose events are not published yet.
        self.durable_ids = DurableIds()
        #: The queues in which events wait for a listener, by its name; each returns its state.
        self.queues: dict[str, Callable[[], QueueState]] = {}
        self._watchers: list[Callable[[], object]] = []

    def watch(self, changed: Callable[[], object]) -> None:
        """Call a function each time `wanted` has changed, or whether somebody counts."""
        self._watchers.append(changed)

    def count(self, tally: Tally | None) -> None:
        """Count in a tally from now on, or no longer."""
        self.tally = tally
        self._changed()

    def subscribe(self, name: str, kind: type[E], listener: Callable[[E], object]) -> Callable[[], None]:
        """Call a listener with each event of exactly that kind. Return the function that ends this.

        It is called while the session waits, so it must do no more than count or append; see `subscribe_queue`.
        `name` names the listener in the log.
        """
        entry = (name, listener)
        before = self._listeners.get(kind, ())
        self._listeners[kind] = (*before, entry)
        if not before:
            self._changed()

        def unsubscribe() -> None:
            left = tuple(each for each in self._listeners.get(kind, ()) if each is not entry)
            if left:
                self._listeners[kind] = left
            else:
                self._listeners.pop(kind, None)
                self._changed()

        return unsubscribe

    def subscribe_queue(
        self, name: str, kinds: Iterable[type[Event]], consumer: Consumer, capacity: int = CAPACITY
    ) -> EventQueue:
        """Give events of those kinds to a consumer that may take its time, by way of a bounded queue."""
        queue = EventQueue(self._clock, name, consumer, capacity)
        self.queues[name] = queue.state
        queue.subscriptions = [self.subscribe(name, kind, queue.put) for kind in kinds]
        return queue

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()

    def publish(self, event: Event) -> None:
        """Give an event to each listener of its kind. Never raises."""
        for name, listener in self._listeners.get(type(event), ()):
            try:
                listener(event)
            except Exception:
                self._log_failure(name)

    def _log_failure(self, name: str) -> None:
        """Log the first exception of a listener only: it may fail at each event."""
        if name not in self._failed:
            self._failed.add(name)
            log.failure("the listener {name} failed; this is logged once", name=name)


@frozen
class QueueState:
    """How many events wait, how many can, and how many were dropped since the start because the queue was full."""

    length: int
    capacity: int
    dropped: int


class EventQueue:
    """Events that wait for one consumer. When the queue is full, new ones are dropped and counted."""

    def __init__(self, clock: Clock, name: str, consumer: Consumer, capacity: int) -> None:
        self._clock = clock
        self._name = name
        self._consumer = consumer
        self._capacity = capacity
        self._events: deque[Event] = deque()
        self._running = False
        self._failed = False
        self._dropping = 0
        #: How many events were dropped, in all.
        self.dropped = 0
        #: What ends the subscriptions.
        self.subscriptions: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._events)

    def state(self) -> QueueState:
        """Return the state for metrics."""
        return QueueState(len(self._events), self._capacity, self.dropped)

    def put(self, event: Event) -> None:
        """Append an event, or drop it. The consumer is called in a later turn of the reactor."""
        if len(self._events) >= self._capacity:
            self._drop()
            return
        self._events.append(event)
        if not self._running:
            self._running = True
            self._clock.callLater(0, self._run)

    def close(self) -> None:
        """Take no more events. Those that wait are still consumed."""
        for unsubscribe in self.subscriptions:
            unsubscribe()
        self.subscriptions = []

    def _drop(self) -> None:
        if not self._dropping:
            log.warn("the listener {name} is too slow: events are dropped", name=self._name)
        self._dropping += 1
        self.dropped += 1

    def _run(self) -> None:
        events = self._events
        batch = [events.popleft() for _ in range(min(BATCH, len(events)))]
        maybeDeferred(self._consumer, batch).addErrback(self._log_failure).addCallback(self._continue)

    def _continue(self, _: object) -> None:
        if self._events:
            self._clock.callLater(0, self._run)
            return
        self._running = False
        if self._dropping:
            log.warn("{count} events for the listener {name} were dropped", count=self._dropping, name=self._name)
            self._dropping = 0

    def _log_failure(self, failure: Failure) -> None:
        if not self._failed:
            self._failed = True
            log.failure("the listener {name} failed; this is logged once", failure, name=self._name)
