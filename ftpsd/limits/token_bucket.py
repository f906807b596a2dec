"""So much in a second: token buckets for bytes, and a count for commands, on a clock that is given."""

from __future__ import annotations

from threading import Lock

from ftpsd.system.reactor import Now

#: Seconds of its rate that a bucket holds at most, while it is in use: they make up for waits that ended late on
#: a busy machine. A rest earns nothing, and small files need no credit: a turn is paid afterwards.
BURST = 0.25

#: Seconds of its rate that all who share a bucket move in one round of turns.
ROUND = 0.02

#: Bytes that always may move at once: less would be all headers.
LEAST = 1024

#: Seconds of their rate that commands may come at once. Clients send them in bursts, one for each file of a tree.
COMMAND_BURST = 2


class Bucket:
    """Bytes per second for all who share it, in any threads.

    Who has moved bytes pays for them, and has its next turn at the moment that `pay` returns: when these bytes,
    and those that others had paid for before, have had their time. So the sharers take turns in the order in
    which they paid, and since each may move the same in a turn, each gets the same; what one cannot use, because
    it waits for its client or for another bucket, the rest share. The `LEAST` bytes of each one's next turn are
    paid beforehand, or many at a low rate would all have it at once.
    """

    def __init__(self, rate: int, clock: Now) -> None:
        self.rate = rate
        self._clock = clock
        self._lock = Lock()
        self._sharers = 0
        #: When all that was moved has had its time.
        self.due = clock()

    def pay(self, count: int) -> float:
        """Takes the tokens of bytes that were moved; when who moved them may go on."""
        with self._lock:
            before = LEAST / self.rate
            next_turn = max(self.due - before, self._clock() - BURST) + count / self.rate
            self.due = next_turn + before
            return next_turn

    def enter(self) -> float:
        """One transfer more uses it; when it has its first turn."""
        with self._lock:
            first = max(self.due, self._clock() - (BURST if self._sharers else 0))
            self._sharers += 1
            self.due = first + LEAST / self.rate
            return first

    def leave(self) -> None:
        """One transfer less: it has no next turn."""
        with self._lock:
            self._sharers -= 1
            self.due -= LEAST / self.rate

    def turn(self, since: float) -> int:
        """How many bytes one of the sharers may move in its turn, whose last one began then.

        Its part of a round; or all that nobody has used meanwhile, if it had to wait for another bucket.
        """
        unused = self._clock() - max(self.due, since)
        return max(LEAST, int(self.rate * max(ROUND / max(1, self._sharers), min(unused, BURST))))


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
        """Add the tokens that have come since the last call, and return how many there are."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self._since) * self.rate)
        self._since = now
        return self.tokens

    def take(self, count: float) -> None:
        """Take tokens, whether they are there or not."""
        self.tokens = max(-self.rate, self.tokens - count)

    def put_back(self, count: float) -> None:
        """Put tokens back."""
        self.tokens = min(self.burst, self.tokens + count)

    def seconds_until(self, count: float) -> float:
        """Return the seconds until there are so many tokens."""
        return max(0.0, (count - self.tokens) / self.rate)


class CommandRate:
    """Commands per second of one session. It is asked only when a credit is used up: the count is the caller's."""

    def __init__(self, rate: int, clock: Now) -> None:
        self.rate = rate
        #: The first credit, and the most that can be earned.
        self.burst = rate * COMMAND_BURST
        #: Seconds to wait when nothing was earned.
        self.pause = max(0.05, 1 / rate)
        #: Whether anybody had to wait; for who tells it.
        self.exceeded = False
        self._clock = clock
        self._bucket = TokenBucket(rate, self.burst, clock())
        self._bucket.tokens = 0.0  # the first credit is the caller's

    def earn(self) -> int:
        """The commands that have been earned since the last credit; 0: too early."""
        earned = int(self._bucket.refill(self._clock()))
        self._bucket.take(earned)
        return earned
