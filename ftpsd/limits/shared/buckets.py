"""A token bucket that processes share: SharedTokenBucket; and one that they share later: LateBucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ftpsd.limits.shared.locks import TolerantLock
from ftpsd.limits.shared.patience import TableBusy
from ftpsd.limits.shared.slot import Slot
from ftpsd.system.token_bucket import Bucket, TokenBucket

#: The fields of a slot with the tokens, and with the time until which they were added; 0 in a new slot.
_TOKENS, _SINCE = 0, 1

#: The part of the burst that a process takes at once: most of its commands then need no lock.
_PART = 0.05

#: The most seconds to wait for tokens: other processes take them as well, and put some back.
_LONGEST = 0.1

#: The columns of a slot with the time since when a process has waited, 0 if it does not, and with the time when it has
#: looked for tokens. Both in milliseconds. One that has not looked for so many of them does not wait any more.
_WAITS, _LOOKED = 0, 1
_FORGOTTEN = 250


class SharedTokenBucket:
    """The tokens of all processes, in a slot of the table: see `system.token_bucket.TokenBucket`.

    Each process takes some tokens in advance. A debt is one of all processes: with debts of its own, one would have to
    wait while another one takes all tokens that come. When tokens are short, the process that has waited longest gets
    them. The bucket does without the lock if a process that was stopped holds that.
    """

    def __init__(self, slot: Slot, rate: float, burst: float, now: float) -> None:
        self.rate: Final = rate
        #: The tokens that this process has taken in advance.
        self.tokens = 0.0
        self._burst = burst
        self._most = max(1.0, burst * _PART)
        self._fields = slot.floats
        self._slot = slot
        self._lock = TolerantLock(slot.lock())
        with self._lock:
            if not self._fields[_SINCE]:
                self._fields[_TOKENS], self._fields[_SINCE] = burst, now
        self.refill(now)

    def refill(self, now: float) -> float:
        """Take tokens from those of all processes in advance, if this one has none. Return how many it has."""
        if self.tokens > 0:
            return self.tokens
        fields = self._fields
        with self._lock:
            tokens = min(self._burst, fields[_TOKENS] + max(0.0, now - fields[_SINCE]) * self.rate)
            self.tokens = min(tokens, self._most) if self._may_take(tokens, max(1, int(1000 * now))) else 0.0
            fields[_TOKENS], fields[_SINCE] = tokens - self.tokens, max(now, fields[_SINCE])
        return self.tokens

    def _may_take(self, tokens: float, now: int) -> bool:
        """Return whether it is the turn of this process. If not, it waits from now on."""
        slot = self._slot
        waits = slot.own(_WAITS)
        since = waits or now
        others = zip(slot.numbers(_WAITS), slot.numbers(_LOOKED), strict=True)
        may = tokens > 0 and not any(0 < each < since and looked >= now - _FORGOTTEN for each, looked in others)
        slot.add(_WAITS, (0 if may else since) - waits)
        slot.add(_LOOKED, now - slot.own(_LOOKED))
        return may

    def take(self, count: float) -> None:
        """Take tokens. If this process has too few, all processes owe the rest, up to the tokens of one second."""
        self.tokens -= count
        if self.tokens < 0:
            with self._lock:
                self._fields[_TOKENS] = max(-self.rate, self._fields[_TOKENS] + self.tokens)
            self.tokens = 0.0

    def put_back(self, count: float) -> None:
        """Put tokens back, for all processes."""
        with self._lock:
            self._fields[_TOKENS] = min(self._burst, self._fields[_TOKENS] + count)

    def seconds_until(self, count: float) -> float:
        """Return the seconds until there may be so many tokens, or until the caller should look again."""
        return min(_LONGEST, max(0.0, (count - self.tokens - self._fields[_TOKENS]) / self.rate))


class LateBucket:
    """A bucket of this process alone, until a command finds the shared one, which may raise TableBusy.

    What was taken until then is taken from the shared one.
    """

    def __init__(self, rate: float, burst: float, now: float, find: Callable[[float], Bucket]) -> None:
        self.rate: Final = rate
        self._own = TokenBucket(rate, burst, now)
        self._find = find
        self._shared: Bucket | None = None

    @property
    def _bucket(self) -> Bucket:
        return self._shared or self._own

    @property
    def tokens(self) -> float:
        """See `Bucket`."""
        return self._bucket.tokens

    def refill(self, now: float) -> float:
        """See `Bucket`. Try to find the shared bucket before."""
        if self._shared is None:
            tokens = self._own.refill(now)
            try:
                self._shared = self._find(now)
            except TableBusy:
                return tokens
            self._shared.take(self._own.burst - tokens)
        return self._shared.refill(now)

    def take(self, count: float) -> None:
        """See `Bucket`."""
        self._bucket.take(count)

    def put_back(self, count: float) -> None:
        """See `Bucket`."""
        self._bucket.put_back(count)

    def seconds_until(self, count: float) -> float:
        """See `Bucket`."""
        return self._bucket.seconds_until(count)
