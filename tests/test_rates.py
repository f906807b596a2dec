"""Rate limits on a clock that the test sets: amounts and fairness, and the limit for commands."""

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
    """A clock that stands still until the test advances it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pipe:
    """A data connection whose client always has more to send, optionally at a limited rate."""

    def __init__(self, clock: Clock, rate: float | None = None) -> None:
        self.moved = 0
        self.rate = rate
        self._clock, self._start = clock, clock.now

    def receive(self, buffer: memoryview) -> Steps:
        """Receive what has arrived, if it fits."""
        count = len(buffer)
        while self.rate is not None:
            arrived = int(self.rate * (self._clock.now - self._start)) - self.moved
            if arrived:
                count = min(count, arrived)
                break
            yield Pause(0.01)
        self.moved += count
        return count

    def open(self) -> Iterator[None]:
        """Open nothing."""
        return iter(())

    finish_receiving = finish_sending = open


def endless(connection: Pipe, _: bool, __: object) -> Steps:
    """An upload without end."""
    buffer = memoryview(bytearray(512 * 1024))
    while True:
        yield from connection.receive(buffer)
        yield None


def run(clock: Clock, transfers: Sequence[Steps], late: Callable[[int], float] = lambda _: 0.001) -> None:
    """Run transfers for some seconds of the clock; each wait of a transfer ends `late` seconds too late."""
    end = clock.now + SECONDS
    queue = [(clock.now, number) for number in range(len(transfers))]
    while queue[0][0] < end:
        moment, number = heapq.heappop(queue)
        clock.now = max(clock.now, moment)
        while not isinstance(step := next(transfers[number]), Pause):
            pass
        heapq.heappush(queue, (clock.now + step.seconds + late(number), number))


def moved_by(
    clock: Clock,
    *sharing: Sequence[RateLimit],
    pipes: Sequence[Pipe] = (),
    late: Callable[[int], float] = lambda _: 0.001,
) -> list[int]:
    """Return the bytes that transfers move in that time, each with its own rate limits."""
    pipes = pipes or [Pipe(clock) for _ in sharing]
    transfers = [
        throttled(endless, limits, clock)(pipe, False, None) for pipe, limits in zip(pipes, sharing, strict=True)
    ]
    run(clock, transfers, late)
    for transfer in transfers:
        transfer.close()
    return [pipe.moved for pipe in pipes]


@few
@given(rate=st.integers(10_240, 10**9))
def test_a_rate_is_kept(rate: int) -> None:
    """The rate is kept within 5 % over ten seconds, from 10 KiB/s to 1 GB/s."""
    clock = Clock()
    (moved,) = moved_by(clock, [RateLimit(rate, clock)])
    assert moved == pytest.approx(rate * SECONDS, rel=0.05)


@few
@given(late=st.lists(st.floats(0, 0.2), min_size=1), rested=st.floats(0, 1e6))
def test_late_waits_do_not_change_the_rate(late: list[float], rested: float) -> None:
    """Waits that end late on a busy machine, or a long pause before the transfer, do not change the rate."""
    clock = Clock()
    limit = RateLimit(1_000_000, clock)
    clock.now += rested
    pipe = Pipe(clock)
    delays = iter(late * 10_000)
    run(clock, [throttled(endless, [limit], clock)(pipe, False, None)], lambda _: next(delays))
    assert pipe.moved == pytest.approx(1_000_000 * SECONDS, rel=0.05)


@pytest.mark.parametrize("sessions", range(2, 11))
def test_a_shared_bucket_is_fair(sessions: int) -> None:
    """Two to ten sessions that share a rate get equal parts of it."""
    clock = Clock()
    limit = RateLimit(1_000_000, clock)
    moved = moved_by(clock, *[[limit]] * sessions)
    assert sum(moved) == pytest.approx(1_000_000 * SECONDS, rel=0.05)
    for each in moved:
        assert each == pytest.approx(1_000_000 * SECONDS / sessions, rel=0.05)


@pytest.mark.parametrize("late", [(0.05, 0), (0.03, 0.001, 0.001), (0.1, 0.0, 0.05), (0.1, 0.01, 0.01, 0.01)])
def test_late_turns_are_made_up_for(late: tuple[float, ...]) -> None:
    """Sessions get equal parts, also if the turns of some always begin later: a process waits longer for a processor."""
    clock = Clock()
    moved = moved_by(clock, *[[RateLimit(2_000_000, clock)]] * len(late), late=lambda number: late[number])
    assert sum(moved) == pytest.approx(2_000_000 * SECONDS, rel=0.05)
    for each in moved:
        assert each == pytest.approx(2_000_000 * SECONDS / len(late), rel=0.05)


@few
@given(data=st.data(), sessions=st.integers(2, 6))
def test_turns_that_are_late_now_and_then(data: st.DataObject, sessions: int) -> None:
    """Delays of any pattern change neither the rate nor the equal parts."""
    clock = Clock()
    delays = [
        iter(data.draw(st.lists(st.sampled_from([0.0, 0.002, 0.02, 0.1]), min_size=1, max_size=30)) * 10_000)
        for _ in range(sessions)
    ]
    moved = moved_by(clock, *[[RateLimit(2_000_000, clock)]] * sessions, late=lambda number: next(delays[number]))
    assert sum(moved) == pytest.approx(2_000_000 * SECONDS, rel=0.05)
    for each in moved:
        assert each == pytest.approx(2_000_000 * SECONDS / sessions, rel=0.05)


def test_a_slow_session_misses_its_part() -> None:
    """A session whose client took little for seconds, and takes all then, gets an equal part from then on, not more."""
    clock = Clock()
    limit, pipes = RateLimit(1_000_000, clock), [Pipe(clock, 1000), Pipe(clock)]
    transfers = [throttled(endless, [limit], clock)(pipe, False, None) for pipe in pipes]
    run(clock, transfers)
    before = [pipe.moved for pipe in pipes]
    pipes[0].rate = None
    run(clock, transfers)
    for pipe, moved in zip(pipes, before, strict=True):
        assert pipe.moved - moved == pytest.approx(500_000 * SECONDS, rel=0.05)


@pytest.mark.parametrize(("rate", "sessions"), [(20_480, 5), (10_240, 30), (10_240, 100)])
def test_many_sessions_share_a_low_rate(rate: int, sessions: int) -> None:
    """Sessions that begin together do not each get a free first turn."""
    clock = Clock()
    moved = moved_by(clock, *[[RateLimit(rate, clock)]] * sessions)
    assert sum(moved) == pytest.approx(rate * SECONDS, rel=0.05)


def test_unused_parts_are_shared() -> None:
    """Slow sessions get what they can use, and the others share the rest."""
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
    """The limits of the session, the user and the server hold together.

    Two users with two sessions each, and one with one.
    """
    clock = Clock()
    server, alice = RateLimit(1_000_000, clock), RateLimit(200_000, clock)
    sharing = [[alice, server], [RateLimit(20_000, clock), alice, server], [server], [server]]
    quick, slow, *bob = moved_by(clock, *sharing)
    assert slow == pytest.approx(20_000 * SECONDS, rel=0.05)
    assert quick == pytest.approx(180_000 * SECONDS, rel=0.05)
    for each in bob:
        assert each == pytest.approx(400_000 * SECONDS, rel=0.05)


def test_small_transfers_are_charged() -> None:
    """A thousand small transfers in a row are no faster than one large transfer."""
    clock = Clock()
    limit = RateLimit(100_000, clock)
    began, pipe = clock.now, Pipe(clock)

    def small(connection: Pipe, _: bool, __: object) -> Steps:
        yield from connection.receive(memoryview(bytearray(1000)))

    for _ in range(1000):
        for step in throttled(small, [limit], clock)(pipe, False, None):
            clock.now += step.seconds if isinstance(step, Pause) else 0
    assert clock.now - began == pytest.approx(SECONDS, rel=0.05)


def test_a_pause_gives_no_credit() -> None:
    """A client gets no credit for an hour without transfers, and a little for turns that it had to wait for."""
    clock = Clock()
    limit = RateLimit(1000, clock)
    clock.now += 3600
    turns = limit.join()
    assert turns.first == clock.now
    assert turns.charge(1000) == pytest.approx(clock.now + 1)
    clock.now += 3600
    assert turns.charge(1000) == pytest.approx(clock.now + 1 - BURST)


@given(steps=st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 3000)), max_size=50))
def test_commands_are_counted(steps: list[tuple[float, int]]) -> None:
    """No more commands pass than the burst and the rate allow, and waiting ones continue whatever the clock does."""
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
