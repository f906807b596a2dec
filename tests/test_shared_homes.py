"""The counts of homes in the table of all processes, with real processes that change real homes and are killed."""

from __future__ import annotations

import fcntl
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.config.settings import Quantity, QuotaSettings, UserSettings
from ftpsd.limits.home_counts import Amount
from ftpsd.limits.homes.home import SharedHomeCounts
from ftpsd.limits.shared.table import SharedTable
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.backend import Files, Mount
from ftpsd.storage.home_usage import HomeUsage
from ftpsd.storage.local.files import LocalBackend
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.quota import Quotas
from tests.inprocess import DirectCalls, run
from tests.table_workers import TableWorkers, receive, table_workers
from tests.test_files import SESSION, Person, path, result

pytestmark = pytest.mark.quick

NAMES = ["a", "b", "d", "d/a", "d/b"]


class Process:
    """What one process of the daemon knows: the quotas of some homes, and of a group with all of them."""

    def __init__(self, table: SharedTable, homes: list[Path], group: QuotaSettings | None = None) -> None:
        self.homes = [str(home) for home in homes]
        self.counts = SharedHomeCounts(table)
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.workers: Any = DirectCalls()
        self.group = {} if group is None else {"staff": group}
        self.quotas = Quotas(self.clock, self.workers, DirectoryMeter(), self.counts)
        self.keep(self.homes)
        self.backend = LocalBackend(self.workers, self.quotas, fsync=False, groups=self.group)

    def keep(self, homes: list[str], members: list[str] | None = None) -> None:
        """Let the quotas of some homes hold, of which some are those of the group."""
        groups = {name: frozenset(homes if members is None else members) for name in self.group}
        self.quotas.keep(frozenset(homes), frozenset(homes), groups)

    def open(self, number: int, bytes: int | None = None, files: int | None = None) -> Files:
        """Begin a session in a home."""
        quota = QuotaSettings(None if bytes is None else Quantity(bytes), files)
        home = self.homes[number]
        user = UserSettings(home=home, quota=quota, groups=tuple(self.group))
        opening = self.backend.open(Person("alice", user), SESSION, Mount(home, user.permission_rules, quota))
        opened: list[Any] = []
        Deferred.fromCoroutine(opening).addBoth(opened.append)
        limit = time.monotonic() + 20
        while not opened and time.monotonic() < limit:  # another process counts the home
            time.sleep(0.001)
            self.clock.advance(0.1)
        files: Files = opened[0]
        return files

    def usage(self, number: int) -> HomeUsage:
        """Return what a home holds, for repairs."""
        return HomeUsage(self.homes[number], DirectoryMeter(), self.counts.home(self.homes[number]))

    def counted(self) -> list[Amount | None]:
        """Return what is counted in each home."""
        return [self.quotas.counted(home) for home in self.homes]


def held(home: Path) -> Amount:
    """Return what a walk finds."""
    return sum(DirectoryMeter().amounts(str(home), ()), Amount())


@pytest.fixture
def made() -> Iterator[tuple[SharedTable, TableWorkers]]:
    """A table, and processes that use it."""
    with table_workers() as made:
        yield made


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    """Two homes."""
    made = [tmp_path / "one", tmp_path / "two"]
    for home in made:
        home.mkdir()
    return made


