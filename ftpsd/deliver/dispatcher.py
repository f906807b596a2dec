"""Give the deliveries that are due to their targets, and decide what becomes of them: Dispatcher."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.deliver.queue import Delivery, Queue
from ftpsd.deliver.target import NotDelivered, Target
from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")

#: Deliveries to one target at the same time.
PARALLEL = 4

#: Seconds after a success until what was accepted is removed, all of it at once, and others follow.
SOON = 0.01

#: Seconds until the second attempt, which double with each further one, up to the last value.
FIRST_DELAY, LONGEST_DELAY = 1.0, 300.0

#: Failures in a row from which on a target as a whole pauses, and the longest pause in seconds.
_FAILURES, _LONGEST_PAUSE = 4, 60.0


def delay(attempts: int) -> float:
    """Return the seconds until the next attempt. They are random, so that not all attempts come at the same time."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempts, 20)) * random.uniform(0.5, 1.5)


class _Line:
    """A target with its running deliveries."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.running: set[int] = set()
        #: Failures since the last success, and the time before which nothing is tried.
        self.failures = 0
        self.paused_until = 0.0


class Dispatcher:
    """Starts deliveries, tries failed ones again later, and puts some aside. For the reactor thread.

    `now` returns the POSIX time.
    """

    def __init__(self, clock: Clock, queue: Queue, now: Callable[[], float]) -> None:
        self._clock = clock
        self._queue = queue
        self._now = now
        self._lines: dict[str, _Line] = {}
        self._give_up = 0.0
        self._stopping = False
        #: The numbers of deliveries that were accepted, and are not removed from the queue yet.
        self._accepted: list[int] = []

    def use(self, targets: Mapping[str, Target], give_up: float) -> None:
        """Deliver to these targets. Deliveries to other targets are put aside after `give_up` seconds at most."""
        self._give_up = give_up
        lines = {}
        for name, target in targets.items():
            line = lines[name] = _Line(target)
            if name in self._lines:
                line.running = self._lines[name].running  # the deliveries that run end in their own time
        self._lines = lines
        for name in self._queue.targets() - set(targets):
            count = self._queue.put_target_aside(name, self._now(), "no rule has this target any more")
            if count:
                log.warn("{count} events were put aside: no rule has the target {target}", count=count, target=name)

    @property
    def running(self) -> int:
        """How many deliveries run."""
        return sum(len(line.running) for line in self._lines.values())

    def run(self) -> None:
        """Remove what was accepted, and begin as many deliveries as may run."""
        now = self._now()
        if self._accepted:
            accepted = list(self._accepted)
            self._queue.remove(accepted, now)
            del self._accepted[: len(accepted)]
            for line in self._lines.values():
                line.running.difference_update(accepted)
        if self._stopping:
            return
        for name, line in self._lines.items():
            slots = (PARALLEL if line.failures < _FAILURES else 1) - len(line.running)
            if slots <= 0 or now < line.paused_until:
                continue
            for delivery in self._queue.due(name, now, slots + len(line.running)):
                if delivery.number not in line.running and slots > 0:
                    slots -= 1
                    self._begin(line, delivery)

    def stop(self) -> None:
        """Begin no further deliveries."""
        self._stopping = True

    def cut(self) -> None:
        """End the deliveries that run."""
        for line in self._lines.values():
            line.target.stop()

    def _begin(self, line: _Line, delivery: Delivery) -> None:
        line.running.add(delivery.number)
        Deferred.fromCoroutine(self._deliver(line, delivery))

    async def _deliver(self, line: _Line, delivery: Delivery) -> None:
        try:
            await line.target.deliver(delivery.entry)
        except NotDelivered as error:
            self._fail(line, delivery, str(error))
        except Exception:
            log.failure("internal error in a delivery to {target}", target=delivery.target)
            self._fail(line, delivery, "internal error")
        else:
            if line.failures >= _FAILURES:
                log.info("{target} accepts events again", target=delivery.target)
            line.failures, line.paused_until = 0, 0.0
            self._accepted.append(delivery.number)  # it runs until it is removed: nobody begins it again
            if len(self._accepted) == 1:
                self._clock.callLater(SOON, self._run_soon)

    def _run_soon(self) -> None:
        try:
            self.run()
        except sqlite3.Error as error:  # it is done in the next turn
            log.warn("the database of deliveries is busy: {error}", error=str(error))

    def _fail(self, line: _Line, delivery: Delivery, error: str) -> None:
        try:
            self._failed(line, delivery, error)
        except sqlite3.Error as failure:  # it is due still, and tried again
            log.warn("the database of deliveries is busy: {error}", error=str(failure))

    def _failed(self, line: _Line, delivery: Delivery, error: str) -> None:
        line.running.discard(delivery.number)
        now = self._now()
        if self._stopping:
            self._queue.postpone(delivery.number, now, error)
        elif now - delivery.since >= self._give_up:
            self._queue.put_aside(delivery.number, now, error)
            words = "event {event} was put aside after {attempts} attempts, {target}: {error}"
            log.error(words, event=delivery.event, attempts=delivery.attempts + 1, target=delivery.target, error=error)
        else:
            self._queue.postpone(delivery.number, now + delay(delivery.attempts), error)
            line.failures += 1
            if line.failures >= _FAILURES:
                pause = min(_LONGEST_PAUSE, FIRST_DELAY * 2.0 ** min(line.failures - _FAILURES, 20))
                line.paused_until = now + pause * random.uniform(0.5, 1.0)
            if line.failures == _FAILURES:
                log.warn(
                    "{target} does not accept events, the last error: {error}", target=delivery.target, error=error
                )
