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
    #: The bytes that the transfer that is furthest ahead has moved: others catch up with it.
    lead: float
    #: Is held while something changes.
    lock: AbstractContextManager[object]

    def transfers(self) -> int:
        """Return how many transfers share the rate limit."""

    def add_transfers(self, difference: int) -> None:
        """Add transfers of this process, or remove them."""


class LocalRateState:
    """The state of a rate limit of this process."""

    __slots__ = ("_transfers", "due", "lead", "lock")

    def __init__(self, due: float) -> None:
        self.due = due
        self.lead = 0.0
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
    have had their time at this rate. So the transfers take turns in the order in which they were charged. What one
    transfer cannot use, because it waits for its client or for another rate limit, the others share. `MIN_BYTES` for
    the next turn of each transfer are charged in advance: otherwise many transfers at a low rate would have their first
    turn together.

    All get the same rate, also those whose turns begin late because their process or thread had to wait for a
    processor: they move in their next turns what the transfer that is furthest ahead has moved meanwhile.
    """

    def __init__(self, rate: int, clock: Now, state: RateState | None = None) -> None:
        self.rate = rate
        self.clock = clock
        self.state = state or LocalRateState(clock())

    def join(self) -> Turns:
        """Add a transfer."""
        return Turns(self)


class Turns:
    """The turns of one transfer at a rate limit. For any thread, but one at a time."""

    __slots__ = ("_limit", "_moved", "_state", "first")

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._state = state = limit.state
        with state.lock:
            #: The time of the first turn.
            self.first = max(state.due, limit.clock() - (BURST if state.transfers() else 0))
            state.add_transfers(1)
            state.due = self.first + MIN_BYTES / limit.rate
            #: The bytes that it has moved, as if it had moved as many before as the others.
            self._moved = state.lead

    def charge(self, count: int) -> float:
        """Charge bytes that were moved. Return the time of the next turn."""
        state, rate = self._state, self._limit.rate
        with state.lock:
            advance = MIN_BYTES / rate
            next_turn = max(state.due - advance, self._limit.clock() - BURST) + count / rate
            state.due = next_turn + advance
            self._moved = max(self._moved, state.lead - BURST * rate) + count
            state.lead = max(state.lead, self._moved)
            return next_turn

    def leave(self) -> None:
        """Remove the transfer, which has no next turn."""
        with self._state.lock:
            self._state.add_transfers(-1)
            self._state.due -= MIN_BYTES / self._limit.rate

    def allowance(self, since: float) -> int:
        """Return the number of bytes that may move in this turn, if the last turn began at `since`.

        That is the transfer's part of a round; or what it is behind the others, and at most its part of the time of
        `BURST`; or all bytes that nobody has used since, if it had to wait for another rate limit.
        """
        state, rate = self._state, self._limit.rate
        transfers = max(1, state.transfers())
        unused = min(self._limit.clock() - max(state.due, since), BURST)
        behind = min(state.lead - self._moved, rate * BURST / transfers)
        return int(max(MIN_BYTES, behind, rate * max(ROUND / transfers, unused)))


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
