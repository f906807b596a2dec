"""Jobs that wait for a worker thread: each owner's in their order, the owners in turn.

Nobody's jobs keep others waiting: an owner may run one more job only while fewer of its jobs run than threads are
idle. So one owner alone gets half of the threads, several owners get equal parts, and a newcomer finds a thread.
Nothing here locks: the pool does (see `worker_threads.py`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal

Job = Callable[[], object]

#: What a job is: part of a login, one that ends after a few disk calls, or one that goes through a directory or a tree.
Kind = Literal["login", "command", "walk"]

#: Walks that run at once. Each wants Python's lock all the time, and with more of them everybody waits for that longer.
MOST_WALKS = 2

#: One in so many threads takes jobs of logins only.
_LOGIN_SHARE = 8


class Line:
    """The jobs of one owner and kind that wait, and how many run."""

    __slots__ = ("__weakref__", "jobs", "kind", "progress", "running")

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.jobs: deque[Job] = deque()
        self.running = 0
        #: The time at which a job of this line, or a step of one, ended last.
        self.progress = 0.0


class FairQueue:
    """All lines of a pool with so many threads."""

    def __init__(self, threads: int) -> None:
        kept = threads // _LOGIN_SHARE
        self._kept: dict[Kind, int] = {"login": 0, "command": kept, "walk": kept}
        self._free: dict[Kind, float] = {"login": math.inf, "command": math.inf, "walk": MOST_WALKS}
        #: Lines with jobs, by kind; the next one first. The kinds take turns, too.
        self._lines: dict[Kind, dict[Line, None]] = {"login": {}, "command": {}, "walk": {}}
        #: How many jobs wait.
        self.waiting = 0

    def begin(self, line: Line, idle: int) -> bool:
        """Return whether a new job of a line may run now, in the usual case that no job waits: note that it does."""
        kind = line.kind
        if self.waiting or line.running >= idle - self._kept[kind] or line.running >= self._free[kind]:
            return False
        line.running += 1
        self._free[kind] -= 1
        return True

    def put(self, line: Line, job: Job) -> None:
        """Add a job to a line."""
        line.jobs.append(job)
        self._lines[line.kind][line] = None
        self.waiting += 1

    def take(self, idle: int, everything: bool = False) -> tuple[Line, Job] | None:
        """Return the job to run next, with `idle` threads to choose from; None if no job may run now.

        With `everything` no limit holds: the pool ends.
        """
        line = self._next(math.inf if everything else idle)
        if line is None:
            return None
        lines = self._lines.pop(line.kind)
        self._lines[line.kind] = lines
        del lines[line]
        job = line.jobs.popleft()
        if line.jobs:
            lines[line] = None
        line.running += 1
        self._free[line.kind] -= 1
        self.waiting -= 1
        return line, job

    def done(self, line: Line) -> None:
        """Note that a job of a line has ended, or has lost its thread."""
        line.running -= 1
        self._free[line.kind] += 1

    def wants(self, line: Line, idle: int) -> bool:
        """Return whether some job could run if a job of this line gave up its thread."""
        self.done(line)
        try:
            return self._next(idle + 1) is not None
        finally:
            line.running += 1
            self._free[line.kind] -= 1

    def _next(self, idle: float) -> Line | None:
        if not self.waiting:
            return None
        for kind, lines in self._lines.items():
            room = min(idle - self._kept[kind], self._free[kind]) if idle < math.inf else idle
            if room > 0:
                for line in lines:  # at most as many are passed over as there are threads
                    if line.running < room:
                        return line
        return None
