"""The table that all processes of the daemon share, with real processes that race, are killed and are stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from ftpsd.limits.shared import locks
from ftpsd.limits.shared.patience import TableBusy
from ftpsd.limits.shared.table import SUPERVISOR, SharedTable
from tests.table_workers import SIZE, TableWorkers, Work, receive, table_workers

pytestmark = pytest.mark.quick


@pytest.fixture
def both() -> Iterator[tuple[SharedTable, TableWorkers]]:
    """A small table, and processes that use it."""
    with table_workers() as made:
        yield made


@pytest.fixture
def table(both: tuple[SharedTable, TableWorkers]) -> SharedTable:
    """The table of the supervisor."""
    return both[0]


@pytest.fixture
def workers(both: tuple[SharedTable, TableWorkers]) -> TableWorkers:
    """The processes."""
    return both[1]


def hold(kind: str, name: str, column: int = 0, count: int = 0) -> Work:
    """Use a slot, count in it, and say so. After each answer say the sum of the column."""

    def work(table: SharedTable, pipe: Connection) -> None:
        slot = table.slot(kind, name)
        slot.add(column, count)
        while True:
            pipe.send(slot.total(column))
            pipe.recv()

    return work


def test_all_processes_find_the_same_slot(table: SharedTable, workers: TableWorkers) -> None:
    """A slot that one process has made is there for the others, with what they write to it."""
    slot = table.slot("user", "ärger\udcff")
    slot.ints[3], slot.floats[4] = -5, 2.5

    def work(table: SharedTable, pipe: Connection) -> None:
        theirs = table.slot("user", "ärger\udcff")
        pipe.send((theirs.ints[3], theirs.floats[4], table.slot("group", "ärger\udcff").ints[3], theirs.shared))
        theirs.ints[3] = 7
        pipe.send(None)
        pipe.recv()

    _, pipe = workers.start(0, work)
    assert receive(pipe) == (-5, 2.5, 0, True)
    assert receive(pipe) is None
    assert slot.ints[3] == 7
    assert table.slot("user", "ärger\udcff") is slot


def test_no_change_under_the_lock_is_lost(table: SharedTable, workers: TableWorkers) -> None:
    """Three processes with two threads each add 2,000 times to one number, which then has all of it."""

    def work(table: SharedTable, pipe: Connection) -> None:
        from threading import Thread

        slot = table.slot("test", "sum")

        def add() -> None:
            for _ in range(2000):
                with slot.lock():
                    slot.ints[0] += 1

        threads = [Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pipe.send("done")
        pipe.recv()

    slot = table.slot("test", "sum")
    for pipe in [workers.start(index, work)[1] for index in range(3)]:
        assert receive(pipe) == "done"
    assert slot.ints[0] == 12_000


def test_processes_that_race_make_one_slot(table: SharedTable, workers: TableWorkers) -> None:
    """Processes that want the same hundred new slots at once get the same ones."""

    def work(table: SharedTable, pipe: Connection) -> None:
        pipe.recv()
        slots = [table.slot("race", str(number)) for number in range(100)]
        for slot in slots:
            slot.add(1, 1)
        pipe.send("done")
        pipe.recv()

    pipes = [workers.start(index, work)[1] for index in range(3)]
    for pipe in pipes:
        pipe.send("go")
    for pipe in pipes:
        receive(pipe)
    assert dict(table.totals("race", 1)) == {str(number): 3 for number in range(100)}


def take_and_keep(table: SharedTable, pipe: Connection) -> None:
    """Take the lock of a slot for ever."""
    with table.slot("test", "lock").lock():
        pipe.send("locked")
        time.sleep(1000)


def test_a_process_that_is_killed_releases_its_lock(table: SharedTable, workers: TableWorkers) -> None:
    """SIGKILL while a lock is held frees it at once."""
    process, pipe = workers.start(0, take_and_keep)
    assert receive(pipe) == "locked"
    slot = table.slot("test", "lock")
    workers.kill(process)
    with slot.lock():
        pass


def test_a_process_that_is_stopped_holds_nobody_for_long(table: SharedTable, workers: TableWorkers) -> None:
    """SIGSTOP while a lock is held: the others get a refusal soon; and the lock when the process is killed."""
    process, pipe = workers.start(0, take_and_keep)
    assert receive(pipe) == "locked"
    os.kill(process.pid, signal.SIGSTOP)
    slot = table.slot("test", "lock")
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(TableBusy, match="lock"), slot.lock():
            pass
    assert time.monotonic() - began < 10 * locks.PATIENCE
    workers.kill(process)
    with slot.lock():
        pass


def test_columns_of_a_process_are_cleared(table: SharedTable, workers: TableWorkers) -> None:
    """What a killed process has counted is returned, and what the others have counted stays."""
    first, pipe = workers.start(0, hold("user", "alice", 0, 5))
    assert receive(pipe) == 5
    _, other = workers.start(1, hold("user", "alice", 0, 3))
    assert receive(other) == 8
    assert table.total("user", "alice", 0) == 8
    workers.kill(first)
    table.clear(0)
    assert table.total("user", "alice", 0) == 3
    other.send("again")
    assert receive(other) == 3


def test_numbers_of_processes(table: SharedTable) -> None:
    """The supervisor and 64 workers have columns of their own; there are no others."""
    slots = []
    for index in range(SUPERVISOR, 64):
        other = SharedTable.attach(os.dup(table.descriptor), index, *SIZE)
        slots.append(other.slot("user", "alice"))
        slots[-1].add(0, 1)
        slots[-1].add(1, 100)
    assert slots[0].total(0) == 65 and slots[30].total(1) == 6500 and slots[5].own(1) == 100
    for index in (-2, 64):
        with pytest.raises(ValueError, match="number"):
            SharedTable.attach(table.descriptor, index, *SIZE)


def test_unused_slots_are_used_again(table: SharedTable) -> None:
    """Any number of names one after another fits; each slot is new."""
    kept = table.slot("user", "kept")
    kept.ints[0] = 1
    for number in range(5000):
        slot = table.slot("user", str(number))
        assert slot.shared and slot.ints[0] == 0 and slot.total(0) == 0
        slot.ints[0] = slot.ints[5] = number + 1
        slot.add(0, 1)
        del slot
    assert kept.ints[0] == 1


def test_a_slot_that_nobody_used_for_a_while_is_new(table: SharedTable, workers: TableWorkers) -> None:
    """A slot keeps its contents while any process uses it, and no longer."""
    table.slot("user", "alice").ints[0] = 3
    assert table.slot("user", "alice").ints[0] == 0
    process, pipe = workers.start(0, hold("user", "alice"))
    receive(pipe)
    table.slot("user", "alice").ints[0] = 4
    assert table.slot("user", "alice").ints[0] == 4
    workers.kill(process)
    table.clear(0)
    assert table.slot("user", "alice").ints[0] == 0


def test_slots_of_a_dead_process_are_used_again(table: SharedTable, workers: TableWorkers) -> None:
    """A process that held the whole table leaves it to the others."""

    def fill(table: SharedTable, pipe: Connection) -> None:
        slots = [table.slot("user", str(number)) for number in range(5000)]
        pipe.send(sum(slot.shared for slot in slots))
        pipe.recv()

    process, pipe = workers.start(0, fill)
    assert receive(pipe) > 0.9 * SIZE[0]
    assert not table.slot("user", "new").shared
    workers.kill(process)
    table.clear(0)
    assert table.slot("user", "other").shared


def test_a_full_table_refuses_nobody(table: SharedTable) -> None:
    """With all slots in use a further one works, for this process alone; the slots in use stay as they are."""
    slots = [table.slot("user", str(number)) for number in range(5000)]
    private = [slot for slot in slots if not slot.shared]
    assert 5000 - SIZE[0] <= len(private) < 5000 - 0.9 * SIZE[0]
    for number, slot in enumerate(slots):
        with slot.lock():
            slot.ints[0] = number
            slot.add(0, 1)
    assert [slot.ints[0] for slot in slots] == list(range(5000))
    assert {slot.total(0) for slot in slots} == {1}
    assert table.slot("user", "4999") is slots[4999]


def test_files_are_known_to_all(table: SharedTable, workers: TableWorkers) -> None:
    """A file that one process adds is there for the others, who may remove it."""

    def work(table: SharedTable, pipe: Connection) -> None:
        pipe.send((7, 1) in table.files)
        table.files.add((7, 2))
        table.files.discard((7, 1))
        pipe.send(None)
        pipe.recv()

    assert table.files.add((7, 1)) and table.files.add((8, 1))
    _, pipe = workers.start(0, work)
    assert receive(pipe) is True
    receive(pipe)
    assert (7, 1) not in table.files and (7, 2) in table.files and (8, 1) in table.files
    assert len(table.files) == 2


def test_files_of_a_dead_process_are_removed(table: SharedTable, workers: TableWorkers) -> None:
    """All files that it has added, but not those that another process has taken over."""

    def work(table: SharedTable, pipe: Connection) -> None:
        for inode in range(100):
            table.files.add((7, inode))
        pipe.send("added")
        time.sleep(1000)

    process, pipe = workers.start(3, work)
    receive(pipe)
    table.files.add((7, 50))
    assert len(table.files) == 100
    workers.kill(process)
    table.clear(3)
    assert len(table.files) == 1 and (7, 50) in table.files


def test_any_files(table: SharedTable) -> None:
    """Neighbouring inodes and huge numbers are told apart; a full set says so."""
    files = [(device, inode) for device in (0, 1, 2**63) for inode in (*range(1, 100), 2**64 - 1, 2**63)]
    assert all(table.files.add(file) for file in files)
    assert all(file in table.files for file in files) and (5, 1) not in table.files
    assert len(table.files) == len(files)
    results = [table.files.add((9, inode)) for inode in range(SIZE[1])]
    assert not all(results)
    assert len(table.files) == len(files) + sum(results)
    for file in files:
        table.files.discard(file)
    assert len(table.files) == sum(results)
