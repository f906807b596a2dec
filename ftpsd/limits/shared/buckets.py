"""A token bucket that processes share: SharedTokenBucket."""

from __future__ import annotations

from typing import Final

from ftpsd.limits.shared.locks import TolerantLock
from ftpsd.limits.shared.slot import Slot

#: The fields of a slot with the tokens, and with the time until which they were added; 0 in a new slot.
_TOKENS, _SINCE = 0, 1

#: The part of the burst that a process takes at once: most of its commands then need no lock.
_PART = 0.05


class SharedTokenBucket:
    """The tokens of all processes, in a slot of the table: see `system.token_bucket.TokenBucket`.

    Each process takes some tokens in advance, and returns what is left over. It does without the lock if a process that
    was stopped holds that.
    """

    def __init__(self, slot: Slot, rate: float, burst: float, now: float) -> None:
        self.rate: Final = rate
        #: The tokens that this process has taken in advance; below 0 is a debt.
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
        """Take tokens from the others' if this process has none. Return its tokens."""
        if self.tokens > 0:
            return self.tokens
        fields = self._fields
        with self._lock:
            tokens = min(self._burst, fields[_TOKENS] + max(0.0, now - fields[_SINCE]) * self.rate)
            taken = max(0.0, min(tokens, self._most - self.tokens))
            fields[_TOKENS], fields[_SINCE] = tokens - taken, max(now, fields[_SINCE])
        self.tokens += taken
        return self.tokens

    def take(self, count: float) -> None:
        """Take tokens. The number of tokens may become negative."""
        self.tokens = max(-self.rate, self.tokens - count)

    def put_back(self, count: float) -> None:
        """Put tokens back."""
        self.tokens += count
        surplus = self.tokens - 2 * self._most
        if surplus > 0:
            self.tokens -= surplus
            with self._lock:
                self._fields[_TOKENS] = min(self._burst, self._fields[_TOKENS] + surplus)

    def seconds_until(self, count: float) -> float:
        """Return the seconds until there are so many tokens."""
        return max(0.0, (count - self.tokens - max(0.0, self._fields[_TOKENS])) / self.rate)
