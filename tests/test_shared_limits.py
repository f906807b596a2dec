"""Counts and rate limits of several processes, with real processes that race and are killed."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from ftpsd.config.sections.groups import SharedLimits
from ftpsd.control.scheduler import SHORTEST_SLEEP
from ftpsd.limits.shared.state import SharedLedgerState
from ftpsd.limits.shared.table import SharedTable
from ftpsd.limits.shared.user_counts import SharedUserCounts
from ftpsd.limits.user_limits import Share, Sharer
from ftpsd.protocol.replies import Refusal
from tests.table_workers import SIZE, TableWorkers, receive, table_workers

pytestmark = pytest.mark.quick

Both = tuple[SharedTable, TableWorkers]


@pytest.fixture
def both() -> Iterator[Both]:
    """A table, and processes that use it."""
    with table_workers() as made:
        yield made


def share(kind: Sharer, name: str, **limits: int) -> Share:
    """What the sessions of a user, a group, a network or the server share."""
    return Share(kind, name, SharedLimits(**limits))  # type: ignore[arg-type]


def counts_of(table: SharedTable) -> SharedUserCounts:
    """The counts in a table."""
    return SharedUserCounts(table, time.monotonic)


def race(both: Both, work: Any) -> list[Any]:
    """Let three processes begin at the same moment, and return what each has done."""

    def run(table: SharedTable, pipe: Connection) -> None:
        counts = counts_of(table)
        pipe.send("ready")
        pipe.recv()
        pipe.send(work(counts))
        pipe.recv()

    pipes = [both[1].start(index, run)[1] for index in range(3)]
    for pipe in pipes:
        receive(pipe)
    for pipe in pipes:
        pipe.send("go")
    return [receive(pipe) for pipe in pipes]


def try_often(counts: SharedUserCounts, add: str, shares: list[Share]) -> int:
    """Try to add many sessions or transfers; return how many were admitted."""
    admitted = 0
    for _ in range(200):
        try:
            getattr(counts, f"add_{add}")(shares)
        except Refusal:
            continue
        admitted += 1
    return admitted


@pytest.mark.parametrize("what", ["session", "transfer"])
@pytest.mark.parametrize("kind", ["user", "group", "network", "server"])
def test_limits_are_exact_in_a_race(both: Both, what: str, kind: Sharer) -> None:
    """Three processes that try as often as they can get together exactly as many as the limit says."""
    shares = [share("user", "alice"), share(kind, "x", **{f"{what}s": 50}), share("server", "")]
    assert sum(race(both, lambda counts: try_often(counts, what, shares))) == 50


def test_several_limits_at_once(both: Both) -> None:
    """Sessions with several limits, in any order, are admitted until one of the limits is reached; no more, no fewer."""
    user, group, other = (
        share("user", "a", sessions=30),
        share("group", "g", sessions=40),
        share("group", "h", sessions=99),
    )

    def work(counts: SharedUserCounts) -> int:
        return try_often(counts, "session", random.sample([user, group, other], 3))

    assert sum(race(both, work)) == 30
    table = counts_of(both[0])
    assert table.sessions["a"] == table.group_sessions["g"] == table.group_sessions["h"] == 30


def test_nobody_is_refused_for_a_session_that_is_refused(both: Both) -> None:
    """Processes that stay within a limit are never refused, however fast another one tries in vain."""
    full, wide = share("user", "full", sessions=0), share("group", "g", sessions=2)

    def work(counts: SharedUserCounts) -> int:
        mine = share("user", str(random.random()), sessions=1)
        refused = 0
        for number in range(600):
            try:
                if number % 3 == 0:
                    with pytest.raises(Refusal, match="of this user"):
                        counts.add_session([full, wide])
                else:
                    counts.add_session([mine])
                    counts.remove_session([mine])
            except Refusal:
                refused += 1
        return refused

    assert race(both, work) == [0, 0, 0]
    assert not counts_of(both[0]).sessions and not counts_of(both[0]).group_sessions


def test_a_killed_process_returns_its_counts(both: Both) -> None:
    """What a process has counted is free again when it was killed, and only that."""
    table, workers = both
    shares = [share("user", "alice", sessions=3, transfers=3)]

    def work(table: SharedTable, pipe: Connection) -> None:
        counts = counts_of(table)
        counts.add_session(shares)
        counts.add_transfer(shares)
        pipe.send("counted")
        pipe.recv()

    processes = [workers.start(index, work) for index in range(3)]
    for _, pipe in processes:
        receive(pipe)
    counts = counts_of(table)
    with pytest.raises(Refusal, match=r"limit: 3"):
        counts.add_session(shares)
    workers.kill(processes[1][0])
    table.clear(1)
    assert dict(counts.sessions) == dict(counts.transfers) == {"alice": 2}
    counts.add_session(shares)
    counts.add_transfer(shares)
    with pytest.raises(Refusal, match="450"):
        counts.add_transfer(shares)


def test_counts_by_name(both: Both) -> None:
    """Counts can be read by name and in all, with names that are long or not ASCII."""
    counts = counts_of(both[0])
    names = ["alice", "jürgen", "x" * 250]
    for number, name in enumerate(names, 1):
        for _ in range(number):
            counts.add_session([share("user", name), share("group", "staff")])
    assert dict(counts.sessions.items()) == {name: number for number, name in enumerate(names, 1)}
    assert counts.sessions.get("jürgen", 0) == 2 and counts.sessions.get("bob", 0) == 0
    assert max(counts.sessions.values()) == 3 and len(counts.sessions) == 3 and set(counts.sessions) == set(names)
    assert dict(counts.group_sessions) == {"staff": 6} and not counts.group_transfers
    counts.remove_session([share("user", "alice"), share("group", "staff")])
    assert "alice" not in counts.sessions


def test_a_transfer_that_ends_after_its_session(both: Both) -> None:
    """The order in which a session and its transfer end makes no difference."""
    counts, shares = counts_of(both[0]), [share("user", "alice")]
    counts.add_session(shares)
    counts.add_transfer(shares)
    counts.remove_session(shares)
    assert dict(counts.transfers) == {"alice": 1}
    counts.remove_transfer(shares)
    assert not counts.transfers and not counts.sessions


def move(rate: int, seconds: float) -> Any:
    """Return work that moves bytes for some seconds, as a transfer with a rate limit would."""

    def work(counts: SharedUserCounts) -> int:
        (limit,) = counts.rate_limit(share("user", "alice", upload_rate=rate), "upload")
        moved, since = 0, time.monotonic()
        end = since + seconds
        turns = limit.join()
        due = turns.first
        while (now := time.monotonic()) < end:
            if due > now:
                time.sleep(due - now)
                continue
            count = turns.allowance(since)
            since = now
            moved += count
            due = turns.charge(count)
        turns.leave()
        return moved

    return work


@pytest.mark.parametrize("rate", [100_000, 50_000_000])
def test_a_rate_is_shared_by_processes(both: Both, rate: int) -> None:
    """Three processes move together what the rate says, and each a third of it, within 5 %."""
    moved = race(both, move(rate, 3.0))
    assert sum(moved) == pytest.approx(3 * rate, rel=0.05)
    for each in moved:
        assert each == pytest.approx(rate, rel=0.05)


def test_a_changed_rate_is_another_limit(both: Both) -> None:
    """A reload that changes a rate gives later sessions a limit of its own, which all processes share."""
    counts = counts_of(both[0])
    old, same, new = (
        counts.rate_limit(share("group", "g", download_rate=rate), "download")[0] for rate in (9000, 9000, 5000)
    )
    assert old is same and old is not new and (old.rate, new.rate) == (9000, 5000)
    assert not counts.rate_limit(share("group", "g"), "download")
    first, later = new.join().first, new.join().first
    assert later > first
    assert old.join().first < later


def test_a_killed_process_leaves_a_rate_to_the_others(both: Both) -> None:
    """Transfers of a killed process no longer share the rate."""
    table, workers = both

    def work(table: SharedTable, pipe: Connection) -> None:
        limit = counts_of(table).rate_limit(share("user", "alice", upload_rate=1_000_000), "upload")[0]
        for _ in range(9):
            limit.join()
        pipe.send("joined")
        pipe.recv()

    process, pipe = workers.start(0, work)
    receive(pipe)
    (mine,) = counts_of(table).rate_limit(share("user", "alice", upload_rate=1_000_000), "upload")
    turns = mine.join()
    assert turns.allowance(time.monotonic()) == 2000  # a tenth of a round
    workers.kill(process)
    table.clear(0)
    time.sleep(0.02)
    assert turns.allowance(time.monotonic()) == 20_000


def test_commands_before_the_login_are_limited_over_processes(both: Both) -> None:
    """Three processes get together the tokens of one bucket, and give back what a login returns."""
    table, workers = both
    now = 1000.0

    def work(table: SharedTable, pipe: Connection) -> None:
        bucket = SharedLedgerState(time.monotonic, table).strangers_bucket("192.0.2.0", 100.0, 1000.0, now)
        pipe.send("ready")
        pipe.recv()
        taken = 0
        while bucket.refill(now) > 0:
            bucket.take(1)
            taken += 1
        pipe.send(taken)
        pipe.recv()

    pipes = [workers.start(index, work)[1] for index in range(3)]
    for pipe in pipes:
        receive(pipe)
    for pipe in pipes:
        pipe.send("go")
    assert sum(receive(pipe) for pipe in pipes) == 1000
    counts = SharedLedgerState(time.monotonic, table)
    mine = counts.strangers_bucket("192.0.2.0", 100.0, 1000.0, now)
    assert mine.refill(now) <= 0 and mine.seconds_until(100) == 0.1, "then it looks again"
    assert mine.refill(now + 1) == 50 and mine.seconds_until(100) == 0
    mine.take(50)
    assert mine.refill(now + 1) == 50
    mine.take(1000)
    assert mine.tokens == 0 and mine.refill(now + 1.9) == 0, "the debt is one second's tokens"
    mine.put_back(990)
    assert mine.refill(now + 2) == 50
    theirs = counts.strangers_bucket("192.0.2.0", 100.0, 1000.0, now)
    assert theirs.refill(now + 2) == 50 and theirs.seconds_until(900) == 0
    other = counts.strangers_bucket("192.0.2.9", 100.0, 1000.0, now)
    assert other.tokens == 50 and other.seconds_until(1000) == 0


@pytest.mark.parametrize("connections", [1, 3, 10])
@pytest.mark.parametrize("floods", [1, 3])
def test_a_flood_leaves_tokens_to_other_processes(both: Both, connections: int, floods: int) -> None:
    """Floods in other processes leave one its part, although its clients connect and so take more than there is."""
    table, now = both[0], 1000.0
    buckets = [
        SharedLedgerState(time.monotonic, SharedTable.attach(os.dup(table.descriptor), index, *SIZE)).strangers_bucket(
            "192.0.2.0", 100.0, 1000.0, now
        )
        for index in range(1 + floods)
    ]
    mine = buckets[0]
    served, due, first = [0] * len(buckets), [now] * len(buckets), 0.0
    for _ in range(30):
        mine.take(3)
    for step in range(6000):
        now = 1000 + step / 100
        if step % (100 // connections) == 0:
            mine.take(3)
        for number in reversed(range(len(buckets))):
            if now >= due[number]:
                while buckets[number].refill(now) > 0:
                    buckets[number].take(1)
                    served[number] += 1
                due[number] = now + max(SHORTEST_SLEEP, buckets[number].seconds_until(1))
        first = first or (now - 1000 if served[0] else 0.0)
    assert first < 15, "the burst of 1000 tokens is used at first"
    assert min(served) > 60 * (100 - 3 * connections) / len(buckets) / 2
