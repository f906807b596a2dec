"""How many bytes and files a home holds, kept exact through every change.

What counts is what the storage holds at that moment, as with the quotas of a kernel: each file by its size, a directory
as a file without bytes, and the part files of uploads, both running and cut. While a file is being replaced the bytes
of both count, so what is written never exceeds a quota; no second file is needed, since none is left in the end.

A home is walked once; from then on each change adds the difference that it makes. All sessions of all users who have
the home share one `HomeUsage`. The ledger has the sum (`limits/home_counts`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import contextmanager
from threading import RLock

from twisted.internet.defer import DeferredLock

from ftpsd.limits.home_counts import Amount, Charge, HomeCount, QuotaLimits
from ftpsd.storage.backend import HomeMeter, Measure
from ftpsd.system.worker_threads import JobSteps

#: Seconds after which a home without sessions is counted again, since other programs may have changed it.
STALE = 3600

#: No limits.
_NO_LIMIT = QuotaLimits()


def measure_nothing(_: Container[Hashable]) -> Amount:
    """Return an empty amount: the measure for changes that affect no name (see `backend.Measure`)."""
    return Amount()


class HomeUsage:
    """The bytes and files in one home. Methods may be called in any thread and may block, unless they say otherwise.

    `changing` holds a lock while names change, which may take the disk a while. Charges do not need that lock, so that
    running uploads do not wait for changes of names.
    """

    def __init__(self, home: str, meter: HomeMeter, count: HomeCount) -> None:
        self.home = home
        self._meter = meter
        self._count = count
        #: Charge an amount: see `HomeCount`.
        self.charge = count.charge
        self._names = RLock()
        self._changes = 0
        #: Whether the home is being counted for the first time.
        self.counting = False
        #: When it was counted, in seconds of the clock; None before the first time.
        self.counted: float | None = None
        #: Part files of running uploads, which are charged for them until they end.
        self._charged: set[Hashable] = set()
        # For the reactor thread: the sessions in the home, and a lock for counting it.
        self.sessions = 0
        self.turn = DeferredLock()

    @property
    def amount(self) -> Amount:
        """What the home holds, with what running uploads were charged. Does not block."""
        return self._count.amount

    # --- changes -----------------------------------------------------------------------------------

    def add(self, amount: Amount) -> None:
        """Add to the count, without a limit."""
        self.charge(amount, _NO_LIMIT)

    @contextmanager
    def changing(self, measure: Measure = measure_nothing) -> Iterator[list[Charge]]:
        """Count what the body does to the names that `measure` measures.

        The body must change no other names. It must be short, a few disk calls: threads of the home's other sessions
        wait for it. The body may append charges to the list. They are applied at the end in one step with the measured
        difference, so that no other session can use the space that the body frees.
        """
        charges: list[Charge] = []
        with self._names:
            before = measure(self._charged)
            try:
                yield charges
            finally:
                self._changes += 1
                self._count.correct(measure(self._charged) - before, charges)

    def exclude(self, part_file: Hashable) -> None:
        """Leave a part file out of measurements: its upload is charged for it. To be called within `changing`."""
        self._charged.add(part_file)

    def include(self, part_file: Hashable) -> None:
        """Measure a part file again: its upload has ended. To be called within `changing`."""
        self._charged.discard(part_file)

    # --- counting ----------------------------------------------------------------------------------

    def count(self, clock: Callable[[], float]) -> JobSteps[bool]:
        """Walk the home for the first time. Return False if the home does not exist or was counted before.

        Raises OSError if it cannot be counted. No names change meanwhile: no session is admitted before, and the
        sweeper waits while `counting` is true.
        """
        self.counting = True
        try:
            while self.counted is None and not self._charged and self._meter.exists(self.home):
                if (yield from self._walk(clock)):
                    return True
        finally:
            self.counting = False
        return False

    def recount(self, clock: Callable[[], float]) -> JobSteps[bool]:
        """Walk the home again and use the result, unless the home is in use or missing. Return whether it was used."""
        if self._charged or not self._meter.exists(self.home):
            return False
        try:
            return (yield from self._walk(clock))
        except OSError:
            return False

    def _walk(self, clock: Callable[[], float]) -> JobSteps[bool]:
        """Count the home. Return False, and change nothing, if a session has changed it meanwhile."""
        with self._names:
            started, changes = clock(), self._changes
        size = number = 0
        for found in self._meter.amounts(self.home, self._charged):
            size, number = size + found.bytes, number + found.files
            yield
        with self._names:
            if self._charged or self._changes != changes:
                return False
            # Set here, not by the caller, who may have given up waiting: the next session finds the result.
            self._count.set(Amount(size, number))
            self.counted = started
        return True

    # --- in the reactor thread ---------------------------------------------------------------------

    def is_stale(self, now: float) -> bool:
        """Return whether the home must be counted before the session that has just come may continue."""
        if self.counted is None:
            return True
        return self.sessions == 1 and not 0 <= now - self.counted < STALE

    def leave(self) -> None:
        """Note that a session has ended."""
        self.sessions -= 1
