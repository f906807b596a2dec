"""Locks that jobs in worker threads need: a job that waits for one occupies no thread."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.data.deadlines import Deadlines
from ftpsd.data.transfer import Transfer
from ftpsd.limits.shared.locks import ByteLock
from ftpsd.protocol.replies import Refusal
from ftpsd.system.jobs.fair_queue import JobKind
from ftpsd.system.jobs.job_lock import JobLock, LockSteps, again, repeated
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE
from tests.hostile import wait_until
from tests.inprocess import outcome
from tests.test_workers import TimedReactor

pytestmark = pytest.mark.quick

#: Few threads, so that jobs which kept theirs would need more than there are.
THREADS = 2


class Pool:
    """Worker threads, and the reactor that delivers what they return."""

    def __init__(self) -> None:
        self.reactor = TimedReactor()
        self.threads = WorkerThreads(self.reactor, THREADS)
        self.threads.start()

    def result(self, deferred: Deferred[Any]) -> Any:
        """Return what a job has returned, or raise what it has raised."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        while not found:
            self.reactor.advance(1)
            self.reactor.run_once()
        return outcome(found)


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A pool of few threads."""
    made = Pool()
    yield made
    made.threads.stop()


class Work:
    """A job that needs the lock, and a note of what was done."""

    def __init__(self, lock: JobLock) -> None:
        self.lock = lock
        self.done = list[object]()
        self.may_end = threading.Event()
        self.may_end.set()
        self.running = 0

    def is_running(self) -> bool:
        """Return whether a job has the lock."""
        return self.running == 1

    def __call__(self, name: object) -> object:
        self.lock.acquire()
        try:
            self.running += 1
            assert self.running == 1
            self.lock.acquire()  # it is reentrant
            assert self.may_end.wait(PATIENCE)
            self.lock.release()
            self.running -= 1
            self.done.append(name)
        finally:
            self.lock.release()
        return name


def test_jobs_wait_without_threads(pool: Pool) -> None:
    """While one job has the lock, ten others wait for it, and a job that needs no lock is carried out.

    Then they get the lock one by one, in their order.
    """
    work = Work(JobLock())
    work.may_end.clear()
    held = pool.threads.queue("holder").call(work, "holder")
    wait_until(lambda: work.running == 1, "the lock is taken")
    waiting = [pool.threads.queue(name).call(work, name) for name in range(10)]
    assert pool.result(pool.threads.queue("neighbour").call(str, "free")) == "free"
    assert work.done == []
    work.may_end.set()
    assert [pool.result(each) for each in (held, *waiting)] == ["holder", *range(10)] == work.done


def test_a_job_in_steps_waits_without_a_thread(pool: Pool) -> None:
    """A job in steps continues where it was when it gets the lock, and keeps it for that one call."""
    work = Work(JobLock())
    work.may_end.clear()
    began = list[int]()

    def steps(number: int) -> LockSteps[object]:
        began.append(number)
        yield None
        found = yield from repeated(work, number)
        assert not work.lock.is_mine
        yield None
        return found

    held = pool.threads.queue("holder").call(work, "holder")
    wait_until(lambda: work.running == 1, "the lock is taken")
    waiting = [pool.threads.queue(number).run(steps(number)) for number in range(5)]
    assert pool.result(pool.threads.queue("neighbour").call(str, "free")) == "free"
    work.may_end.set()
    assert [pool.result(each) for each in (held, *waiting)] == ["holder", *range(5)]
    assert began == list(range(5))


def test_a_job_that_was_cancelled_leaves_the_lock(pool: Pool) -> None:
    """When a job is cancelled while it waits, the next one gets the lock. Nothing of the job is carried out."""
    work = Work(JobLock())
    work.may_end.clear()
    held = pool.threads.queue("holder").call(work, "holder")
    wait_until(lambda: work.running == 1, "the lock is taken")
    calls = [pool.threads.queue(name).call(work, name) for name in ("call", "next")]
    cut = pool.threads.queue("steps").run(repeated(work, "steps"))
    last = pool.threads.queue("last").call(work, "last")
    pool.result(pool.threads.queue("neighbour").call(str, ""))
    for each in (calls[0], cut):
        each.cancel()
        with pytest.raises(Refusal):
            pool.result(each)
    work.may_end.set()
    assert [pool.result(each) for each in (held, calls[1], last)] == ["holder", "next", "last"] == work.done


def test_what_is_closed_is_not_cancelled(pool: Pool) -> None:
    """What a job closes is closed when it gets the lock, although the caller has given up waiting long before."""
    work = Work(JobLock())
    work.may_end.clear()
    held = pool.threads.queue("holder").call(work, "holder")
    wait_until(lambda: work.running == 1, "the lock is taken")
    closing = pool.threads.queue("closing").close(End(work, "end").close)
    pool.result(pool.threads.queue("neighbour").call(str, ""))
    pool.threads.patience, refused = 0.0, list[object]()
    for each in (held, closing):
        each.addErrback(refused.append)
    pool.reactor.advance(1)
    assert len(refused) == 2
    work.may_end.set()
    wait_until(lambda: work.done == ["holder", "end"], "it is closed")


def test_other_jobs_do_not_put_off_a_deadline(pool: Pool) -> None:
    """A job that waits for a lock too long is refused, although other jobs of the same user end all the time."""
    pool.threads.patience = 0.5
    work, refused = Work(JobLock()), list[Failure]()
    work.may_end.clear()
    held = pool.threads.queue("holder").call(work, "holder")
    wait_until(lambda: work.running == 1, "the lock is taken")
    queue = pool.threads.queue("user")
    waiting = transfer(pool, work, "user")
    waiting.start()
    deadlines = Deadlines(pool.reactor, waiting, 20, 20)
    results = held, queue.call(work, "call"), queue.run(repeated(work, "steps")), waiting.finished
    for each in results:
        each.addErrback(refused.append)
    deadline = time.monotonic() + PATIENCE
    while len(refused) < len(results):
        assert time.monotonic() < deadline
        pool.result(queue.call(time.sleep, 0.05))
    deadlines.stop()
    assert {each.value.reply.code for each in refused} == {451}
    assert sum("changing names in this home" in str(each.value) for each in refused) == len(refused) - 1
    work.may_end.set()


@pytest.mark.parametrize("kind", ["command", "walk"])
def test_who_is_promised_a_lock_goes_first(pool: Pool, kind: JobKind) -> None:
    """A user whose jobs take long delays nobody who waits for the same lock: the job that is next to have it runs."""
    threads = WorkerThreads(pool.reactor, 12)
    threads.start()
    try:
        work, may_end = Work(JobLock()), threading.Event()
        work.may_end.clear()
        held = threads.queue("holder").call(work, "holder")
        wait_until(work.is_running, "the lock is taken")
        waiting = [threads.queue(name, kind).run(repeated(work, name)) for name in ("slow", "other")]
        pool.result(threads.queue("neighbour").call(str, ""))
        slow = [threads.queue("slow", kind).call(may_end.wait, PATIENCE) for _ in range(20)]
        work.may_end.set()
        assert [pool.result(each) for each in (held, *waiting)] == ["holder", "slow", "other"]
        assert not any(each.called for each in slow)
        may_end.set()
        assert all(pool.result(each) for each in slow)
    finally:
        may_end.set()
        threads.stop()


def test_two_locks_in_any_order(pool: Pool) -> None:
    """Jobs that need two locks, taken in different orders, all end: none keeps one while it waits for the other."""
    locks = JobLock(), JobLock()
    done = list[int]()

    def work(number: int) -> int:
        first, second = locks[:: 1 if number % 2 else -1]
        first.acquire()
        try:
            second.acquire()
            try:
                threading.Event().wait(0.001)
                done.append(number)
            finally:
                second.release()
        finally:
            first.release()
        return number

    found = [pool.threads.queue(number).call(work, number) for number in range(40)]
    assert [pool.result(each) for each in found] == list(range(40))
    assert sorted(done) == list(range(40))


class End:
    """What a transfer closes, for which it needs the lock."""

    def __init__(self, work: Work, name: str) -> None:
        self._work, self._name = work, name

    def close(self) -> None:
        """Free what is open."""
        self._work(self._name)


def transfer(pool: Pool, work: Work, name: str) -> Transfer[object]:
    """Return a transfer whose only step and whose end need the lock."""

    def steps() -> LockSteps[object]:
        return (yield from again(work.lock, partial(work, name)))

    return Transfer(pool.reactor, pool.threads.queue(name), steps(), None, [End(work, f"end of {name}")])


def test_transfers_wait_without_threads(pool: Pool) -> None:
    """Transfers that need the lock for a step, or to close what they have opened, wait for it without a thread."""
    work = Work(JobLock())
    work.may_end.clear()
    held = pool.threads.queue("holder").call(work, "holder")
    wait_until(lambda: work.running == 1, "the lock is taken")
    transfers = [transfer(pool, work, str(number)) for number in range(5)]
    for each in transfers:
        each.start()
    assert pool.result(pool.threads.queue("neighbour").call(str, "free")) == "free"
    work.may_end.set()
    assert pool.result(held) == "holder"
    assert [pool.result(each.finished) for each in transfers] == ["0", "1", "2", "3", "4"]
    assert sorted(map(str, work.done)) == sorted(["holder", *(f"{e}{n}" for n in range(5) for e in ("", "end of "))])


def test_a_transfer_that_is_aborted_while_it_waits(pool: Pool) -> None:
    """An abort while a transfer waits for the lock ends it when it would get the lock, which the next one has then."""
    work = Work(JobLock())
    work.may_end.clear()
    held = pool.threads.queue("holder").call(work, "holder")
    wait_until(lambda: work.running == 1, "the lock is taken")
    cut = transfer(pool, work, "cut")
    cut.start()
    pool.result(pool.threads.queue("neighbour").call(str, ""))
    cut.abort(Refusal(426, "Transfer aborted."))
    last = pool.threads.queue("last").call(work, "last")
    work.may_end.set()
    assert pool.result(held) == "holder"
    with pytest.raises(Refusal):
        pool.result(cut.finished)
    assert pool.result(last) == "last"
    assert set(work.done) == {"holder", "end of cut", "last"}


class SharedLock(JobLock):
    """A lock among processes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("rb+", buffering=0)
        self._byte = ByteLock(self._file.fileno(), 0)

    def _enter(self, wait: bool) -> bool:
        while not self._byte.try_acquire():
            if not wait:
                return False
            time.sleep(0.001)
        return True

    def _leave(self) -> None:
        self._byte.release()

    def must_wait(self) -> bool:
        """Return whether another process has it."""
        return self._byte.is_taken()


