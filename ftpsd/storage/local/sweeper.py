"""Parts of uploads that nobody goes on with are removed from all homes, little by little.

A sweep walks in worker threads and pauses after each handful of entries, so it waits for whoever serves
a client. Directories are opened one below the other without following links. The lock of a part tells
that an upload writes to it, in this process or in one that drains (see `part_files.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ftpsd.data.deadlines import Deadlines
from ftpsd.data.endpoints import Pause, Steps
from ftpsd.data.transfer import Transfer
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Measure
from ftpsd.storage.local.measure import measure_name
from ftpsd.storage.local.part_files import PRIVATE, discard
from ftpsd.storage.local.tree import directories
from ftpsd.system.periodic import periodic
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Entries of directories that are looked at in one step, and the seconds between two steps.
_ENTRIES, _PAUSE = 100, 0.01

#: Seconds between two sweeps: as many as part files are kept for, within these bounds.
_LEAST_INTERVAL, _MOST_INTERVAL = 5, 3600

#: A sweep is followed by a pause that is so many times as long: a large tree is not walked all the time.
_REST = 50
#: How often, and after how many seconds, a part file is tried again whose home is being counted.
_TRIES, _LATER = 600, 0.1


#: `Quotas.changing`, which counts the removal of a part file.
Changing = Callable[[str, Measure], AbstractContextManager[None]]


class _Walk:
    """One through a home. It is over when no thread is in it any more, which may be long after anybody waits for it."""

    def __init__(self, steps: Steps[None]) -> None:
        self.steps = steps
        self.over = False

    def close(self) -> None:
        """See `Transfer`."""
        self.over = True


class Sweeper:
    """Sweeps when the daemon starts or reloads, and every so often: one home after the other."""

    def __init__(self, reactor: Reactor, workers: WorkerThreads, changing: Changing, now: Callable[[], float]) -> None:
        self._reactor = reactor
        self._queue = workers.queue("sweep", "walk")
        self._changing = changing
        self._now = now
        self._started = now()
        self._turn = 0
        self._loop: LoopingCall | None = None
        #: A sweep that comes before this time is left out.
        self._not_before = 0.0
        self._running: Transfer[None] | None = None
        #: Homes whose disk has not answered.
        self._hanging: dict[str, _Walk] = {}

    def start(self, homes: Sequence[str], keep: int | None, patience: float) -> None:
        """Sweeps those homes from now on, none of which lies in another.

        Parts are kept for so many seconds; None: for ever.
        A home whose disk does not answer for `patience` seconds is left alone until it does.
        """
        self.stop()
        run = partial(self._sweep, homes, keep, patience)
        self._loop = periodic(self._reactor, "removing old part files", run)
        self._not_before = 0.0
        self._loop.start(_MOST_INTERVAL if keep is None else max(_LEAST_INTERVAL, min(_MOST_INTERVAL, keep)))

    def stop(self) -> None:
        """Any number of times."""
        self._turn += 1
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.abort(Refusal(421, "The sweep is over."))

    def _sweep(self, homes: Sequence[str], keep: int | None, patience: float) -> Deferred[None] | None:
        if self._reactor.seconds() < self._not_before:
            return None
        before = self._now() - keep if keep is not None else 0.0
        freed: list[int] = []

        def ended(seconds: float) -> None:
            _tell(freed)
            self._not_before = self._reactor.seconds() + pause(seconds)

        return Deferred.fromCoroutine(self._sweep_all(homes, before, patience, freed)).addCallback(ended)

    async def _sweep_all(self, homes: Sequence[str], before: float, patience: float, freed: list[int]) -> float:
        """Sweep all homes; return the seconds that it took, without those for disks that do not answer."""
        turn, spent = self._turn, 0.0
        for home in homes:
            if home in self._hanging and not self._hanging[home].over:
                continue
            walk = _Walk(sweep(home, before, self._started, freed, self._changing))
            began = self._reactor.seconds()
            try:
                await self._sweep_one(walk, patience)
                spent += self._reactor.seconds() - began
            except Refusal as refusal:
                self._hanging[home] = walk
                if turn == self._turn:
                    log.warn("{home} is not swept: {why}", home=home, why=refusal.reply.text)
            if turn != self._turn:
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


def _tell(freed: list[int]) -> None:
    if freed:
        text = "removed parts of uploads that nobody goes on with: {count}, {bytes} bytes"
        log.info(text, count=len(freed), bytes=sum(freed))


def pause(took: float) -> float:
    """Return the seconds for which no home is walked after a sweep that took `took` seconds."""
    return min(_MOST_INTERVAL, took * _REST)


def sweep(home: str, before: float, started: float, freed: list[int], changing: Changing) -> Steps[None]:
    """Discards the parts below a home (see `parts.discard`); their sizes go to `freed`."""
    entries = 0
    for piece in directories(home, skip=(OSError,)):  # what cannot be read is left alone
        path = os.path.join(home, *piece.parts)
        for name in piece.names:
            if name.startswith(PRIVATE):
                discarding = partial(discard, piece.descriptor, name, before, started)
                measuring = partial(measure_name, piece.descriptor, name)
                yield from _change(partial(changing, path, measuring), discarding, freed)
        entries += 1 + len(piece.names) + len(piece.directories)
        if entries >= _ENTRIES:
            entries = 0
            yield None  # progress: the disk answers
            yield Pause(_PAUSE)


def _change(
    changing: Callable[[], AbstractContextManager[None]], discarding: Callable[[], list[int]], freed: list[int]
) -> Steps[None]:
    for _ in range(_TRIES):
        try:
            with changing():
                freed += discarding()
        except BlockingIOError:  # the home is being counted
            yield None
            yield Pause(_LATER)
        except OSError:
            return  # it is gone, or not ours
        else:
            return
