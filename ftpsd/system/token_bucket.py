"""A token bucket for what comes at a rate, such as commands and log lines: TokenBucket. The caller passes the time."""

from __future__ import annotations

from typing import Protocol


class Bucket(Protocol):
    """A token bucket, in this process or in memory that processes share: see TokenBucket."""

    @property
    def rate(self) -> float:
        """The tokens that come in a second."""

    @property
    def tokens(self) -> float:
        """The tokens at the last `refill`, less what was taken since; below 0 is a debt."""

    def refill(self, now: float) -> float:
        """Add the tokens for the time since the last call. Return the number of tokens in the bucket."""

    def take(self, count: float) -> None:
        """Take tokens. The number of tokens may become negative."""

    def put_back(self, count: float) -> None:
        """Put tokens back."""

    def seconds_until(self, count: float) -> float:
        """Return the seconds until there are so many tokens."""


class TokenBucket:
    """Tokens that come at a rate, `burst` of them at most. For one thread.

    More may be taken than there are. The debt is one second's tokens at most, so that nobody pays for it long.
    """

    __slots__ = ("_since", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        #: The tokens at the last `refill`, less what was taken since; below 0 is a debt.
        self.tokens = burst
        self._since = now

    def refill(self, now: float) -> float:
        """Add the tokens for the time since the last call. Return the number of tokens in the bucket."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self._since) * self.rate)
        self._since = now
        return self.tokens

    def take(self, count: float) -> None:
        """Take tokens. The number of tokens may become negative."""
        self.tokens = max(-self.rate, self.tokens - count)

    def put_back(self, count: float) -> None:
        """Put tokens back."""
        self.tokens = min(self.burst, self.tokens + count)

    def seconds_until(self, count: float) -> float:
        """Return the seconds until there are so many tokens."""
        return max(0.0, (count - self.tokens) / self.rate)
