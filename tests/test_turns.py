"""Processes that change names in one home take turns, whatever happens to the one whose turn it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection

import pytest

from ftpsd.limits.homes.home import SharedHomeCounts
from ftpsd.limits.homes.names import SharedHomeNames
from ftpsd.limits.shared.table import SharedTable
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE
from tests.hostile import wait_until
from tests.table_workers import TableWorkers, Work, receive, table_workers
from tests.test_workers import TimedReactor

pytestmark = pytest.mark.quick

#: Seconds for which the processes compete.
COMPETE = 3.0

#: Changes that a process makes in a row, on a busy machine: others look within some milliseconds whether it is their turn.
FEW = 10

Made = tuple[SharedTable, TableWorkers]


@pytest.fixture
def made() -> Iterator[Made]:
    """A table, and processes that use it."""
    with table_workers() as made:
        yield made


def names_in(table: SharedTable) -> SharedHomeNames:
    """Return the names in the home that all processes use."""
    return SharedHomeCounts(table).home("/home").names


class Sessions:
    """A process with some sessions that change names all the time, each for `seconds`. `stores` keep their threads."""

    def __init__(self, table: SharedTable, sessions: int, seconds: float, stores: bool = False) -> None:
        self.names = names_in(table)
        #: The number of each change that was made, among those of all processes.
        self.changes = list[int]()
        self._seconds, self._stores = seconds, stores
        self._reactor = TimedReactor()
        self._threads = WorkerThreads(self._reactor, 4)
        self._threads.start()
        for number in range(sessions):
            self._again(number)

    def _again(self, number: int, _: object = None) -> None:
        changed = self._threads.queue(number).call(self._change)
        changed.addCallback(partial(self._again, number))

    def _change(self) -> None:
        self.names.acquire(self._stores)
        try:
            time.sleep(self._seconds)
            self.names.changed()
            self.changes.append(self.names.changes)
        finally:
            self.names.release()

    def serve(self, until: float) -> None:
        """Let time pass."""
        last = time.monotonic()
        while last < until:
            if not self._reactor.quiet:
                self._reactor.run_once()
            time.sleep(0.0005)
            now = time.monotonic()
            self._reactor.advance(now - last)
            last = now


def compete(sessions: int, seconds: float, stores: bool = False) -> Work:
    """Return what a process does whose sessions compete with those of others."""

    def work(table: SharedTable, pipe: Connection) -> None:
        pipe.recv()
        made = Sessions(table, sessions, seconds, stores)
        made.serve(time.monotonic() + COMPETE)
        pipe.send(made.changes)
        made.serve(time.monotonic() + PATIENCE)  # until it is killed

    return work


def longest_waits(workers: TableWorkers, all_work: list[Work]) -> list[int]:
    """Return how many changes of others each process has waited for at most, from its first change to its last."""
    pipes = [workers.start(number, work)[1] for number, work in enumerate(all_work)]
    for pipe in pipes:
        pipe.send("begin")
    changes = [receive(pipe) for pipe in pipes]
    assert all(len(each) > 1 for each in changes), changes
    return [max(after - before - 1 for before, after in pairwise(each)) for each in changes]


@pytest.mark.parametrize("stores", [False, True])
def test_one_session_among_many_of_another_process(made: Made, stores: bool) -> None:
    """A session has its turn after a few changes of another process, however many sessions of that one wait.

    So has the other process.
    """
    waits = longest_waits(made[1], [compete(8, 0.02), compete(1, 0.02, stores)])
    assert max(waits) <= FEW, waits


def test_three_processes(made: Made) -> None:
    """Each of three processes has its turn after a few changes of the others."""
    waits = longest_waits(made[1], [compete(4, 0.02) for _ in range(3)])
    assert max(waits) <= 2 * FEW, waits


def wait_and_change(table: SharedTable, pipe: Connection) -> None:
    """Make one change in a process that must wait for it, and tell it."""
    sessions = Sessions(table, 1, 0.0)
    limit = time.monotonic() + PATIENCE
    while not sessions.changes and time.monotonic() < limit:
        sessions.serve(time.monotonic() + 0.01)
    pipe.send("done")
    pipe.recv()


@pytest.mark.parametrize("stopped", [signal.SIGSTOP, signal.SIGKILL])
def test_the_next_process_does_not_run(made: Made, stopped: signal.Signals) -> None:
    """While the process whose turn it is was stopped or killed, the others make their changes.

    If it continues, it gets its turn.
    """
    table, workers = made
    names = names_in(table)
    names.acquire()
    process, pipe = workers.start(0, wait_and_change)
    wait_until(lambda: names._turn.is_taken, "the other process is next")
    assert process.pid is not None
    os.kill(process.pid, stopped)
    began = time.monotonic()
    names.release()
    sessions = Sessions(table, 2, 0.0)
    while len(sessions.changes) < 50:
        sessions.serve(time.monotonic() + 0.01)
        assert time.monotonic() < began + PATIENCE
    if stopped == signal.SIGSTOP:
        assert not pipe.poll()
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: (sessions.serve(time.monotonic() + 0.01), pipe.poll())[1], "the other process has its turn")
        assert receive(pipe) == "done"
