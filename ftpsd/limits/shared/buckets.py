"""A token bucket that processes share: SharedTokenBucket."""

from __future__ import annotations

from typing import Final

from ftpsd.limits.shared.locks import TolerantLock
from ftpsd.limits.shared.slot import Slot

#: The fields of a slot with the tokens, and with the time until which they were added; 0 in a new slot.
_TOKENS, _SINCE = 0, 1


class SharedTokenBucket:
    """The tokens of all processes, in a slot of the table: see `system.token_bucket.TokenBucket`.

    It does without its lock if a process that was stopped holds that.
    """

    def __init__(self, slot: Slot, rate: float, burst: float, now: float) -> None:
        self.rate: Final = rate
        self._burst = burst
        self._fields = slot.floats
        self._slot = slot
        self._lock = TolerantLock(slot.lock())
        with self._lock:
            if not self._fields[_SINCE]:
                self._fields[_TOKENS], self._fields[_SINCE] = burst, now

    @property
    def tokens(self) -> float:
        """The tokens at the last `refill`, less what was taken since; below 0 is a debt."""
        return self._fields[_TOKENS]

    def refill(self, now: float) -> float:
        """Add the tokens for the time since the last call. Return the number of tokens in the bucket."""
        fields = self._fields
        with self._lock:
            tokens = min(self._burst, fields[_TOKENS] + max(0.0, now - fields[_SINCE]) * self.rate)
            fields[_TOKENS], fields[_SINCE] = tokens, max(now, fields[_SINCE])
        return tokens

    def take(self, count: float) -> None:
        """Take tokens. The number of tokens may become negative."""
        with self._lock:
            self._fields[_TOKENS] = max(-self.rate, self._fields[_TOKENS] - count)

    def put_back(self, count: float) -> None:
        """Put tokens back."""
        with self._lock:
            self._fields[_TOKENS] = min(self._burst, self._fields[_TOKENS] + count)

    def seconds_until(self, count: float) -> float:
        """Return the seconds until there are so many tokens."""
        return max(0.0, (count - self._fields[_TOKENS]) / self.rate)