def test_a_lock_that_another_process_has(pool: Pool, tmp_path: Path) -> None:
    """Jobs that wait for another process occupy no threads either."""
    path = tmp_path / "lock"
    path.touch()
    elsewhere, work = SharedLock(path), Work(SharedLock(path))  # two descriptions of one file, as two processes have
    elsewhere.acquire()
    waiting = [pool.threads.queue(name).call(work, name) for name in range(5)]
    for _ in range(5):
        assert pool.result(pool.threads.queue("neighbour").call(str, "free")) == "free"
    assert work.done == []
    progress = [pool.threads.queue(name).progress for name in range(5)]
    pool.reactor.advance(1)
    pool.result(pool.threads.queue("neighbour").call(str, ""))
    assert [pool.threads.queue(name).progress for name in range(5)] == progress  # to wait is no progress
    elsewhere.release()
    assert [pool.result(each) for each in waiting] == list(range(5))
    assert sorted(map(str, work.done)) == ["0", "1", "2", "3", "4"]
    elsewhere.acquire(wait=True)
    elsewhere.release()


class FaultyLock(JobLock):
    """A lock that cannot be taken at the first attempts of jobs that waited for it."""

    faults = 0

    def _enter(self, wait: bool) -> bool:
        if self.faults:
            self.faults -= 1
            raise OSError(errno.ENOLCK, "no locks available")
        return True