def upload(files: Files, name: str, size: int, chance: random.Random, complete: bool = True) -> None:
    """Upload in pieces; without `complete` it is cut."""
    offset = chance.choice([0, 0, size // 2])
    opened: Any = files.writer(path(name), offset, append=not offset and chance.random() < 0.3)()
    try:
        while opened.must_copy(False):
            opened.copy(1000)
        for _ in range(4):
            opened.write(bytes(size // 4))
        while opened.must_copy(True):
            opened.copy(1000)
        if complete:
            opened.publish()
    finally:
        opened.close()


def do_something(files: list[Files], chance: random.Random) -> None:
    """Make one random change, permitted or not."""
    here, name = chance.choice(files), chance.choice(NAMES)
    there, new = chance.choice(files), chance.choice(NAMES)
    with suppress(Refusal, OSError):
        match chance.randrange(10):
            case 0 | 1 | 2:
                upload(here, name, chance.choice([0, 100, 5000]), chance)
            case 3 | 4:
                upload(here, name, chance.choice([100, 5000]), chance, complete=False)
            case 5:
                result(here.remove(path(name)))
            case 6 if here is there:
                result(here.rename(path(name), path(new)))
            case 6:
                result(here.move_to(there, path(name), path(new)))
            case 7:
                result(here.make_directory(path(name)))
            case 8:
                result(here.remove_directory(path(name)))
            case 9:
                result(here.remove_tree(path(name)))


def change_for(seconds: float, homes: list[Path], seed: int, group: QuotaSettings | None = None) -> Callable[..., None]:
    """Return what a process does that changes homes in two threads."""

    def work(table: SharedTable, pipe: Connection) -> None:
        process = Process(table, homes, group)
        # In one thread, as the reactor does it.
        opened = [[process.open(0, 20_000, 6), process.open(1, 20_000)] for _ in range(2)]

        def change(number: int) -> None:
            chance, files = random.Random(f"{seed} {number}"), opened[number]
            until = time.monotonic() + seconds
            pipe.send("begun")
            while time.monotonic() < until:
                do_something(files, chance)
            for each in files:
                each.close()

        threads = [threading.Thread(target=change, args=(number,)) for number in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        pipe.send((process.counted(), process.quotas.counted_in_group("staff")))
        pipe.recv()  # until the others have ended, too

    return work


@pytest.mark.parametrize("seed", range(3))
def test_the_count_is_exact(made: tuple[SharedTable, TableWorkers], homes: list[Path], seed: int) -> None:
    """Three processes that upload, resume, delete, rename and move at once leave exactly the count of a walk.

    The quotas hold, that of the group, too.
    """
    table, workers = made
    group = QuotaSettings(bytes=Quantity(25_000))
    pipes = [workers.start(number, change_for(1.5, homes, 10 * seed + number, group))[1] for number in range(3)]
    supervisor = Process(table, homes, group)
    while not all(pipe.poll(0.05) for pipe in pipes):
        time.sleep(0.01)
    for pipe in pipes:
        while receive(pipe) == "begun":
            pass
    one, two = map(held, homes)
    assert supervisor.counted() == [one, two]
    assert supervisor.quotas.counted_in_group("staff") == one + two
    assert one.bytes <= 20_000 and one.files <= 6 and one.bytes + two.bytes <= 25_000
    assert not any(supervisor.counts.home(home).is_doubtful for home in supervisor.homes)
    assert len(table.files) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_process_is_killed(made: tuple[SharedTable, TableWorkers], homes: list[Path], seed: int) -> None:
    """After a process was killed at any moment the homes are counted again while others use them, then all is exact."""
    table, workers = made
    group = QuotaSettings(bytes=Quantity(25_000))
    chance = random.Random(seed)
    victim, killed_pipe = workers.start(0, change_for(20, homes, seed, group))
    pipes = [workers.start(number, change_for(2, homes, 10 * seed + number, group))[1] for number in (1, 2)]
    receive(killed_pipe)
    time.sleep(chance.uniform(0.1, 0.6))
    workers.kill(victim)
    table.clear(0)
    process = Process(table, homes, group)
    for number in range(2):
        run(process.usage(number).repair(process.clock.seconds))
    for pipe in pipes:
        while receive(pipe) == "begun":
            pass
    for number in range(2):  # a thread of the others may have had the names when the victim died
        run(process.usage(number).repair(process.clock.seconds))
    one, two = map(held, homes)
    assert process.counted() == [one, two]
    assert process.quotas.counted_in_group("staff") == one + two
    assert one.bytes <= 20_000 and one.bytes + two.bytes <= 25_000
    assert len(table.files) == 0


def hold_files(seconds: float) -> Callable[..., None]:
    """Return what a process does that has the lock of the charged part files for some time."""

    def work(table: SharedTable, pipe: Connection) -> None:
        with table.files._lock:
            pipe.send("begun")
            time.sleep(seconds)
        pipe.recv()

    return work


@pytest.mark.parametrize("complete", [True, False])
def test_a_process_is_slow(made: tuple[SharedTable, TableWorkers], homes: list[Path], complete: bool) -> None:
    """A process that is stopped for a moment, with the lock of the part files, makes no count wrong.

    An upload that ends meanwhile waits for it; one that begins is refused, and what it would resume counts once.
    """
    table, workers = made
    process = Process(table, homes)
    files = process.open(0, 20_000)
    ending: Any = files.writer(path("a"))()
    ending.write(bytes(500))
    cut: Any = files.writer(path("b"))()
    cut.write(bytes(300))
    cut.close()
    _, pipe = workers.start(0, hold_files(2.5))
    receive(pipe)
    with pytest.raises(Refusal, match="has a lock"):
        files.writer(path("b"), 300)()
    if complete:
        ending.publish()
    ending.close()
    assert process.counted()[0] == held(homes[0]) == Amount(800, 2)
    assert len(table.files) == 0


def receive_and_wait(homes: list[Path], names: str, size: int) -> Callable[..., None]:
    """Return what a process does that receives uploads until it is killed.

    An answer lets it release the locks of their part files, as the kernel does when it ends a process.
    """

    def work(table: SharedTable, pipe: Connection) -> None:
        files = Process(table, homes).open(0, 20_000)
        running: list[Any] = [files.writer(path(name))() for name in names]
        for each in running:
            each.write(bytes(size))
        pipe.send("begun")
        pipe.recv()
        for each in running:
            fcntl.flock(each._upload._fd, fcntl.LOCK_UN)
        pipe.send("unlocked")
        pipe.recv()

    return work


def test_nothing_counts_twice_after_a_kill(made: tuple[SharedTable, TableWorkers], homes: list[Path]) -> None:
    """What a killed process has received counts once as soon as another one resumes, replaces or deletes it.

    The supervisor may notice the kill before, in between, or after that. Then nothing needs to be counted again.
    """
    table, workers = made
    process = Process(table, homes)
    files = process.open(0, 1000)
    victim, pipe = workers.start(0, receive_and_wait(homes, "abcd", 200))
    receive(pipe)
    assert process.counted()[0] == Amount(800, 4)
    workers.kill(victim)
    assert process.counted()[0] == Amount(800, 4)
    result(files.remove(path("d")))
    assert process.counted()[0] == held(homes[0]) == Amount(600, 3)
    resumed: Any = files.writer(path("a"), 200)()
    assert process.counted()[0] == Amount(600, 3)
    again: Any = files.writer(path("b"))()
    again.write(bytes(400))
    assert process.counted()[0] == Amount(800, 3)
    table.clear(0)
    resumed.write(bytes(200))
    with pytest.raises(Refusal, match="Quota exceeded"):
        resumed.write(bytes(1))
    resumed.close()
    again.publish()
    again.close()
    result(files.remove(path("c")))
    assert process.counted()[0] == held(homes[0]) == Amount(400, 1)
    run(process.usage(0).repair(process.clock.seconds))
    assert process.counted()[0] == Amount(400, 1)
    assert not process.counts.home(process.homes[0]).is_doubtful
    assert len(table.files) == 0


def test_an_upload_is_resumed_while_its_process_is_being_killed(
    made: tuple[SharedTable, TableWorkers], homes: list[Path]
) -> None:
    """A part file counts once, also if the kernel has not yet released all locks of the process that it ends."""
    table, workers = made
    process = Process(table, homes)
    files = process.open(0, 1000)
    victim, pipe = workers.start(0, receive_and_wait(homes, "ab", 300))
    receive(pipe)
    pipe.send("unlock")
    receive(pipe)
    resumed: Any = files.writer(path("a"), 200)()
    assert process.counted()[0] == held(homes[0]) == Amount(500, 2)
    again: Any = files.writer(path("b"))()
    assert process.counted()[0] == Amount(200, 2)
    workers.kill(victim)
    table.clear(0)
    again.write(bytes(500))
    resumed.write(bytes(300))
    for each in (again, resumed):
        each.publish()
        each.close()
    assert process.counted()[0] == held(homes[0]) == Amount(1000, 2)
    run(process.usage(0).repair(process.clock.seconds))
    assert process.counted()[0] == Amount(1000, 2)


def test_a_process_that_is_killed_while_a_home_is_counted(
    made: tuple[SharedTable, TableWorkers], homes: list[Path]
) -> None:
    """If the charges of a killed process go in the last moment of a count, its part files are not left out."""
    table, workers = made
    process = Process(table, homes)
    process.open(0, 20_000)
    first, pipe = workers.start(0, receive_and_wait(homes, "a", 200))
    receive(pipe)
    second, pipe = workers.start(1, receive_and_wait(homes, "b", 300))
    receive(pipe)
    workers.kill(first)
    table.clear(0)
    count = process.counts.home(process.homes[0])
    lock = count.lock

    class KilledBefore:
        """The lock of the amounts. The process is killed before the walk takes it."""

        def __enter__(self) -> None:
            if second.is_alive():
                workers.kill(second)
                table.clear(1)
            lock.__enter__()

        def __exit__(self, *error: Any) -> None:
            lock.__exit__(*error)

    count.lock = KilledBefore()  # type: ignore[misc]
    run(process.usage(0).repair(process.clock.seconds))
    assert process.counted()[0] == held(homes[0]) == Amount(500, 2)
    assert not count.is_doubtful


def test_a_home_is_counted_before_the_supervisor_notices_a_kill(
    made: tuple[SharedTable, TableWorkers], homes: list[Path]
) -> None:
    """Two processes are killed. The home is counted when the supervisor has noticed one kill only: nothing counts twice."""
    table, workers = made
    process = Process(table, homes)
    running: Any = process.open(0, 20_000).writer(path("c"))()
    running.write(bytes(100))
    victims = []
    for number, name in enumerate("ab"):
        victim, pipe = workers.start(number, receive_and_wait(homes, name, 200))
        receive(pipe)
        victims.append(victim)
    for victim in victims:
        workers.kill(victim)
    table.clear(0)
    count = process.counts.home(process.homes[0])
    assert count.is_doubtful
    run(process.usage(0).repair(process.clock.seconds))
    assert process.counted()[0] == held(homes[0]) == Amount(500, 3)
    running.write(bytes(100))
    table.clear(1)
    assert not count.is_doubtful
    assert process.counted()[0] == held(homes[0]) == Amount(600, 3)
    running.publish()
    running.close()
    assert process.counted()[0] == held(homes[0]) == Amount(600, 3)


def test_every_moment_of_an_end_has_a_number(
    made: tuple[SharedTable, TableWorkers], homes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk during which a process ends is repeated, whatever the supervisor has done about that when the walk is complete."""
    table, workers = made
    process = Process(table, homes)
    process.open(0, 20_000)
    names = process.counts.home(process.homes[0]).names
    victim, pipe = workers.start(0, receive_and_wait(homes, "a", 200))
    receive(pipe)
    seen = [names.changes]
    workers.kill(victim)
    seen.append(names.changes)
    count_clear = table._memory.count_clear

    def look() -> None:
        seen.append(names.changes)
        count_clear()

    monkeypatch.setattr(table._memory, "count_clear", look)
    table.clear(0)
    alive, killed, noted = seen
    assert alive < killed < noted <= names.changes
    again, pipe = workers.start(0, receive_and_wait(homes, "b", 200))
    receive(pipe)
    begun = names.changes
    assert begun > noted
    workers.kill(again)
    assert names.changes > begun
