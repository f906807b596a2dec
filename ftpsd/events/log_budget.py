"""Limit the log lines that a client can cause: LogBudget.

Each client network without a login (IPv4: an address, IPv6: a /64) has a token bucket of lines, and so have all of them
together. The bucket of a user is larger, and applies only to lines about commands that change nothing. Omitted lines
are counted, and their number is logged each minute. Failed logins and bans are always logged: fail2ban has to see each,
and they are rare (a password takes long to check, and `limits.commands_per_second_before_login` bounds them).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from twisted.logger import Logger

from ftpsd.system.reactor import Clock, Now
from ftpsd.system.token_bucket import TokenBucket

log = Logger(namespace="ftpsd")

#: Seconds between two reports of omitted lines, and the number of sources that a report names.
REPORT_INTERVAL = 60
NAMED_SOURCES = 20

#: The number of sources that have a bucket, and that are counted by name.
CAPACITY = 10_000


class Rate(NamedTuple):
    """Lines at once, and lines per second."""

    burst: int
    rate: float


#: Enough for fifty clients behind one address that log in at once with ten lines each, twice.
STRANGER = Rate(1000, 10)
ALL_STRANGERS = Rate(5000, 50)
USER = Rate(10_000, 100)


class LogBudget:
    """The buckets of all sources. All methods must be called in the reactor thread."""

    def __init__(self, reactor: Clock) -> None:
        self._now: Now = reactor.seconds
        self._call_later = reactor.callLater
        self._sources: OrderedDict[str, TokenBucket] = OrderedDict()
        self._strangers = TokenBucket(ALL_STRANGERS.rate, ALL_STRANGERS.burst, self._now())
        self._omitted: Counter[str] = Counter()

    def admits_stranger(self, network: str) -> bool:
        """Return whether a line about a client without a login may be logged; count it if not."""
        now = self._now()
        bucket = self._bucket(network, STRANGER, now)
        if bucket.refill(now) >= 1 and self._strangers.refill(now) >= 1:
            bucket.take(1)
            self._strangers.take(1)
            return True
        return self._omit(network)

    def admits_user(self, name: str) -> bool:
        """Return whether a line about a session of a user may be logged; count it if not."""
        now = self._now()
        bucket = self._bucket(f"user {name}", USER, now)
        if bucket.refill(now) >= 1:
            bucket.take(1)
            return True
        return self._omit(f"user {name}")

    def _bucket(self, source: str, rate: Rate, now: float) -> TokenBucket:
        bucket = self._sources.get(source)
        if bucket is None:
            bucket = self._sources[source] = TokenBucket(rate.rate, rate.burst, now)
            if len(self._sources) > CAPACITY:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(source)
        return bucket

    def _omit(self, source: str) -> bool:
        if not self._omitted:
            self._call_later(REPORT_INTERVAL, self._report)
        if len(self._omitted) < CAPACITY or source in self._omitted:
            self._omitted[source] += 1
        else:
            self._omitted["others"] += 1
        return False

    def _report(self) -> None:
        omitted, self._omitted = self._omitted, Counter()
        most = omitted.most_common(NAMED_SOURCES)
        rest = omitted.total() - sum(count for _, count in most)
        for source, count in [*most, *([("others", rest)] if rest else [])]:
            log.warn("… {count} more lines of {source} were omitted", count=f"{count:,}", source=source)