@pytest.mark.parametrize("faults", [1, 2])
def test_a_lock_that_cannot_be_taken(pool: Pool, faults: int) -> None:
    """A job that was promised a lock and cannot take it tries again, and then reports why. No job is lost."""

    def call(job: Work) -> Deferred[object]:
        return pool.threads.queue("user").call(job, "job")

    def steps(job: Work) -> Deferred[object]:
        return pool.threads.queue("user").run(repeated(job, "job"))

    def moved(job: Work) -> Deferred[object]:
        made = Transfer(pool.reactor, pool.threads.queue("user"), repeated(job, "job"), None, ())
        made.start()
        return made.finished

    for start in (call, steps, moved):
        work = Work(lock := FaultyLock())
        work.may_end.clear()
        held = pool.threads.queue("holder").call(work, "holder")
        wait_until(work.is_running, "the lock is taken")
        found = start(work)
        pool.result(pool.threads.queue("neighbour").call(str, ""))
        lock.faults = faults
        work.may_end.set()
        if faults == 1:
            assert pool.result(found) == "job"
        else:
            with pytest.raises(OSError, match="no locks"):
                pool.result(found)
        following = pool.threads.queue("following").call(work, "following")
        assert [pool.result(each) for each in (held, following)] == ["holder", "following"]


def test_threads_of_no_pool_wait() -> None:
    """A thread that cannot give up its job waits, and gets the lock in its turn."""
    work = Work(JobLock())
    work.lock.acquire()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    work.lock.release()
    for each in threads:
        each.join(PATIENCE)
    assert sorted(map(str, work.done)) == ["0", "1", "2"]
