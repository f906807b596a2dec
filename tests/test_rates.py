"""Rate limits on a clock of the test's own: how much, how fair; and a count for commands."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpsd.data.endpoints import Pause, Steps
from ftpsd.data.throttle import throttled
from ftpsd.limits.token_bucket import BURST, CommandRate, RateLimit

SECONDS = 10.0

#: Each example is thousands of turns.
few = settings(max_examples=15, deadline=None)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pipe:
    """A data connection from a client that always has more; or only so much in a second, from now on."""

    def __init__(self, clock: Clock, rate: float | None = None) -> None:
        self.moved = 0
        self._clock, self._rate, self._start = clock, rate, clock.now

    def receive(self, buffer: memoryview) -> Steps:
        """What has arrived, if it fits."""
        count = len(buffer)
        if self._rate is not None:
            while not (arrived := int(self._rate * (self._clock.now - self._start)) - self.moved):
                yield Pause(0.01)
            count = min(count, arrived)
        self.moved += count
        return count

    def open(self) -> Iterator[None]:
        """Nothing to do."""
        return iter(())

    finish_receiving = finish_sending = open


def endless(connection: Pipe, _: object, __: bool) -> Steps:
    """An upload that does not end."""
    buffer = memoryview(bytearray(512 * 1024))
    while True:
        yield from connection.receive(buffer)
        yield None


def run(clock: Clock, transfers: Sequence[Steps], late: Callable[[], float] = lambda: 0.001) -> None:
    """Runs transfers for some seconds of the clock, each wait `late` too long."""
    end = clock.now + SECONDS
    queue = [(clock.now, number) for number in range(len(transfers))]
    while queue[0][0] < end:
        moment, number = heapq.heappop(queue)
        clock.now = max(clock.now, moment)
        while not isinstance(step := next(transfers[number]), Pause):
            pass
        heapq.heappush(queue, (clock.now + step.seconds + late(), number))
    for transfer in transfers:
        transfer.close()


def moved_by(clock: Clock, *sharing: Sequence[RateLimit], pipes: Sequence[Pipe] = ()) -> list[int]:
    """What transfers move in those seconds, each through its rate limits."""
    pipes = pipes or [Pipe(clock) for _ in sharing]
    run(
        clock,
        [throttled(endless, limits, clock)(pipe, None, False) for pipe, limits in zip(pipes, sharing, strict=True)],
    )
    return [pipe.moved for pipe in pipes]


@few
@given(rate=st.integers(10_240, 10**9))
def test_a_rate_is_kept(rate: int) -> None:
    """Within 5 % over ten seconds, from 10 KiB to a gigabyte in a second."""
    clock = Clock()
    (moved,) = moved_by(clock, [RateLimit(rate, clock)])
    assert moved == pytest.approx(rate * SECONDS, rel=0.05)


@few
@given(late=st.lists(st.floats(0, 0.2), min_size=1), rested=st.floats(0, 1e6))
def test_waits_that_end_late_are_made_up_for(late: list[float], rested: float) -> None:
    """A busy machine, or a long rest before the transfer, changes nothing of it."""
    clock = Clock()
    limit = RateLimit(1_000_000, clock)
    clock.now += rested
    pipe = Pipe(clock)
    delays = iter(late * 10_000)
    run(clock, [throttled(endless, [limit], clock)(pipe, None, False)], lambda: next(delays))
    assert pipe.moved == pytest.approx(1_000_000 * SECONDS, rel=0.05)


@pytest.mark.parametrize("sessions", range(2, 11))
def test_a_shared_bucket_is_fair(sessions: int) -> None:
    """Two to ten sessions that share a rate get the same, and together the rate."""
    clock = Clock()
    limit = RateLimit(1_000_000, clock)
    moved = moved_by(clock, *[[limit]] * sessions)
    assert sum(moved) == pytest.approx(1_000_000 * SECONDS, rel=0.05)
    for each in moved:
        assert each == pytest.approx(1_000_000 * SECONDS / sessions, rel=0.05)


@pytest.mark.parametrize(("rate", "sessions"), [(20_480, 5), (10_240, 30), (10_240, 100)])
def test_many_sessions_share_a_low_rate(rate: int, sessions: int) -> None:
    """Sessions that begin together have not each a first turn for nothing."""
    clock = Clock()
    moved = moved_by(clock, *[[RateLimit(rate, clock)]] * sessions)
    assert sum(moved) == pytest.approx(rate * SECONDS, rel=0.05)


def test_what_one_may_not_use_the_others_share() -> None:
    """A session with a low rate of its own gets that, one with a slow client what it takes, and the rest is divided."""
    clock = Clock()
    server = RateLimit(1_000_000, clock)
    low = [RateLimit(50_000, clock), server]
    pipes = [Pipe(clock), Pipe(clock, 30_000), *(Pipe(clock) for _ in range(8))]
    first, slow, *rest = moved_by(clock, low, *[[server]] * 9, pipes=pipes)
    assert first == pytest.approx(50_000 * SECONDS, rel=0.05)
    assert slow == pytest.approx(30_000 * SECONDS, rel=0.05)
    for each in rest:
        assert each == pytest.approx(920_000 * SECONDS / 8, rel=0.05)


def test_three_rate_limits_at_once() -> None:
    """The session's, the user's and the server's hold together: two users with two sessions each, and one with one."""
    clock = Clock()
    server, alice = RateLimit(1_000_000, clock), RateLimit(200_000, clock)
    sharing = [[alice, server], [RateLimit(20_000, clock), alice, server], [server], [server]]
    quick, slow, *bob = moved_by(clock, *sharing)
    assert slow == pytest.approx(20_000 * SECONDS, rel=0.05)
    assert quick == pytest.approx(180_000 * SECONDS, rel=0.05)
    for each in bob:
        assert each == pytest.approx(400_000 * SECONDS, rel=0.05)


def test_small_transfers_are_paid_for() -> None:
    """A thousand small transfers, one after another, are no faster than a large one."""
    clock = Clock()
    limit = RateLimit(100_000, clock)
    began, pipe = clock.now, Pipe(clock)

    def small(connection: Pipe, _: object, __: bool) -> Steps:
        yield from connection.receive(memoryview(bytearray(1000)))

    for _ in range(1000):
        for step in throttled(small, [limit], clock)(pipe, None, False):
            clock.now += step.seconds if isinstance(step, Pause) else 0
    assert clock.now - began == pytest.approx(SECONDS, rel=0.05)


def test_a_rest_earns_nothing() -> None:
    """Who comes back after an hour has no credit; who was kept from moving while it could makes up for a little."""
    clock = Clock()
    limit = RateLimit(1000, clock)
    clock.now += 3600
    assert limit.join() == clock.now
    assert limit.charge(1000) == pytest.approx(clock.now + 1)
    clock.now += 3600
    assert limit.charge(1000) == pytest.approx(clock.now + 1 - BURST)


@given(steps=st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 3000)), max_size=50))
def test_commands_are_counted(steps: list[tuple[float, int]]) -> None:
    """Never more commands than the burst and the rate since; whatever the clock does, they go on in a while."""
    clock = Clock()
    rate = CommandRate(1000, clock)
    allowed, passed = rate.burst, 0.0
    for seconds, _ in steps:
        clock.now += seconds
        passed += max(0.0, seconds)
        allowed += rate.refill()
        assert allowed <= rate.burst + passed * 1000 + 1
    clock.now += 1e-3
    rate.refill()
    clock.now += rate.pause
    assert rate.refill() >= 1
