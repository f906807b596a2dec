"""How many bytes and files a home holds, kept exact through every change.

What counts is what the storage holds at that moment, as with the quotas of a kernel: each file by its size, a directory
as a file without bytes, and the part files of uploads, both running and cut. While a file is being replaced the bytes
of both count, so what is written never exceeds a quota; no second file is needed, since none is left in the end.

A home is walked once; from then on each change adds the difference that it makes. All sessions of all users who have
the home share one `HomeUsage`. The ledger has the sum (`limits/home_counts`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from ftpsd.config.sections.storage import is_in_store
from ftpsd.limits.home_counts import Amount, Charge, HomeCount, QuotaLimits
from ftpsd.storage.backend import HomeMeter, Measure
from ftpsd.system.jobs.job_lock import LockSteps, repeated

#: Seconds after which a home without sessions is counted again, since other programs may have changed it.
STALE = 3600

#: How often a home is walked that changes meanwhile; then the seconds for which its names may be locked.
_ATTEMPTS, _MOST_LOCKED = 3, 3.0

log = Logger(namespace="ftpsd")

#: No limits.
_NO_LIMIT = QuotaLimits()


def measure_nothing(_: Container[Hashable]) -> Amount:
    """Return an empty amount: the measure for changes that affect no name (see `backend.Measure`)."""
    return Amount()


class LeftOut(Container[Hashable]):
    """The part files that are charged, for one measurement, and which of them it has asked for."""

    def __init__(self, charged: Container[Hashable]) -> None:
        self._charged = charged
        self.found: set[Hashable] = set()

    def __contains__(self, part_file: object) -> bool:
        """Return whether a part file is charged."""
        is_charged = part_file in self._charged
        if is_charged:
            self.found.add(part_file)
        return is_charged


@dataclass(slots=True)
class Change:
    """What a change adds beside the difference that is measured."""

    #: The part files that were left out when the names were measured before.
    left_out: Container[Hashable] = ()
    #: What was found of a part file that is measured from now on.
    found: Amount = field(default_factory=Amount)
    charges: list[Charge] = field(default_factory=list)

    def charge(self, amount: Amount, limits: QuotaLimits = _NO_LIMIT) -> None:
        """Charge a running upload when the change is complete; refund it if the amount is negative."""
        self.charges.append((amount, limits))


class HomeWalks:
    """Walks through one home that count it. The methods are called in any thread, and block in each step."""

    def __init__(
        self, home: str, meter: HomeMeter, count: HomeCount, locked: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.home = home
        self._meter = meter
        self._count = count
        self._names = count.names
        self.visits = count.visits
        #: Keeps jobs from changing names: see `HomeUsage.locked`.
        self._locked = locked

    def walk(self, clock: Callable[[], float]) -> LockSteps[bool]:
        """Return the walk that the home needs (see `is_stale`). Its result is whether the home was counted."""
        if self.visits.counted is None:
            return self.count(clock)
        return self.repair(clock) if self._count.is_doubtful else self.recount(clock)

    def count(self, clock: Callable[[], float]) -> LockSteps[bool]:
        """Walk the home for the first time. Return False if the home does not exist or was counted before.

        Raises BlockingIOError while somebody else counts it, and OSError if it cannot be counted. No names change
        meanwhile: no session is admitted before, and the sweeper waits.
        """
        with self._alone(clock):
            while self.visits.counted is None and self._meter.exists(self.home):
                if (yield from self._count_once(clock)):
                    return True
        return False

    def recount(self, clock: Callable[[], float]) -> LockSteps[bool]:
        """Walk the home again and use the result, unless the home is in use or missing. Return whether it was used."""
        if self._names.are_charged or not self._meter.exists(self.home):
            return False
        try:
            return (yield from self._count_once(clock, while_charged=False))
        except OSError:
            return False

    def repair(self, clock: Callable[[], float]) -> LockSteps[bool]:
        """Walk a home whose count is doubtful, also while it is in use. Return whether it was counted.

        A home that changes all the time is walked with the lock of its names, for a few seconds at most.
        """
        with self._alone(clock):
            try:
                for _ in range(_ATTEMPTS):
                    if not self._count.is_doubtful or (yield from self._count_once(clock)):
                        return True
                return (yield from repeated(self._walk_locked, clock))
            except OSError as error:
                log.warn("{home} cannot be counted again: {error}", home=self.home, error=str(error))
                return False

    def _walk_locked(self, clock: Callable[[], float]) -> bool:
        limit = time.monotonic() + _MOST_LOCKED
        with self._locked():
            for _ in self._count_once(clock):
                if time.monotonic() > limit:
                    log.warn("{home} changes too often to be counted again now", home=self.home)
                    return False
        return not self._count.is_doubtful

    @contextmanager
    def _alone(self, clock: Callable[[], float]) -> Iterator[None]:
        if not self.visits.begin_count():
            raise BlockingIOError(errno.EAGAIN, "the home is being counted")
        try:
            self.visits.progress = clock()
            yield
        finally:
            self.visits.end_count()

    def _count_once(self, clock: Callable[[], float], while_charged: bool = True) -> LockSteps[bool]:
        """Count the home. Return False, and change nothing, if a session has changed it meanwhile."""
        names = self._names
        started, changes = yield from repeated(self._now, clock)
        size = number = 0
        for found in self._meter.amounts(self.home, names.charged if while_charged else ()):
            size, number = size + found.bytes, number + found.files
            self.visits.progress = clock()
            yield None
        found = Amount(size, number)
        return (yield from repeated(self._set, found, started, changes, while_charged))

    def _now(self, clock: Callable[[], float]) -> tuple[float, int]:
        """Return the time and the number of changes so far. No change is being made at this time."""
        with self._locked():
            return clock(), self._names.changes

    def _set(self, found: Amount, started: float, changes: int, while_charged: bool) -> bool:
        with self._locked():
            if self._names.are_charged and not while_charged:
                return False
            # Set here, not by the caller, who may have given up waiting: the next session finds the result.
            return self._count.set(found, started, changes)


class HomeUsage:
    """The bytes and files in one home. Methods may be called in any thread and may block, unless they say otherwise.

    `changing` holds a lock while names change, which may take the disk a while. A job that needs the lock meanwhile
    waits without a worker thread (see `JobLock`); in a store it keeps its thread, which only jobs of that store have.
    Charges do not need the lock, so that running uploads do not wait for changes of names.
    """

    def __init__(self, home: str, meter: HomeMeter, count: HomeCount) -> None:
        self.home = home
        self._count = count
        self._names = count.names
        self._waits = is_in_store(home)
        #: See `HomeCount`.
        self.visits = count.visits
        #: Charge an amount: see `HomeCount`.
        self.charge = count.charge
        #: Leave a part file out of measurements, or measure it again: see `HomeNames`. Only within `changing`.
        self.exclude = count.names.exclude
        self.include = count.names.include
        #: A session has begun or ended.
        self.enter = count.visits.enter
        self.leave = count.visits.leave
        #: Changes are not counted any more: see `HomeVisits`.
        self.forget = count.visits.forget
        #: Walks that count the home.
        walks = HomeWalks(home, meter, count, self.locked)
        self.walk, self.count, self.recount, self.repair = walks.walk, walks.count, walks.recount, walks.repair
        #: For the reactor thread: a lock for counting the home.
        self.turn = DeferredLock()

    @property
    def counted(self) -> float | None:
        """When it was counted, in seconds of the clock; None before the first time."""
        return self.visits.counted

    @property
    def is_doubtful(self) -> bool:
        """Whether a process was killed that has changed the home or uploaded there."""
        return self._count.is_doubtful

    @property
    def sessions(self) -> int:
        """The sessions in the home."""
        return self.visits.sessions

    @property
    def amount(self) -> Amount:
        """What the home holds, with what running uploads were charged. Does not block."""
        return self._count.amount

    # --- changes -----------------------------------------------------------------------------------

    def add(self, amount: Amount) -> None:
        """Add to the count, without a limit."""
        self._count.correct(amount, ())

    @contextmanager
    def changing(self, measure: Measure = measure_nothing) -> Iterator[Change]:
        """Count what the body does to the names that `measure` measures.

        The body must change no other names. It must be short, a few disk calls: the home's other sessions wait for it.
        What the body adds to the `Change` is applied at the end in one step with the measured difference, so that no
        other session can use the space that the body frees.

        Entering raises Busy in a worker thread while another job changes names here. The job is repeated from its start
        then, so it must have changed nothing yet.
        """
        change, names = Change(), self._names
        with self.locked():
            charged = LeftOut(names.charged)
            before = measure(charged)
            change.left_out = charged.found
            try:
                yield change
            finally:
                names.changed()
                self._count.correct(measure(names.charged) - before + change.found, change.charges)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other jobs from changing names while the body runs. Entering raises Busy as for `changing`."""
        self._names.acquire(self._waits)
        try:
            yield
        finally:
            self._names.release()

    # --- in the reactor thread ---------------------------------------------------------------------

    def is_stale(self, now: float) -> bool:
        """Return whether the home must be counted before the session that has just come may continue."""
        if self.counted is None or self.is_doubtful:
            return True
        return self.sessions == 1 and not 0 <= now - self.counted < STALE
