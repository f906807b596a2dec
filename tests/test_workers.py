"""Worker threads, and calls from them into the reactor thread."""

from __future__ import annotations

import itertools
import select
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import pytest
from twisted.internet.task import Clock

from ftpsd.protocol.replies import Refusal
from ftpsd.system import worker_threads
from ftpsd.system.jobs import fair_queue
from ftpsd.system.jobs.fair_queue import MOST_WALKS
from ftpsd.system.reactor_calls import ReactorCalls
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE
from tests.hostile import wait_until


class Reactor:
    """The part of a reactor that ReactorCalls uses: it watches one descriptor."""

    def __init__(self) -> None:
        self._readers: list[Any] = []
        self.addReader: Callable[[Any], None] = self._readers.append
        self.removeReader: Callable[[Any], None] = self._readers.remove

    def run_once(self) -> None:
        """Wait until the descriptor is readable, and let it be read."""
        readable, _, _ = select.select(self._readers, [], [], PATIENCE)
        readable[0].doRead()

    @property
    def quiet(self) -> bool:
        """Whether the descriptor is not readable."""
        return not select.select(self._readers, [], [], 0)[0]


def test_a_call_that_raises_does_not_stop_the_others() -> None:
    """Of calls that the reactor makes in one turn, each is made, even if another one raises."""
    reactor, made = Reactor(), list[int]()
    calls = ReactorCalls(reactor)
    calls.start()
    calls.put(made.append, 1)
    calls.put(lambda: 1 // 0)
    calls.put(made.append, 2)
    reactor.run_once()
    assert made == [1, 2]
    assert reactor.quiet


def test_calls_of_several_threads_keep_their_order() -> None:
    """All calls that several threads put at the same time are made, those of each thread in their order."""
    reactor, made = Reactor(), list[tuple[int, int]]()
    calls = ReactorCalls(reactor)
    calls.start()

    def put(thread: int) -> None:
        for number in range(2_000):
            calls.put(made.append, (thread, number))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    while len(made) < 8_000:
        reactor.run_once()
    for each in threads:
        each.join()
        assert [n for t, n in made if t == threads.index(each)] == list(range(2_000))


def test_stop_makes_the_calls_that_wait() -> None:
    """Stopping makes the calls that were put before."""
    reactor, made = Reactor(), list[int]()
    calls = ReactorCalls(reactor)
    calls.start()
    calls.put(made.append, 1)
    calls.stop()
    assert made == [1]


class TimedReactor(Reactor, Clock):
    """A reactor whose time passes when the test advances it."""

    def __init__(self) -> None:
        Reactor.__init__(self)
        Clock.__init__(self)


def threads() -> int:
    """Return the number of worker threads."""
    return sum(thread.name == "worker" for thread in threading.enumerate())


@pytest.fixture
def make_pool() -> Iterator[Callable[..., tuple[WorkerThreads, TimedReactor]]]:
    """Return a function that makes pools of worker threads. They are stopped at the end of the test."""
    pools: list[WorkerThreads] = []

    def make(**arguments: Any) -> tuple[WorkerThreads, TimedReactor]:
        reactor = TimedReactor()
        pools.append(pool := WorkerThreads(reactor, **arguments))
        pool.start()
        return pool, reactor

    yield make
    for pool in pools:
        pool.stop()


MakePool = Callable[..., tuple[WorkerThreads, TimedReactor]]


def test_a_limited_number_of_stuck_threads_is_replaced(monkeypatch: pytest.MonkeyPatch, make_pool: MakePool) -> None:
    """Of the threads whose calls do not return, MOST_STUCK at most are replaced.

    When the calls return, all jobs are done, and there are as many threads as before.
    """
    monkeypatch.setattr(worker_threads, "STUCK", 0.0)
    monkeypatch.setattr(worker_threads, "MOST_STUCK", 3)
    disk, begun, before = threading.Event(), list[int](), threads()
    pool, reactor = make_pool(size=4)

    def call(number: int) -> None:
        begun.append(number)
        disk.wait(PATIENCE)

    try:
        for number in range(20):
            pool.queue("alice").submit(partial(call, number))
        for busy in (2, 4, 5, 5, 5):
            wait_until(lambda busy=busy: len(begun) == busy, f"{busy} calls have begun")  # type: ignore[misc]
            reactor.advance(1)
        assert threads() - before == 4 + 3
        disk.set()
        wait_until(lambda: sorted(begun) == list(range(20)), "all calls have begun")
        wait_until(lambda: threads() - before == 4, "the replaced threads have ended")
    finally:
        disk.set()


def test_one_owner_does_not_occupy_all_threads(make_pool: MakePool) -> None:
    """With many jobs of one user, another user's job begins immediately. If all users are stuck, a login still begins."""
    pool, _ = make_pool(size=16)
    disk, begun = threading.Event(), list[str]()

    def call(name: str) -> None:
        begun.append(name)
        disk.wait(PATIENCE)

    try:
        for _ in range(100):
            pool.queue("alice").submit(partial(call, "alice"))
        wait_until(lambda: len(begun) == 7, "half of the threads run alice's jobs")
        for number in range(20):
            pool.queue(f"user{number}").submit(partial(call, "other"))
        wait_until(lambda: len(begun) == 14, "all threads but those for logins are busy")
        pool.queue("192.0.2.1", "login").submit(partial(call, "login"))
        wait_until(lambda: begun[-1] == "login", "the login runs")
        assert begun.count("alice") == 7
    finally:
        disk.set()
    wait_until(lambda: len(begun) == 121, "all is done")


def test_an_owner_has_few_threads_beside_others(monkeypatch: pytest.MonkeyPatch, make_pool: MakePool) -> None:
    """While others have jobs, an owner gets the threads that the processors can use; alone again, half of all."""
    pool, reactor = make_pool(size=16, beside=3)
    disk, begun, answered = threading.Semaphore(0), list[int](), threading.Event()

    def call() -> None:
        begun.append(1)
        disk.acquire(timeout=PATIENCE)

    try:
        for _ in range(30):
            pool.queue("alice").submit(call)
        wait_until(lambda: len(begun) == 7, "half of the threads run alice's jobs")
        pool.queue("bob").submit(answered.set)
        assert answered.wait(PATIENCE)
        disk.release(7)
        wait_until(lambda: len(begun) == 7 + 3, "three more have begun")
        time.sleep(0.1)
        assert len(begun) == 7 + 3
        monkeypatch.setattr(fair_queue, "_BESIDE", 0.0)
        reactor.advance(1)
        wait_until(lambda: len(begun) == 7 + 7, "half of the threads run alice's jobs again")
    finally:
        disk.release(100)
    wait_until(lambda: len(begun) == 30, "all is done")


def test_jobs_in_steps_leave_threads_when_another_owner_comes(make_pool: MakePool) -> None:
    """Jobs that run when another owner gets a job give up their threads until few of them run."""
    pool, _ = make_pool(size=16, beside=3)
    ended, lock, answered = threading.Event(), threading.Lock(), threading.Event()
    running, counts = list[int](), list[int]()

    def steps() -> Iterator[None]:
        while not ended.is_set():
            with lock:
                running.append(1)
                counts.append(len(running))
            time.sleep(0.001)
            with lock:
                running.pop()
            yield

    try:
        for _ in range(7):
            pool.queue("alice").run(steps())
        wait_until(lambda: max(counts, default=0) == 7, "half of the threads run alice's jobs")
        pool.queue("bob").submit(answered.set)
        assert answered.wait(PATIENCE)
        wait_until(lambda: len(counts) > 100 and max(counts[-50:]) == 3, "three run")
        assert max(counts[-50:]) == 3
    finally:
        ended.set()


def test_owners_take_turns(make_pool: MakePool) -> None:
    """Of the jobs that wait, the first of each owner runs before the second of any owner."""
    pool, _ = make_pool(size=1)
    gate, done = threading.Event(), list[str]()
    pool.queue("nobody").submit(lambda: gate.wait(PATIENCE))
    for owner in "aaabbc":
        pool.queue(owner).submit(partial(done.append, owner))
    gate.set()
    wait_until(lambda: len(done) == 6, "all are done")
    assert "".join(done) == "abcaba"


def test_a_job_in_steps_yields_its_thread(make_pool: MakePool) -> None:
    """A job in steps that does not end delays no other job, even on the only thread. It ends when it is cancelled."""
    pool, _ = make_pool(size=1)
    closed, called, steps = threading.Event(), threading.Event(), itertools.count()

    def walk() -> Iterator[None]:
        try:
            for _ in steps:
                yield
        finally:
            closed.set()

    refused: list[Any] = []
    walking = pool.queue("alice", "walk").run(walk()).addErrback(refused.append)  # type: ignore[arg-type]
    wait_until(lambda: next(steps) > 10, "the walk makes steps")
    pool.queue("bob").submit(called.set)
    assert called.wait(PATIENCE)
    walking.cancel()
    assert closed.wait(PATIENCE)
    assert refused[0].check(Refusal)


def test_few_walks_run_at_the_same_time(make_pool: MakePool) -> None:
    """Of the walks of many users, MOST_WALKS run at the same time, and all make progress."""
    pool, _ = make_pool(size=16)
    running, most, ends = set[int](), list[int](), threading.Event()

    def walk(number: int) -> Iterator[None]:
        while not ends.is_set():
            running.add(number)
            most.append(len(running))
            time.sleep(0.001)
            seen.add(number)
            running.discard(number)
            yield

    seen = set[int]()
    for number in range(20):
        pool.queue(f"user{number}", "walk").run(walk(number))  # type: ignore[arg-type]
    wait_until(lambda: len(seen) == 20, "each walk has made a step")
    ends.set()
    assert max(most) <= MOST_WALKS


def test_a_job_with_progress_is_not_stuck(monkeypatch: pytest.MonkeyPatch, make_pool: MakePool) -> None:
    """A job whose steps end is never refused with 451, and its thread is not replaced.

    It may take long, and may wait long for a thread. A job whose step does not end gets 451.
    """
    monkeypatch.setattr(worker_threads, "STUCK", 0.2)
    pool, reactor = make_pool(size=2, patience=0.3)
    disk, ended = threading.Event(), list[Any]()

    def walk(seconds: float) -> Generator[None, None, str]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
            yield
        return "done"

    before = threads()
    for _ in range(5):
        pool.queue("alice", "walk").run(walk(1)).addBoth(ended.append)
    end = time.monotonic() + PATIENCE
    while len(ended) < 5 and time.monotonic() < end:
        reactor.advance(1)
        if not reactor.quiet:
            reactor.run_once()
        time.sleep(0.01)
    assert ended == ["done"] * 5
    assert threads() == before
    try:
        pool.queue("bob").call(disk.wait, PATIENCE).addBoth(ended.append)
        while len(ended) < 6 and time.monotonic() < end:
            reactor.advance(1)
            time.sleep(0.01)
        assert ended[5].value.reply.code == 451
    finally:
        disk.set()
