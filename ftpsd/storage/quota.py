"""The quota of a user, and the homes that are counted for quotas."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.settings import QuotaSettings
from ftpsd.limits.home_counts import Amount, HomeLedger, bytes_exceeded, files_exceeded
from ftpsd.protocol.permissions import Parts
from ftpsd.storage.backend import HomeMeter, Measure
from ftpsd.storage.home_usage import HomeUsage
from ftpsd.system.reactor import Clock
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")


@dataclass(frozen=True, slots=True)
class Quota:
    """One user's limit on what a home or folder holds. No method blocks for longer than other threads add numbers."""

    usage: HomeUsage
    limit: QuotaSettings
    #: The folder that is counted; the root for a home.
    at: Parts = ()

    def charge(self, amount: Amount) -> None:
        """Add to the usage of the home. Raises Refusal (552) if it would exceed the limit."""
        self.usage.charge(amount, self.limit)

    def remaining_bytes(self) -> int | None:
        """Return the bytes that may be added, or None without a limit."""
        return None if self.limit.bytes is None else max(0, self.limit.bytes - self.usage.amount.bytes)

    def permits_a_file(self) -> bool:
        """Return whether one more file or directory may be made."""
        return self.limit.files is None or self.usage.amount.files < self.limit.files

    def require_a_file(self) -> None:
        """Raise Refusal (552) if no file or directory may be added."""
        if self.limit.files is not None and not self.permits_a_file():
            raise files_exceeded(self.usage.amount.files, self.limit.files)

    def require_room(self) -> None:
        """Raise Refusal (552) if no byte may be added."""
        if self.limit.bytes is not None and self.remaining_bytes() == 0:
            raise bytes_exceeded(self.usage.amount.bytes, self.limit.bytes)


class Quotas:
    """The homes in which at least one user has a quota. `ledger` has what they hold.

    For the reactor thread, except for `changing`.
    """

    def __init__(self, clock: Clock, workers: WorkerThreads, meter: HomeMeter, ledger: HomeLedger) -> None:
        self._clock = clock
        self._workers = workers
        self._meter = meter
        self._ledger = ledger
        self._usages: dict[str, HomeUsage] = {}
        self._counted: Set[str] = frozenset()
        self._homes: Set[str] = frozenset()

    def keep(self, counted: Set[str], homes: Set[str]) -> None:
        """Set which of all homes are counted from now on. They are counted when their first session comes."""
        self._usages = {home: usage for home, usage in self._usages.items() if home in counted}
        self._counted = counted
        self._homes = homes

    def counted(self, home: str) -> Amount | None:
        """Return what a home holds, or None if nobody has a quota there or it has not been counted yet."""
        usage = self._usages.get(home)
        return None if usage is None or usage.counted is None else usage.amount

    def _usage(self, home: str) -> HomeUsage | None:
        if home not in self._counted:
            return None
        # setdefault: the sweeper's threads ask, too.
        return self._usages.get(home) or self._usages.setdefault(
            home, HomeUsage(home, self._meter, self._ledger.home(home))
        )

    @contextmanager
    def changing(self, path: str, measure: Measure) -> Iterator[None]:
        """Count a change of names in the directory `path` that the daemon itself makes. In any thread; blocks.

        The change counts in the innermost home around the directory; homes around that one count it when they are
        counted again. Raises BlockingIOError while the home is counted for the first time.
        """
        while path not in self._homes and path != "/":
            path = os.path.dirname(path) or "/"
        usage = self._usage(path)
        if usage is not None and usage.counting:
            raise BlockingIOError(errno.EAGAIN, "the home is being counted")
        with usage.changing(measure) if usage is not None else nullcontext():
            yield

    def enter(self, home: str) -> Deferred[HomeUsage] | None:
        """Begin a session in a home. Return its usage, counted if necessary, or None if nobody has a quota there.

        The caller calls `HomeUsage.leave` at the end of the session. Raises OSError if the home cannot be counted.
        """
        usage = self._usage(home)
        if usage is None:
            return None
        entered = usage
        entered.sessions += 1

        def leave(failure: Failure) -> Failure:
            entered.leave()
            return failure

        counted: Deferred[None] = entered.turn.run(self._refresh, entered)
        return counted.addCallback(lambda _: entered).addErrback(leave)

    def _refresh(self, usage: HomeUsage) -> Deferred[None]:
        if not usage.is_stale(self._clock.seconds()):
            return succeed(None)

        def done(found: bool) -> None:
            if found:
                size, files = usage.amount.bytes, usage.amount.files
                log.info("{home} holds {size} bytes in {files} files", home=usage.home, size=size, files=files)

        walk = usage.count if usage.counted is None else usage.recount
        queue = self._workers.queue(usage.home, "walk")
        return queue.run(walk(self._clock.seconds)).addCallback(done)
