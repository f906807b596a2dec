"""One-time passwords over several processes: each is good for one login at one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from ftpsd.accounts.one_time import totp
from ftpsd.accounts.one_time.shared_codes import SharedCodes, serve_codes
from ftpsd.accounts.one_time.totp import STEP, UsedCodes
from ftpsd.limits.shared.table import SharedTable
from ftpsd.system.state import Store
from tests.links import LinkedWorkers
from tests.table_workers import SIZE, TableWorkers, receive, table_workers

pytestmark = pytest.mark.quick

#: A moment, and its step.
NOW = 1_700_000_000.0
CURRENT = int(NOW // STEP)


@pytest.fixture
def both() -> Iterator[tuple[SharedTable, TableWorkers]]:
    """A table, and processes that use it."""
    with table_workers() as made:
        yield made


def codes_of(table: SharedTable, now: float = NOW) -> SharedCodes:
    """The codes of a process."""
    return SharedCodes(table, lambda: now, lambda user, step: None)


def test_a_code_is_good_for_one_login_in_a_race(both: tuple[SharedTable, TableWorkers]) -> None:
    """Three processes that use the same codes at the same time accept each code once."""

    def work(table: SharedTable, pipe: Connection) -> None:
        codes = codes_of(table)
        pipe.send("ready")
        pipe.recv()
        pipe.send([name for name in map(str, range(200)) if codes.use(name, CURRENT)])
        pipe.recv()

    pipes = [both[1].start(index, work)[1] for index in range(3)]
    for pipe in pipes:
        receive(pipe)
    for pipe in pipes:
        pipe.send("go")
    accepted = [name for pipe in pipes for name in receive(pipe)]
    assert sorted(accepted, key=int) == [*map(str, range(200))]


def test_steps(both: tuple[SharedTable, TableWorkers]) -> None:
    """An earlier code is refused after a later one; a code from a clock that was wrong locks nobody out."""
    codes = codes_of(both[0])
    assert codes.use("alice", CURRENT) and not codes.use("alice", CURRENT) and not codes.use("alice", CURRENT - 1)
    assert codes.use("alice", CURRENT + 1) and codes.use("bob", CURRENT)
    assert codes.use("carol", CURRENT + 1000) and codes.use("carol", CURRENT)
    assert codes.recent() == {"alice": CURRENT + 1, "bob": CURRENT, "carol": CURRENT}


def test_many_users(both: tuple[SharedTable, TableWorkers], monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that no clock shows any more are forgotten."""
    monkeypatch.setattr("ftpsd.accounts.one_time.shared_codes.MANY", 10)
    now = NOW
    codes = SharedCodes(both[0], lambda: now, lambda user, step: None)
    for number in range(10):
        codes.use(str(number), CURRENT)
    now += 10 * STEP
    codes.use("alice", CURRENT + 10)
    assert list(codes.recent()) == ["alice"] and not codes.use("alice", CURRENT + 10)


def test_the_supervisor_keeps_the_codes_of_workers() -> None:
    """The supervisor stores used codes: they stay used when a worker ends. Codes stored before are used up, too."""
    workers, table = LinkedWorkers(1), SharedTable.create(*SIZE)
    used = UsedCodes(Store(workers.reactor), time.time)
    step = int(time.time() // totp.STEP) + 1
    used.use("bob", step)
    serve_codes(workers, table, used, time.time)()
    end = workers.ends[0]
    worker = SharedTable.attach(os.dup(table.descriptor), 0, *SIZE)
    mine = SharedCodes(worker, time.time, lambda *noted: end.tell("accounts.code_used", *noted))
    assert mine.use("alice", step) and not mine.use("bob", step)
    workers.until(lambda: "alice" in used.recent())
    workers.end(0)
    table.clear(0)
    other = SharedCodes(SharedTable.attach(os.dup(table.descriptor), 1, *SIZE), time.time, lambda user, step: None)
    assert not other.use("alice", step) and not used.use("alice", step)
    workers.close()
