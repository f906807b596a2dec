"""How many log lines a client may cause: strangers must not choose the size of the log.

Each address of strangers (IPv6: each /64) has a budget of lines, and so have all strangers together. A user's budget is
larger, and only for lines that change nothing. What a budget leaves out is counted, and the log tells the number each
minute. Failed logins and bans are no part of this: fail2ban has to see each, and they are rare (a password takes long
to check, and `limits.commands_per_second_before_login` bounds them).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from twisted.logger import Logger

from ftpsd.system.reactor import Clock, Now

log = Logger(namespace="ftpsd")

#: Seconds between two reports of what was left out, and how many sources one names.
REPORT = 60
NAMED = 20

#: Sources that are remembered.
CAPACITY = 10_000


class Rate(NamedTuple):
    """So many lines at once, and so many in a second."""

    burst: int
    rate: float


#: Fifty clients behind one address log in at once with ten lines each, twice over.
STRANGER = Rate(1000, 10)
ALL_STRANGERS = Rate(5000, 50)
USER = Rate(10_000, 100)


class Bucket:
    """What is left of a rate."""

    __slots__ = ("_left", "_rate", "_since")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._since = now

    def refill(self, now: float) -> bool:
        """Add the lines allowed since the last call. Return whether at least one line may be written."""
        self._left = min(self._rate.burst, self._left + max(0.0, now - self._since) * self._rate.rate)
        self._since = now
        return self._left >= 1

    def take(self) -> None:
        """Use up one line."""
        self._left -= 1


class LogBudget:
    """The budgets of all sources. All methods must be called in the reactor thread."""

    def __init__(self, reactor: Clock) -> None:
        self._now: Now = reactor.seconds
        self._call_later = reactor.callLater
        self._sources: OrderedDict[str, Bucket] = OrderedDict()
        self._strangers = Bucket(ALL_STRANGERS, self._now())
        self._left_out: Counter[str] = Counter()

    def admits_stranger(self, network: str) -> bool:
        """Whether a line about a client without a login may be written."""
        now = self._now()
        own = self._of(network, STRANGER, now)
        if own.refill(now) and self._strangers.refill(now):
            own.take()
            self._strangers.take()
            return True
        return self._leave_out(network)

    def admits_user(self, name: str) -> bool:
        """Whether a line about a user's session may be written."""
        now = self._now()
        own = self._of(f"user {name}", USER, now)
        if own.refill(now):
            own.take()
            return True
        return self._leave_out(f"user {name}")

    def _of(self, source: str, rate: Rate, now: float) -> Bucket:
        bucket = self._sources.get(source)
        if bucket is None:
            bucket = self._sources[source] = Bucket(rate, now)
            if len(self._sources) > CAPACITY:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(source)
        return bucket

    def _leave_out(self, source: str) -> bool:
        if not self._left_out:
            self._call_later(REPORT, self._report)
        if len(self._left_out) < CAPACITY or source in self._left_out:
            self._left_out[source] += 1
        else:
            self._left_out["others"] += 1
        return False

    def _report(self) -> None:
        left_out, self._left_out = self._left_out, Counter()
        most = left_out.most_common(NAMED)
        rest = left_out.total() - sum(count for _, count in most)
        for source, count in [*most, *([("others", rest)] if rest else [])]:
            log.warn("… {count} more lines of {source} were left out", count=f"{count:,}", source=source)
