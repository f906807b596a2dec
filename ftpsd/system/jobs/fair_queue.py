"""Jobs that wait for a worker thread. The jobs of one owner are run in their order, and the owners take turns.

No owner can occupy all threads: an owner may run one more job only while fewer of its jobs run than threads are idle.
So one owner alone gets half of the threads, several owners get equal parts, and a new owner finds an idle thread.

Threads that run need the GIL, and a thread with a short job waits for all others that want it. So beside other owners,
an owner may have only as many threads as the processors can use.

These classes take no locks. The pool calls them with its own lock held (see `../worker_threads.py`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Literal

Job = Callable[[], object]

#: The kind of a job: part of a login; a few disk calls or a transfer; or a walk through a directory or a tree.
JobKind = Literal["login", "command", "walk"]

#: Walks that run at the same time. Each needs the GIL almost all the time, and more of them delay every other thread.
MOST_WALKS = 2

#: One of this many threads is reserved for logins.
_LOGIN_SHARE = 8

#: Seconds for which an owner counts as one beside others after its last job.
_BESIDE = 10.0


class OwnerQueue:
    """The waiting jobs of one owner and kind, and the number of those that run."""

    __slots__ = ("__weakref__", "jobs", "kind", "owner", "progress", "running")

    def __init__(self, owner: Hashable, kind: JobKind) -> None:
        self.owner = owner
        self.kind: JobKind = kind
        self.jobs: deque[Job] = deque()
        self.running = 0
        #: The time at which one of its jobs, or a step of one, ended last.
        self.progress = 0.0


class FairQueue:
    """All owners' queues of a pool with this many threads.

    `idle` is the number of threads that run no job now. `beside` is how many jobs of a kind an owner may run while
    others have jobs.
    """

    def __init__(self, threads: int, beside: float = math.inf) -> None:
        self._beside = beside
        #: The owner of the last job, and when that became another one than of the job before.
        self._latest: Hashable = None
        self._changed = -math.inf
        reserved = threads // _LOGIN_SHARE
        #: How many idle threads a job of each kind must leave to logins.
        self._reserved: dict[JobKind, int] = {"login": 0, "command": reserved, "walk": reserved}
        #: How many more jobs of each kind may run.
        self._free: dict[JobKind, float] = {"login": math.inf, "command": math.inf, "walk": MOST_WALKS}
        #: The queues with waiting jobs, by kind; the next one first. The kinds take turns, too.
        self._queues: dict[JobKind, dict[OwnerQueue, None]] = {"login": {}, "command": {}, "walk": {}}
        #: Jobs that go first: others wait for a lock that they were promised, so no limit of their owners applies.
        self._first: deque[tuple[OwnerQueue, Job]] = deque()
        #: How many jobs wait.
        self.waiting = 0

    def begin(self, queue: OwnerQueue, idle: int) -> bool:
        """Count a new job as running, if it may run now and no other job waits. Return whether it was counted."""
        kind = queue.kind
        self._note(queue)
        if self.waiting or queue.running >= min(idle - self._reserved[kind], self._free[kind], self._most()):
            return False
        queue.running += 1
        self._free[kind] -= 1
        return True

    def _note(self, queue: OwnerQueue) -> None:
        if queue.owner != self._latest:
            if self._latest is not None:
                self._changed = time.monotonic()
            self._latest = queue.owner

    def _most(self) -> float:
        """Return how many jobs of a kind each owner may run now, as far as other owners are concerned."""
        return self._beside if time.monotonic() - self._changed < _BESIDE else math.inf

    def put(self, queue: OwnerQueue, job: Job) -> None:
        """Add a job that must wait."""
        self._note(queue)
        queue.jobs.append(job)
        self._queues[queue.kind][queue] = None
        self.waiting += 1

    def put_first(self, queue: OwnerQueue, job: Job) -> None:
        """Add a job that is to run before all others, whatever else its owner runs, since others wait for it."""
        self._first.append((queue, job))
        self.waiting += 1

    def take(self, idle: int, everything: bool = False) -> tuple[OwnerQueue, Job] | None:
        """Remove the job that is to run next, count it as running, and return it. Return None if no job may run now.

        With `everything` there are no limits: the pool is being stopped.
        """
        queue = self._next(math.inf if everything else idle)
        if queue is None:
            return None
        if self._first:
            queue, job = self._first.popleft()
        else:
            queues = self._queues.pop(queue.kind)
            self._queues[queue.kind] = queues
            del queues[queue]
            job = queue.jobs.popleft()
            if queue.jobs:
                queues[queue] = None
        queue.running += 1
        self._free[queue.kind] -= 1
        self.waiting -= 1
        return queue, job

    def done(self, queue: OwnerQueue) -> None:
        """Stop counting a job as running: it has ended, or its thread was replaced."""
        queue.running -= 1
        self._free[queue.kind] += 1

    def may_want(self, queue: OwnerQueue) -> bool:
        """Return whether `wants` may be true for a job of this queue.

        Mostly it is not, and this needs no lock: a job that is added at the same time is seen after the next step.
        """
        return self.waiting > 0 or self._free[queue.kind] < 0 or queue.running > self._beside

    def wants(self, queue: OwnerQueue, idle: int) -> bool:
        """Return whether a waiting job could run if a job of this queue gave up its thread.

        Also if more jobs of its kind run than may, because one went first or because others have jobs now.
        """
        if self._free[queue.kind] < 0 or queue.running > self._most():
            return True
        self.done(queue)
        try:
            return self._next(idle + 1) is not None
        finally:
            queue.running += 1
            self._free[queue.kind] -= 1

    def _next(self, idle: float) -> OwnerQueue | None:
        if not self.waiting:
            return None
        if self._first:
            return self._first[0][0]
        most = self._most()
        for kind, queues in self._queues.items():
            room = min(idle - self._reserved[kind], self._free[kind], most) if idle < math.inf else idle
            if room > 0:
                for queue in queues:  # passes over as many queues as there are threads, at most
                    if queue.running < room:
                        return queue
        return None
