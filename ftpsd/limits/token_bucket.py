"""Rate limits: RateLimit for the bytes of transfers, CommandRate for commands. The clock is given."""

from __future__ import annotations

from contextlib import AbstractContextManager
from threading import Lock
from typing import Protocol

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


class RateState(Protocol):
    """What a rate limit knows: in this process, or in memory that processes share."""

    #: The time at which all bytes that were charged have had their time.
    due: float
    #: Is held while something changes.
    lock: AbstractContextManager[object]

    def transfers(self) -> int:
        """Return how many transfers share the rate limit."""

    def add_transfers(self, difference: int) -> None:
        """Add transfers of this process, or remove them."""


class LocalRateState:
    """The state of a rate limit of this process."""

    __slots__ = ("_transfers", "due", "lock")

    def __init__(self, due: float) -> None:
        self.due = due
        self.lock: AbstractContextManager[object] = Lock()
        self._transfers = 0

    def transfers(self) -> int:
        """Return how many transfers share the rate limit."""
        return self._transfers

    def add_transfers(self, difference: int) -> None:
        """Add transfers, or remove them."""
        self._transfers += difference


class RateLimit:
    """Bytes per second for all transfers that share it, as a token bucket with a queue. For any thread.

    A transfer is charged after it has moved bytes. Its next turn is when these bytes, and all that were charged before,
    have had their time at this rate. So the transfers take turns in the order in which they were charged, and since all
    may move the same number of bytes in a turn, all get the same rate. What one transfer cannot use, because it waits
    for its client or for another rate limit, the others share. `MIN_BYTES` for the next turn of each transfer are
    charged in advance: otherwise many transfers at a low rate would have their first turn together.
    """

    def __init__(self, rate: int, clock: Now, state: RateState | None = None) -> None:
        self.rate = rate
        self._clock = clock
        self._state = state or LocalRateState(clock())

    def charge(self, count: int) -> float:
        """Charge bytes that a transfer has moved. Return the time of its next turn."""
        state = self._state
        with state.lock:
            advance = MIN_BYTES / self.rate
            next_turn = max(state.due - advance, self._clock() - BURST) + count / self.rate
            state.due = next_turn + advance
            return next_turn

    def join(self) -> float:
        """Add a transfer. Return the time of its first turn."""
        state = self._state
        with state.lock:
            first = max(state.due, self._clock() - (BURST if state.transfers() else 0))
            state.add_transfers(1)
            state.due = first + MIN_BYTES / self.rate
            return first

    def leave(self) -> None:
        """Remove a transfer, which has no next turn."""
        with self._state.lock:
            self._state.add_transfers(-1)
            self._state.due -= MIN_BYTES / self.rate

    def allowance(self, since: float) -> int:
        """Return the number of bytes that a transfer may move in its turn, if its last turn began at `since`.

        That is its part of a round; or all bytes that nobody has used since, if it had to wait for another rate limit.
        """
        unused = self._clock() - max(self._state.due, since)
        return max(MIN_BYTES, int(self.rate * max(ROUND / max(1, self._state.transfers()), min(unused, BURST))))


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
