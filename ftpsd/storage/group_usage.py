"""What the homes of a group's members hold together: GroupUsage.

The sum changes with each of the homes (`limits/home_counts`). So all homes must have been counted: the first session of
a member after a start, or after a home was added, waits until they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from ftpsd.limits.home_counts import GroupCount
from ftpsd.limits.member_homes import digest_of
from ftpsd.storage.home_usage import HomeUsage
from ftpsd.system.jobs.job_lock import LockSteps
from ftpsd.system.jobs.job_queue import JobSteps

log = Logger(namespace="ftpsd")


class GroupUsage:
    """The homes of a group. For the reactor thread, except for the steps of `update`."""

    def __init__(self, name: str, count: GroupCount) -> None:
        self.name = name
        self.count = count
        #: A lock for `update`.
        self.turn = DeferredLock()
        #: The homes of the members that the last configuration load has found.
        self.wanted: Set[str] = frozenset()
        #: Homes of members who are not known before they log in.
        self._more: set[str] = set()
        #: Homes that the last configuration loads have removed, and that are still included.
        self._removed: set[str] = set()
        #: The home that is being counted, and those whose disk did not respond.
        self.counting = ""
        self._left_out: set[str] = set()
        #: Increased with each change of the homes; and its value for the homes that the count includes.
        self._version = 0
        self._counted_version = -1

    @property
    def has_removed(self) -> bool:
        """Whether there is something to do for `remove`."""
        return bool(self._removed)

    @property
    def is_counted(self) -> bool:
        """Whether all homes were counted, in whichever process."""
        return self.count.completed == digest_of(self.wanted)

    @property
    def is_complete(self) -> bool:
        """Whether the count includes the homes of all members that are known."""
        return self._counted_version == self._version

    @property
    def homes(self) -> tuple[str, ...]:
        """The homes of the members that are known."""
        return (*self.wanted, *self._more)

    def want(self, homes: Set[str], before: Iterable[str]) -> None:
        """Set the homes of the members that a configuration load has found. `remove` excludes the others.

        `before` are those of the homes before that may be missing now.
        """
        gone = [home for home in before if home not in homes]
        self._removed = {*gone, *(home for home in self._removed if home not in homes)}
        self.wanted = homes
        self._left_out.clear()
        self._version += 1

    def add(self, home: str) -> None:
        """Add the home of a member who logs in."""
        if home not in self.wanted and home not in self._more:
            self._more.add(home)
            self._version += 1

    def leave_out(self) -> None:
        """Leave out the home that `update` counts now: its disk does not respond, and `update` would not end."""
        self._left_out.add(self.counting)
        self._warn(self.counting, "its disk does not respond")

    def _warn(self, home: str, reason: str) -> None:
        text = "{home} cannot be counted for the quota of the group {group}: {reason}"
        log.warn(text, home=home, group=self.name, reason=reason)

    def update(self, usage_of: Callable[[str], HomeUsage | None], clock: Callable[[], float]) -> LockSteps[None]:
        """Return the steps that count the homes of all members which are not counted, and include them.

        A home that cannot be counted does not keep other members out: it counts as what is uploaded there from now on.
        """
        return self._steps(self.wanted, set(self._more), self._version, usage_of, clock)

    def remove(self) -> JobSteps[None]:
        """Exclude the homes that were removed. The reactor must not wait for their locks."""
        for home in list(self._removed):
            if home in self._removed:
                self.count.exclude(home)
                self._removed.discard(home)
            yield

    def _steps(
        self,
        wanted: Set[str],
        more: Set[str],
        version: int,
        usage_of: Callable[[str], HomeUsage | None],
        clock: Callable[[], float],
    ) -> LockSteps[None]:
        yield from self.remove()
        for home in (*wanted, *more):
            usage = usage_of(home)
            if usage is not None and usage.counted is None and home not in self._left_out:
                self.counting = home
                try:
                    yield from usage.count(clock)
                except BlockingIOError:
                    raise
                except OSError as error:
                    self._warn(home, str(error))
            self.count.include(home, home in more)
            yield None
        self.count.completed = digest_of(wanted)
        self._counted_version = version
