"""Remove old part files from all homes.

A sweep walks in worker threads and pauses after a few entries, so that clients are served first. Directories are opened
one below the other, and links are not followed. The lock of a part file shows that an upload writes to it, in this
process or in one that is stopping gracefully (see `part_files.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.data.deadlines import Deadlines
from ftpsd.data.endpoints import Pause, Steps
from ftpsd.data.transfer import Transfer
from ftpsd.limits.shared.locks import ByteLock
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Measure
from ftpsd.storage.local.measure import measure_name
from ftpsd.storage.local.part_files import PRIVATE, remove_expired
from ftpsd.storage.local.tree import directories
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Entries of directories in one step, and the seconds between two steps.
_ENTRIES, _PAUSE = 100, 0.01

#: Seconds between two sweeps: the time for which part files are kept, within these bounds.
_MIN_INTERVAL, _MAX_INTERVAL = 5, 3600

#: How many times as long as a sweep the pause after it is, so that a large tree is not walked all the time.
_REST = 50

#: The number of attempts, and the seconds between them, to remove a part file from a home that is being counted, or
#: whose names another job has locked.
_ATTEMPTS, _RETRY_DELAY = 600, 0.1


#: `Quotas.changing`, which counts the removal of a part file.
Changing = Callable[[str, Measure], AbstractContextManager[None]]


class _Walk:
    """A walk through a home. It is over when its thread has left it, which may be long after the sweeper gave up."""

    def __init__(self, steps: Steps[None]) -> None:
        self.steps = steps
        self.over = False

    def close(self) -> None:
        """The walk is over (see `Transfer`)."""
        self.over = True


class Sweeper:
    """Sweeps all homes, one after the other: at the start, after each reload, and periodically."""

    def __init__(
        self,
        reactor: Reactor,
        workers: WorkerThreads,
        changing: Changing,
        now: Callable[[], float],
        lock: ByteLock | None = None,
    ) -> None:
        """With a lock, only the process that has it sweeps, until it stops or ends."""
        self._reactor = reactor
        self._queue = workers.queue("sweep", "walk")
        self._changing = changing
        self._now = now
        self._lock = lock
        self._started = now()
        self._run = 0
        self._task: PeriodicTask | None = None
        #: No sweep begins before this time of the reactor's clock.
        self._not_before = 0.0
        self._running: Transfer[None] | None = None
        #: Homes whose disk did not answer, with the walk that waits for it.
        self._hanging: dict[str, _Walk] = {}

    def start(self, homes: Callable[[], Iterable[str]], keep: int | None, patience: float) -> None:
        """Sweep the homes from now on, none of which may lie in another. `homes` is called for each sweep.

        A worker thread iterates over what it returns.

        Part files are kept for `keep` seconds (None: forever). A home whose disk does not respond for `patience`
        seconds is left out until it does.
        """
        self.stop()
        run = partial(self._sweep, homes, keep, patience)
        self._task = PeriodicTask(self._reactor, "removing old part files", run)
        self._not_before = 0.0
        self._task.start(_MAX_INTERVAL if keep is None else max(_MIN_INTERVAL, min(_MAX_INTERVAL, keep)))

    def stop(self) -> None:
        """End the sweep that runs, and all later ones. May be called any number of times."""
        self._run += 1
        if self._task is not None:
            self._task.stop()
            if self._lock is not None:
                self._lock.release()
        if self._running is not None:
            self._running.abort(Refusal(421, "The sweep was stopped."))

    def may_sweep(self) -> bool:
        """Return whether this process is the one that sweeps."""
        return self._lock is None or self._lock.try_acquire()

    def _sweep(self, homes: Callable[[], Iterable[str]], keep: int | None, patience: float) -> Deferred[None] | None:
        if self._reactor.seconds() < self._not_before or not self.may_sweep():
            return None
        before = self._now() - keep if keep is not None else 0.0
        freed: list[int] = []

        def ended(seconds: float) -> None:
            _log_removed(freed)
            self._not_before = self._reactor.seconds() + pause(seconds)

        return Deferred.fromCoroutine(self._sweep_all(homes(), before, patience, freed)).addCallback(ended)

    async def _sweep_all(self, homes: Iterable[str], before: float, patience: float, freed: list[int]) -> float:
        """Sweep all homes. Return the seconds that it took, without those for disks that did not answer."""
        run, spent = self._run, 0.0
        try:
            found = await self._queue.call(list[str], homes)
        except Refusal:  # the disks of all homes do not respond: until the next sweep
            return spent
        for home in found if run == self._run else ():
            if home in self._hanging and not self._hanging[home].over:
                continue
            walk = _Walk(sweep(home, before, self._started, freed, self._changing))
            began = self._reactor.seconds()
            try:
                await self._sweep_one(walk, patience)
                spent += self._reactor.seconds() - began
            except Refusal as refusal:
                self._hanging[home] = walk
                if run == self._run:
                    log.warn("the old part files of {home} cannot be removed: {why}", home=home, why=refusal.reply.text)
            if run != self._run:
                break
        return spent

    async def _sweep_one(self, walk: _Walk, patience: float) -> None:
        self._running = transfer = Transfer(self._reactor, self._queue, walk.steps, None, (walk,))
        deadlines = Deadlines(self._reactor, transfer, patience, patience)
        transfer.start()
        try:
            await transfer.finished
        finally:
            deadlines.stop()
            if self._running is transfer:
                self._running = None


def _log_removed(freed: list[int]) -> None:
    if freed:
        log.info("removed old part files: {count}, {bytes} bytes", count=len(freed), bytes=sum(freed))


def pause(took: float) -> float:
    """Return the seconds of the pause after a sweep that took `took` seconds."""
    return min(_MAX_INTERVAL, took * _REST)


def sweep(home: str, before: float, started: float, freed: list[int], changing: Changing) -> Steps[None]:
    """Remove old part files below a home (see `remove_expired`), and append their sizes to `freed`."""
    entries = 0
    for piece in directories(home, skip=(OSError,)):  # directories that cannot be read are left out
        path = ""
        for name in piece.names:
            if name.startswith(PRIVATE):
                path = path or os.path.join(home, *piece.parts)  # far below, this takes longer than all else
                removing = partial(remove_expired, piece.descriptor, name, before, started)
                measuring = partial(measure_name, piece.descriptor, name)
                if not (yield from _change(partial(changing, path, measuring), removing, freed)):
                    return  # until the next sweep
        entries += 1 + len(piece.names) + len(piece.directories)
        if entries >= _ENTRIES:
            entries = 0
            yield None  # progress: the disk has answered
            yield Pause(_PAUSE)


def _change(
    changing: Callable[[], AbstractContextManager[None]], removing: Callable[[], list[int]], freed: list[int]
) -> Steps[bool]:
    """Remove a part file. Return False if the home did not permit that in all attempts. To wait is no progress."""
    for attempt in range(_ATTEMPTS):
        try:
            with changing():
                freed += removing()
        except BlockingIOError:
            yield Pause(_RETRY_DELAY)
        except OSError:
            return True  # it was removed already, or the daemon may not remove it
        else:
            if attempt:
                yield None
            return True
    return False
