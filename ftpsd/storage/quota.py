"""The quota of a user, and the homes that are counted for quotas."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.settings import QuotaSettings
from ftpsd.limits.home_counts import (
    Amount,
    GroupCount,
    GroupLimit,
    HomeLedger,
    QuotaLimits,
    bytes_exceeded,
    files_exceeded,
)
from ftpsd.limits.shared.patience import TableBusy, when_free
from ftpsd.protocol.permissions import Parts
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import HomeMeter, Measure
from ftpsd.storage.group_usage import GroupUsage
from ftpsd.storage.home_counting import HomeCounting, QueueOf
from ftpsd.storage.home_usage import HomeUsage
from ftpsd.system.jobs.job_lock import Busy
from ftpsd.system.reactor import Clock
from ftpsd.system.slices import Slices
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Homes that are compared between two looks at the clock: 0.1 ms.
_COMPARED = 500

#: Counts that are looked up between two looks at the clock: 0.2 ms.
_LOOKED_UP = 20


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit is used. The limit is a group's if it has a name; None is no limit."""

    used: int
    limit: int | None
    group: str = ""

    @property
    def remaining(self) -> int | None:
        """What may be added; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Quota:
    """One user's limits on what a home or folder holds. No method blocks for longer than other threads add numbers."""

    usage: HomeUsage
    limits: QuotaLimits
    #: The folder that is counted; the root for a home.
    at: Parts = ()

    def charge(self, amount: Amount) -> None:
        """Add to the usage of the home. Raises Refusal (552) if it would exceed a limit."""
        self.usage.charge(amount, self.limits)

    def bytes(self) -> Use:
        """Return the use of the nearest limit of bytes: the one that lets fewest be added."""
        groups = [Use(each.count.amount.bytes, each.quota.bytes, each.name) for each in self.limits.groups]
        return _nearest(Use(self.usage.amount.bytes, self.limits.home.bytes), groups)

    def files(self) -> Use:
        """Return the use of the nearest limit of files."""
        groups = [Use(each.count.amount.files, each.quota.files, each.name) for each in self.limits.groups]
        return _nearest(Use(self.usage.amount.files, self.limits.home.files), groups)

    def permits_a_file(self) -> bool:
        """Return whether one more file or directory may be made."""
        return self.files().remaining != 0

    def require_a_file(self) -> None:
        """Raise Refusal (552) if no file or directory may be added."""
        use = self.files()
        if use.limit is not None and use.remaining == 0:
            raise files_exceeded(use.used, use.limit, use.group)

    def require_room(self) -> None:
        """Raise Refusal (552) if no byte may be added."""
        use = self.bytes()
        if use.limit is not None and use.remaining == 0:
            raise bytes_exceeded(use.used, use.limit, use.group)


