"""Events that nobody claims are written when they have happened: Feed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from ftpsd.events.hub import Hub, QueueState
from ftpsd.events.record import Recorder, recorded_kinds
from ftpsd.events.types import Event, FileChanged, TransferEnded
from ftpsd.outbox.journal import Journal
from ftpsd.outbox.rules import Rules
from ftpsd.outbox.segments import Entry, add_paths
from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.job_queue import JobQueue

log = Logger(namespace="ftpsd")

#: Events that may wait for the disk. Further ones are dropped, and counted in the log.
CAPACITY = 10_000

#: Records that the storage writes before the event happens (see `claims`).
CLAIMED = frozenset({"upload", "delete", "rename"})


class Feed:
    """Writes the events of the hub that rules want into the journal, in a worker thread. For the reactor thread."""

    def __init__(self, hub: Hub, recorder: Recorder, journal: Journal) -> None:
        self._hub = hub
        self._recorder = recorder
        self._journal = journal
        self._queue: JobQueue | None = None
        self._rules = Rules(())
        self._subscriptions: list[Callable[[], None]] = []
        self._waiting: deque[Entry] = deque()
        self._running = False
        #: Events that were dropped: those that the log does not count yet, and those that it does.
        self._dropped = self._logged = 0

    def state(self) -> QueueState:
        """Return the state for metrics."""
        return QueueState(len(self._waiting), CAPACITY, self._dropped + self._logged)

    def use(self, rules: Rules) -> None:
        """Follow these rules from now on."""
        self._rules = rules
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = [
            self._hub.subscribe("the journal of events", kind, self._take)
            for kind, names in recorded_kinds().items()
            if (names - CLAIMED) & rules.names
        ]
        if rules.names:
            self._hub.queues["rules"] = self.state
        else:
            self._hub.queues.pop("rules", None)

    def start(self, queue: JobQueue) -> None:
        """Write what came so far, and what comes, in this queue's threads."""
        self._queue = queue
        self._begin()

    def stop(self) -> None:
        """Take no more events. The pool of threads, which stops after this, writes those that wait."""
        self.use(Rules(()))
        if self._queue is not None:
            self._queue.submit(self._write_all)

    def _take(self, event: Event) -> None:
        if _is_claimed(event):
            return
        made = self._recorder.record(event)
        if made is None:
            return
        paths = _paths(event)
        user = made.get("user", "")
        if not self._rules.wants(str(made["event"]), str(user), *paths):
            return
        if len(self._waiting) >= CAPACITY:
            self._drop()
            return
        self._waiting.append(add_paths({"event": made["id"], "record": made}, paths))
        self._begin()

    def _begin(self) -> None:
        if not self._running and self._waiting and self._queue is not None:
            self._running = True
            self._queue.call(self._write_all).addBoth(self._ended)

    def _ended(self, _: object) -> None:
        self._running = False
        if self._dropped:
            log.error("{count} events were not stored for delivery, and are lost", count=self._dropped)
            self._logged += self._dropped
            self._dropped = 0
        self._begin()

    def _drop(self) -> None:
        self._dropped += 1

    def _write_all(self) -> None:
        """Write all that waits. In a worker thread."""
        while self._waiting:
            entry = self._waiting.popleft()
            try:
                self._journal.add_event(entry)
            except Refusal:
                self._dropped += 1


def _is_claimed(event: Event) -> bool:
    """Return whether the storage has written the event itself, before it happened."""
    if isinstance(event, TransferEnded):
        return event.kind == "listing" or (event.kind != "download" and event.complete)
    return isinstance(event, FileChanged) and event.change in ("deleted", "renamed")


def _paths(event: Event) -> list[str]:
    return [event.path] if isinstance(event, TransferEnded | FileChanged) else []
