"""Processes that change names in the same home take turns, with real processes and their reactors and threads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing.connection import Connection

import pytest
from twisted.internet.epollreactor import EPollReactor

from ftpsd.limits.homes.home import SharedHomeCounts
from ftpsd.limits.homes.names import SharedHomeNames
from ftpsd.limits.shared.table import SharedTable
from ftpsd.system.jobs.job_lock import Busy, give_up_thread
from ftpsd.system.worker_threads import WorkerThreads
from tests.daemon import PATIENCE
from tests.hostile import wait_until
from tests.table_workers import TableWorkers, Work, receive, table_workers

pytestmark = pytest.mark.quick

#: Seconds for which the disk takes for a change, and for which a test looks.
CHANGE, LONG = 0.01, 3.0

#: The most seconds for which one process usually keeps another one waiting, on a busy machine.
FAIR = 1.0


@pytest.fixture
def made() -> Iterator[tuple[SharedTable, TableWorkers]]:
    """A table, and processes that use it."""
    with table_workers() as made:
        yield made


class Sessions:
    """Sessions of one process that change names in a home: each again as soon as it has done so."""

    def __init__(self, names: SharedHomeNames, pause: float) -> None:
        self.reactor = EPollReactor()
        self.threads = WorkerThreads(self.reactor, size=4)
        self.names = names
        self.pause = pause
        #: How long each change has waited for the lock, in seconds.
        self.waited: list[float] = []

    def _change(self, began: float) -> None:
        self.names.acquire()
        try:
            self.waited.append(time.monotonic() - began)
            time.sleep(CHANGE)
            self.names.changed()
        finally:
            self.names.release()

    def _begin(self, number: int) -> None:
        changing = self.threads.queue(number).call(self._change, time.monotonic())
        changing.addCallback(lambda _: self.reactor.callLater(self.pause, self._begin, number))

    def run(self, count: int, seconds: float) -> list[float]:
        """Return how long each change has waited."""
        self.threads.start()
        for number in range(count):
            self._begin(number)
        self.reactor.callLater(seconds, self.reactor.stop)
        self.reactor.run(installSignalHandlers=False)
        return self.waited


def change_names(count: int, pause: float = 0.0, seconds: float = LONG) -> Work:
    """Return what a process does in which so many sessions change names."""

    def work(table: SharedTable, pipe: Connection) -> None:
        sessions = Sessions(SharedHomeCounts(table).home("/home").names, pause)
        pipe.send(sessions.run(count, seconds))
        pipe.recv()

    return work


def change_without_pause(table: SharedTable, pipe: Connection) -> None:
    """Change names again and again, until the end of the test."""
    names = SharedHomeCounts(table).home("/home").names
    while True:
        names.acquire(wait=True)
        time.sleep(CHANGE)
        names.release()
        if pipe.poll():
            pipe.send("begun")
            pipe.recv()


def test_one_session_among_those_of_another_process(made: tuple[SharedTable, TableWorkers]) -> None:
    """A session waits for a moment only while another process changes names all the time."""
    _, workers = made
    workers.start(0, change_without_pause)
    _, one = workers.start(1, change_names(1, pause=0.01))
    waited = receive(one)
    assert len(waited) > LONG / FAIR
    assert sorted(waited)[len(waited) // 2] < FAIR


def test_one_thread_among_those_of_another_process(made: tuple[SharedTable, TableWorkers]) -> None:
    """The same holds for a thread that has nobody to give its job to, as those of stores."""
    table, workers = made
    _, pipe = workers.start(0, change_without_pause)
    pipe.send("say so")
    receive(pipe)
    names = SharedHomeCounts(table).home("/home").names
    pipe.send("go on")
    for _ in range(5):
        began = time.monotonic()
        names.acquire(wait=True)
        names.release()
        assert time.monotonic() - began < PATIENCE / 4


def test_processes_have_turns_of_the_same_length(made: tuple[SharedTable, TableWorkers]) -> None:
    """Each of three processes gets its share, whether many of its sessions change names or few."""
    _, workers = made
    pipes = [workers.start(number, change_names(count))[1] for number, count in enumerate((1, 4, 12))]
    counts = [len(receive(pipe)) for pipe in pipes]
    assert min(counts) > max(counts) / 4, counts


def change_slowly(table: SharedTable, pipe: Connection) -> None:
    """Change names again and again, and say when each change began. Each takes longer than a turn."""
    names = SharedHomeCounts(table).home("/home").names
    began = []
    pipe.send("ready")
    pipe.recv()
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        names.acquire(wait=True)
        began.append(time.monotonic())
        time.sleep(0.1)
        names.release()
    pipe.send(began)
    pipe.recv()


def test_a_turn_on_a_slow_disk_is_one_change(made: tuple[SharedTable, TableWorkers]) -> None:
    """While both wait for each other, two processes make every second change."""
    _, workers = made
    pipes = [workers.start(number, change_slowly)[1] for number in range(2)]
    for pipe in pipes:
        receive(pipe)
    for pipe in pipes:
        pipe.send("begin")
    one, other = map(receive, pipes)
    both = sorted([*((each, "one") for each in one), *((each, "other") for each in other)])
    both = [each for each in both if max(one[0], other[0]) < each[0] < min(one[-1], other[-1])]
    again = sum(before[1] == after[1] for before, after in pairwise(both))
    assert again < len(both) / 4, both


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_process_that_waits_and_does_not_run(made: tuple[SharedTable, TableWorkers], how: signal.Signals) -> None:
    """A process that was stopped or killed while it waited keeps nobody waiting for longer than a moment."""
    table, workers = made
    names = SharedHomeCounts(table).home("/home").names
    names.acquire()
    waiting, _ = workers.start(0, change_names(4))
    wait_until(lambda: bool(table.slot("turns", "/home").total(0)), "it waits")
    os.kill(waiting.pid, how)
    names.release()
    began = time.monotonic()
    names.acquire(wait=True)
    names.release()
    assert time.monotonic() - began < PATIENCE / 4
    began = time.monotonic()
    for _ in range(10):
        names.acquire(wait=True)
        names.release()
    assert time.monotonic() - began < PATIENCE / 4


def test_an_attempt_that_is_given_up(made: tuple[SharedTable, TableWorkers]) -> None:
    """Whoever tries once, as the removal of old part files does, keeps nobody waiting until it tries again."""

    def hold(table: SharedTable, pipe: Connection) -> None:
        names = SharedHomeCounts(table).home("/home").names
        names.acquire()
        pipe.send("begun")
        pipe.recv()

    table, workers = made
    _, pipe = workers.start(0, hold)
    receive(pipe)
    names = SharedHomeCounts(table).home("/home").names
    with ThreadPoolExecutor(1, initializer=give_up_thread) as thread, pytest.raises(Busy):
        thread.submit(names.acquire).result(PATIENCE)
    assert not table.slot("turns", "/home").total(0)


def test_nobody_who_is_alone_notes_a_turn(made: tuple[SharedTable, TableWorkers]) -> None:
    """Names that one process changes need no second slot."""
    table, _ = made
    names = SharedHomeCounts(table).home("/home").names
    for _ in range(3):
        names.acquire()
        names.release()
    assert not table.has("turns", "/home")
