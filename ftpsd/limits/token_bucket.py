"""Rate limits: RateLimit for the bytes of transfers, CommandRate for commands. The clock is given."""

from __future__ import annotations

from threading import Lock

from ftpsd.system.reactor import Now
from ftpsd.system.token_bucket import TokenBucket

#: Seconds of its rate that an unused rate limit saves at most, while transfers share it. They make up for waits that
#: ended late on a busy machine. An idle rate limit saves nothing. Small files need no savings, since bytes are charged
#: after they have moved.
BURST = 0.25

#: Seconds of its rate that all transfers that share a rate limit move in one round of turns.
ROUND = 0.02

#: Bytes that a transfer may move in each turn, however low the rate is: less would be mostly headers.
MIN_BYTES = 1024

#: Seconds of their rate that commands may come at once. Clients send them in bursts, one for each file of a tree.
COMMAND_BURST = 2


class RateLimit:
    """Bytes per second for all transfers that share it, as a token bucket with a queue. For any thread.

    A transfer is charged after it has moved bytes. Its next turn is when these bytes, and all that were charged before,
    have had their time at this rate. So the transfers take turns in the order in which they were charged, and since all
    may move the same number of bytes in a turn, all get the same rate. What one transfer cannot use, because it waits
    for its client or for another rate limit, the others share. `MIN_BYTES` for the next turn of each transfer are
    charged in advance: otherwise many transfers at a low rate would have their first turn together.
    """

    def __init__(self, rate: int, clock: Now) -> None:
        self.rate = rate
        self._clock = clock
        self._lock = Lock()
        self._transfers = 0
        #: The time at which all bytes that were charged have had their time.
        self.due = clock()

    def charge(self, count: int) -> float:
        """Charge bytes that a transfer has moved. Return the time of its next turn."""
        with self._lock:
            advance = MIN_BYTES / self.rate
            next_turn = max(self.due - advance, self._clock() - BURST) + count / self.rate
            self.due = next_turn + advance
            return next_turn

    def join(self) -> float:
        """Add a transfer. Return the time of its first turn."""
        with self._lock:
            first = max(self.due, self._clock() - (BURST if self._transfers else 0))
            self._transfers += 1
            self.due = first + MIN_BYTES / self.rate
            return first

    def leave(self) -> None:
        """Remove a transfer, which has no next turn."""
        with self._lock:
            self._transfers -= 1
            self.due -= MIN_BYTES / self.rate

    def allowance(self, since: float) -> int:
        """Return the number of bytes that a transfer may move in its turn, if its last turn began at `since`.

        That is its part of a round; or all bytes that nobody has used since, if it had to wait for another rate limit.
        """
        unused = self._clock() - max(self.due, since)
        return max(MIN_BYTES, int(self.rate * max(ROUND / max(1, self._transfers), min(unused, BURST))))


class CommandRate:
    """Commands per second of one session. The caller counts down an allowance, and asks when it is used up."""

    def __init__(self, rate: int, clock: Now) -> None:
        self.rate = rate
        #: The first allowance, and the largest one.
        self.burst = rate * COMMAND_BURST
        #: Seconds until it is worth asking again.
        self.pause = max(0.05, 1 / rate)
        #: Whether commands had to wait, which the caller logs once.
        self.exceeded = False
        self._clock = clock
        self._bucket = TokenBucket(rate, self.burst, clock())
        self._bucket.tokens = 0.0  # the caller has them

    def refill(self) -> int:
        """Return how many commands may follow; 0 if it is too early for the next one."""
        allowed = int(self._bucket.refill(self._clock()))
        self._bucket.take(allowed)
        return allowed
