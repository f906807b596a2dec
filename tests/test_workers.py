"""The worker threads: answers reach the reactor thread, whatever happens to others."""

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
from ftpsd.system.fair_queue import MOST_WALKS
from ftpsd.system.reactor_calls import ReactorCalls
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE
from tests.hostile import wait_until


class Reactor:
    """The part of a reactor that answers use: it watches one descriptor."""

    def __init__(self) -> None:
        self._readers: list[Any] = []
        self.addReader: Callable[[Any], None] = self._readers.append
        self.removeReader: Callable[[Any], None] = self._readers.remove

    def run_once(self) -> None:
        """Waits until the descriptor is readable."""
        readable, _, _ = select.select(self._readers, [], [], PATIENCE)
        readable[0].doRead()

    @property
    def quiet(self) -> bool:
        """Whether nothing is there to be read."""
        return not select.select(self._readers, [], [], 0)[0]


def test_one_bad_answer_does_not_lose_the_others() -> None:
    """ReactorCalls that are delivered together, in one wake-up, do not depend on each other."""
    reactor, heard = Reactor(), list[int]()
    answers = ReactorCalls(reactor)
    answers.start()
    answers.put(heard.append, 1)
    answers.put(lambda: 1 // 0)
    answers.put(heard.append, 2)
    reactor.run_once()
    assert heard == [1, 2]
    assert reactor.quiet


def test_no_answer_is_lost_while_others_are_given() -> None:
    """From several threads at once, each answer arrives, and each thread's in its order."""
    reactor, heard = Reactor(), list[tuple[int, int]]()
    answers = ReactorCalls(reactor)
    answers.start()

    def tell(thread: int) -> None:
        for number in range(2_000):
            answers.put(heard.append, (thread, number))

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    while len(heard) < 8_000:
        reactor.run_once()
    for each in threads:
        each.join()
        assert [n for t, n in heard if t == threads.index(each)] == list(range(2_000))


def test_what_was_answered_before_the_end_is_heard() -> None:
    """Stopping makes the calls that are there already."""
    reactor, heard = Reactor(), list[int]()
    answers = ReactorCalls(reactor)
    answers.start()
    answers.put(heard.append, 1)
    answers.stop()
    assert heard == [1]


class TimedReactor(Reactor, Clock):
    """One whose seconds pass when the test says so."""

    def __init__(self) -> None:
        Reactor.__init__(self)
        Clock.__init__(self)


def threads() -> int:
    """How many workers there are."""
    return sum(thread.name == "worker" for thread in threading.enumerate())


@pytest.fixture
def make_pool() -> Iterator[Callable[..., tuple[WorkerThreads, TimedReactor]]]:
    """Makes pools of worker threads that end with the test."""
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


def test_stuck_threads_are_replaced_only_so_often(monkeypatch: pytest.MonkeyPatch, make_pool: MakePool) -> None:
    """Of calls that never return no more than MOST_STUCK give their threads to others; when they return all is done,
    by as many threads as before."""
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
        wait_until(lambda: threads() - before == 4, "the others have ended")
    finally:
        disk.set()


def test_one_owner_leaves_threads_to_others(make_pool: MakePool) -> None:
    """However many jobs one user has, another user's begins at once; when all users are stuck, a login still does."""
    pool, _ = make_pool(size=16)
    disk, begun = threading.Event(), list[str]()

    def call(name: str) -> None:
        begun.append(name)
        disk.wait(PATIENCE)

    try:
        for _ in range(100):
            pool.queue("alice").submit(partial(call, "alice"))
        wait_until(lambda: len(begun) == 7, "alice has her part")
        for number in range(20):
            pool.queue(f"user{number}").submit(partial(call, "other"))
        wait_until(lambda: len(begun) == 14, "all threads but those for logins are busy")
        pool.queue("192.0.2.1", "login").submit(partial(call, "login"))
        wait_until(lambda: begun[-1] == "login", "the login runs")
        assert begun.count("alice") == 7
    finally:
        disk.set()
    wait_until(lambda: len(begun) == 121, "all is done")


def test_owners_take_turns(make_pool: MakePool) -> None:
    """Of jobs that wait, each owner's first one comes before anybody's second."""
    pool, _ = make_pool(size=1)
    gate, done = threading.Event(), list[str]()
    pool.queue("nobody").submit(lambda: gate.wait(PATIENCE))
    for owner in "aaabbc":
        pool.queue(owner).submit(partial(done.append, owner))
    gate.set()
    wait_until(lambda: len(done) == 6, "all are done")
    assert "".join(done) == "abcaba"


def test_a_walk_gives_way_after_each_step(make_pool: MakePool) -> None:
    """A job in steps that takes for ever keeps nobody waiting, not even on the last thread; cancelled, it ends."""
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
    wait_until(lambda: next(steps) > 10, "it walks")
    pool.queue("bob").submit(called.set)
    assert called.wait(PATIENCE)
    walking.cancel()
    assert closed.wait(PATIENCE)
    assert refused[0].check(Refusal)


def test_few_walks_run_at_once(make_pool: MakePool) -> None:
    """However many users walk through directories, only so many threads want Python's lock for it; each gets on."""
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
    wait_until(lambda: len(seen) == 20, "each has made a step")
    ends.set()
    assert max(most) <= MOST_WALKS


def test_a_job_that_gets_on_is_not_stuck(monkeypatch: pytest.MonkeyPatch, make_pool: MakePool) -> None:
    """No job is told that the disk does not answer, and none loses its thread, while its steps end: however long it
    takes, and however long it waits for its turn. One whose step does not end is told."""
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