def _nearest(home: Use, groups: Sequence[Use]) -> Use:
    """Return the use with least remaining; that of the home if nothing is limited."""
    limited = [each for each in (home, *groups) if each.limit is not None]
    return min(limited, key=lambda use: use.remaining or 0, default=home)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The homes that were counted `before`, and which of them a new configuration lacks; and the same by group.

    `missing` has only homes of which there is a count: of most homes there is none, and of 10,000 it would take 0.4 s
    to make them.
    """

    before: Set[str] | None = None
    missing: Sequence[str] = ()
    groups: Mapping[str, tuple[Set[str], Sequence[str]]] = field(default_factory=dict)


async def _missing(homes: Set[str], others: Set[str], slices: Slices) -> list[str]:
    """Return the homes that are not among the others."""
    missing = []
    for number, home in enumerate(homes):
        if home not in others:
            missing.append(home)
        if number % _COMPARED == 0:
            await slices.pause()
    return missing


class Quotas:
    """The homes in which at least one user has a quota. `ledger` has what they hold.

    For the reactor thread, except for `changing`.
    """

    def __init__(
        self,
        clock: Clock,
        workers: WorkerThreads,
        meter: HomeMeter,
        ledger: HomeLedger,
        queue_of: QueueOf = lambda home: None,
    ) -> None:
        self._clock = clock
        self._workers = workers
        self._meter = meter
        self._ledger = ledger
        self._counting = HomeCounting(clock, workers, queue_of)
        self._usages: dict[str, HomeUsage] = {}
        self._counted: Set[str] = frozenset()
        self._homes: Set[str] = frozenset()
        #: The groups of the newest configuration that have a quota.
        self._groups: dict[str, GroupUsage] = {}

    async def compare(self, counted: Set[str], groups: Mapping[str, Set[str]]) -> Comparison:
        """Return which homes a new configuration lacks, for `keep`. Takes several turns of the reactor."""
        slices, before = Slices(self._clock), self._counted
        missing = []
        for number, home in enumerate(await _missing(before, counted, slices)):
            if self._ledger.knows_home(home):
                missing.append(home)
            if number % _LOOKED_UP == 0:
                await slices.pause()
        of_groups = {}
        for name, group in self._groups.items():
            if name in groups:
                wanted = group.wanted
                of_groups[name] = wanted, await _missing(wanted, groups[name], slices)
        return Comparison(before, missing, of_groups)

    def keep(
        self,
        counted: Set[str],
        homes: Set[str],
        groups: Mapping[str, Set[str]] | None = None,
        compared: Comparison | None = None,
    ) -> None:
        """Set which of all homes are counted from now on. They are counted when their first session comes.

        `groups` are the homes of the groups that have a quota, which are in `counted`, too. With `compared`, this takes
        no longer for many homes than for few, unless other homes have been set since. Raises TableBusy before anything
        has changed.
        """
        if compared is None:
            compared = Comparison()
        known, wanted = self._groups, groups or {}
        all_groups = {name: known.get(name) or GroupUsage(name, self._ledger.group(name)) for name in wanted}
        old = [*compared.missing, *self._usages] if compared.before is self._counted else self._counted
        removed = {home: self._ledger.home(home) for home in old if home not in counted}
        self._groups = all_groups
        for name, group in all_groups.items():
            before, missing = compared.groups.get(name, (None, ()))
            group.want(wanted[name], missing if before is group.wanted else group.wanted)
            if group.has_removed:
                self._workers.queue(f"group {name}", "walk").run(group.remove()).addErrback(_log_not_removed, name)
        for name in known.keys() - all_groups:
            known[name].count.completed = 0
        for home, count in removed.items():
            self._usages.pop(home, None)
            count.visits.forget()
        self._counted = counted
        self._homes = homes

    def counted(self, home: str) -> Amount | None:
        """Return what a home holds, or None if nobody has a quota there or it has not been counted yet.

        It is not known either while a process that was stopped holds the lock of the table.
        """
        if home not in self._counted or not self._ledger.knows_home(home):
            return None
        try:
            count = self._ledger.home(home)
        except TableBusy:
            return None
        return None if count.visits.counted is None else count.amount

    def counted_in_group(self, name: str) -> Amount | None:
        """Return what the homes of a group hold, or None if it has no quota or they have not been counted yet."""
        group = self._groups.get(name)
        return None if group is None or not group.is_counted else group.count.amount

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
        counted again. Raises BlockingIOError while the home is counted for the first time, or a session changes it.
        """
        while path not in self._homes and path != "/":
            path = os.path.dirname(path) or "/"
        usage = self._usage(path)
        if usage is not None and usage.visits.is_being_counted:
            raise BlockingIOError(errno.EAGAIN, "the home is being counted")
        with ExitStack() as stack:
            if usage is not None:
                try:
                    stack.enter_context(usage.changing(measure))
                except Busy as busy:
                    raise BlockingIOError(errno.EAGAIN, str(busy)) from None
            yield

    async def begin(
        self, home: str, own: QuotaSettings, groups: Mapping[str, QuotaSettings], at: Parts = ()
    ) -> Quota | None:
        """Begin a session in a home, or in the folder `at`; return None if nobody has a quota there.

        All homes of the user's groups are counted first, if they were not before. The caller calls `HomeUsage.leave` at
        the end of the session. Raises OSError if the user's home cannot be counted.
        """
        entered = await when_free(self._clock, partial(self.enter, home))
        if entered is None:
            return None
        usage = await entered
        try:
            limits = [GroupLimit(name, await self._counted_group(name, home), quota) for name, quota in groups.items()]
        except BaseException:
            usage.leave()
            raise
        return Quota(usage, QuotaLimits(own, tuple(limits)), at)

    async def _counted_group(self, name: str, home: str) -> GroupCount:
        """Return the count of a group with the homes of all members, and with that of a user who comes now."""
        group = self._groups.get(name)
        if group is None:  # a reload has removed it since the session began
            return await when_free(self._clock, partial(self._included, name, home))
        group.add(home)
        await group.turn.run(self._count_group, group)
        return group.count

    def _included(self, name: str, home: str) -> GroupCount:
        count = self._ledger.group(name)
        count.include(home)
        return count

    def _count_group(self, group: GroupUsage) -> Deferred[None]:
        if group.is_complete:
            return succeed(None)
        return Deferred.fromCoroutine(self._update(group)).addErrback(self._leave_out, group)

    async def _update(self, group: GroupUsage) -> None:
        queue = self._counting.queue(f"group {group.name}", group.homes)
        while True:
            try:
                return await queue.run(group.update(self._usage, self._clock.seconds))
            except BlockingIOError:
                await self._counting.wait_for(self._usage(group.counting))

    def _leave_out(self, failure: Failure, group: GroupUsage) -> Deferred[None]:
        """Continue without a home whose disk does not respond, so that it keeps no other member out."""
        failure.trap(Refusal)
        group.leave_out()
        return self._count_group(group)

    def enter(self, home: str) -> Deferred[HomeUsage] | None:
        """Begin a session in a home. Return its usage, counted if necessary, or None if nobody has a quota there.

        The caller calls `HomeUsage.leave` at the end of the session. Raises OSError if the home cannot be counted.
        """
        usage = self._usage(home)
        if usage is None:
            return None
        entered = usage
        entered.enter()

        def leave(failure: Failure) -> Failure:
            entered.leave()
            return failure

        counted: Deferred[None] = entered.turn.run(self._counting.refresh, entered)
        return counted.addCallback(lambda _: entered).addErrback(leave)

    def count_doubtful(self) -> None:
        """Count the homes again that a process has left doubtful, if there are sessions; else the next one does it."""
        self._counting.count_doubtful([each for each in self._usages.values() if each.sessions])


def _log_not_removed(failure: Failure, name: str) -> None:
    log.failure("a home that was removed still counts for the quota of the group {group}", failure, group=name)
