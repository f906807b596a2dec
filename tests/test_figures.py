"""Figures of several processes: they are added up, up to date, kept when a worker ends, and checked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpsd.accounts.chain.counts import SourceStatus
from ftpsd.events.hub import Hub, QueueState
from ftpsd.events.linked.receiver import Receiver
from ftpsd.events.linked.sender import BATCH, Sender
from ftpsd.events.linked.worker_hub import ForwardedEvents
from ftpsd.events.tally import Tally
from ftpsd.events.types import SessionOpened
from ftpsd.figures.figures import Figures, Process, Transfers, added, counts_of
from ftpsd.figures.local import LocalFigures, memory_in_use, report_last, serve_figures
from ftpsd.figures.merged import PATIENCE, MergedFigures, RunningWorker
from ftpsd.figures.wire import decode, encode
from ftpsd.limits.transfer_counts import INTERVAL, TransferCounts
from ftpsd.system.jobs.thread import ThreadUsage
from ftpsd.system.messages.codec import Malformed
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.worker_threads import WorkerThreads
from tests.links import LinkedWorkers
from tests.test_hub import ALICE
from tests.test_linked_events import JSON

pytestmark = pytest.mark.quick


def tally(count: int) -> Tally:
    """A tally with this count in each place."""
    made = Tally()
    made.commands["RETR", 226] = count
    made.rejected["banned"] = made.banned_logins = made.data_refused["foreign"] = count
    made.handshakes["control", "TLSv1.3", True] = count
    return made


def figures(count: int, error: str = "", limit: int | None = 100) -> Figures:
    """Figures in which each number is this one."""
    state: Any = "down" if error else "up"
    return Figures(
        sessions=count,
        transfers=Transfers(count, count, count, count, count, count),
        threads=ThreadUsage(count, count, count),
        ports=count,
        process=Process(count, count, count, limit),
        sources=(SourceStatus("sql[0]", "sql", state, error, {"found": count}, 0.5, count, count, count, count),),
        queues={"audit": QueueState(count, count, count)},
        tally=tally(count),
    )


def test_figures_are_added() -> None:
    """Counts, rates and queues are sums; a source is down if a process says so; the fewest descriptors count."""
    total = added([figures(1), figures(2, "sql[0]: gone"), figures(90, limit=1000)])
    assert (total.sessions, total.ports, total.threads) == (93, 93, (93, 93, 93))
    assert total.transfers == Transfers(93, 93, 93, 93, 93, 93)
    assert (total.process.descriptors, total.process.descriptor_limit) == (90, 1000)
    (source,) = total.sources
    assert (source.state, source.error, source.results, source.seconds) == ("down", "sql[0]: gone", {"found": 93}, 1.5)
    assert (source.waiting, source.hanging, source.remembered) == (93, 93, 90)
    assert total.queues == {"audit": QueueState(93, 93, 93)}
    assert total.tally.commands == {("RETR", 226): 93}
    assert total.tally.handshakes["control", "TLSv1.3", True] == total.tally.banned_logins == 93


def test_what_has_ended_has_counted() -> None:
    """Of a process that has ended, only its counts remain."""
    left = counts_of(figures(7, "down"))
    assert (left.sessions, left.ports, left.threads, left.process.memory) == (0, 0, (0, 0, 0), 0)
    assert left.transfers == Transfers(0, 0, 0, 0, 7, 7)
    assert (left.sources[0].state, left.sources[0].waiting, left.sources[0].results) == ("unknown", 0, {"found": 7})
    assert left.queues == {"audit": QueueState(0, 0, 7)}
    assert left.tally.commands == {("RETR", 226): 7}


def test_figures_survive_the_way() -> None:
    """Figures are the same after the way through JSON."""
    assert decode(json.loads(json.dumps(encode(figures(3, "e"))))) == figures(3, "e")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_no_worker_sends_is_refused(data: st.DataObject) -> None:
    """JSON with anything in the place of one value is refused, or has a value of the right type there."""
    value: Any = json.loads(json.dumps(encode(figures(3))))
    place = value
    while isinstance(place, list) and place:
        index = data.draw(st.integers(0, len(place) - 1))
        if not isinstance(place[index], list) or data.draw(st.booleans()):
            place[index] = data.draw(JSON)
            break
        place = place[index]
    try:
        added([decode(value)])
    except Malformed:
        pass


def test_too_many_labels_are_refused() -> None:
    """A worker that was taken over cannot make any number of time series."""
    many = figures(1)
    many.tally.commands = {("RETR", code): 1 for code in range(5000)}
    with pytest.raises(Malformed):
        decode(json.loads(json.dumps(encode(many))))


def test_memory_is_measured() -> None:
    """The memory of this process is that of a Python program."""
    assert 5 << 20 < memory_in_use() < 4 << 30


class NoSources:
    """No sources of users."""

    def status(self) -> tuple[()]:
        """None."""
        return ()


class Described:
    """A worker."""

    def __init__(self, index: int) -> None:
        self._index = index

    def description(self) -> RunningWorker:
        """What is known of it."""
        return RunningWorker(self._index, 100 + self._index, "serving", 1.5)


class Workers(LinkedWorkers):
    """Two workers with a hub each, and the figures of their supervisor."""

    restarts = 0

    def __init__(self) -> None:
        super().__init__(2)
        self.hub = Hub(self.reactor)
        Receiver(self.reactor, self.hub, self)
        self.hubs = [Hub(self.reactor) for _ in range(2)]
        self.counts = [TransferCounts(self.reactor.seconds) for _ in range(2)]
        self.locals: list[LocalFigures] = []
        for index, hub in enumerate(self.hubs):
            sender = Sender(self.reactor, self.ends[index])
            ForwardedEvents(hub, sender, self.ends[index])
            self.locals.append(self._local(hub, self.counts[index]))
            serve_figures(self.ends[index], self.locals[-1], sender)
        self.figures = MergedFigures(self.reactor, self._local(self.hub, TransferCounts(self.reactor.seconds)), self)
        self.hub.count(Tally())
        self.until(lambda: all(hub.tally is not None for hub in self.hubs))

    def _local(self, hub: Hub, counts: TransferCounts) -> LocalFigures:
        sources: Any = NoSources()
        threads = WorkerThreads(self.reactor)
        return LocalFigures(self.reactor, hub, [None], counts, threads, sources, lambda: 2, lambda: 1000)

    @property
    def processes(self) -> dict[int, Described]:
        """The workers."""
        return {index: Described(index) for index in self.links}

    def refreshed(self) -> Figures:
        """The figures of all processes now."""
        self.result(self.figures.refresh())
        return self.figures.read()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """A supervisor with two workers."""
    made = Workers()
    yield made
    made.close()


class Stream:
    """A transfer that has moved some bytes."""

    moved = 500


def test_the_figures_of_all_workers(workers: Workers) -> None:
    """Figures are those of the moment at which they were asked for, and each worker is shown."""
    stream = Stream()
    workers.counts[0].begin(stream, "upload")
    workers.counts[1].begin(Stream(), "download")
    for hub in (workers.hub, *workers.hubs):
        assert hub.tally is not None
        hub.tally.command("NOOP", 200)
    found = workers.refreshed()
    assert (found.transfers.uploads, found.transfers.downloads, found.transfers.uploaded) == (1, 1, 500)
    assert found.tally.commands == {("NOOP", 200): 3}
    assert (found.ports, found.sessions) == (6, 3)
    shown = workers.figures.workers()
    assert [(each.index, each.pid, each.state, each.since, each.answers) for each in shown] == [
        (0, 100, "serving", 1.5, True),
        (1, 101, "serving", 1.5, True),
    ]
    assert [each.figures.process.memory for each in shown if each.figures] == [1000, 1000]
    workers.counts[0].end(stream)
    assert workers.refreshed().transfers.uploads == 0


def test_events_come_before_the_figures(workers: Workers) -> None:
    """All that a worker has published before it is asked is counted when it has answered."""
    got: list[object] = []
    workers.hub.subscribe("test", SessionOpened, got.append)
    workers.turns()
    for _ in range(3 * BATCH):
        workers.hubs[1].publish(SessionOpened(ALICE, False))
    workers.refreshed()
    assert len(got) == 3 * BATCH


def test_a_worker_that_does_not_answer(workers: Workers) -> None:
    """After a second its last figures stand for it, and it is shown as one that does not answer, until it does."""
    workers.counts[0].begin(Stream(), "upload")
    workers.refreshed()
    workers.freeze(0)
    began = time.monotonic()
    assert workers.refreshed().transfers.uploads == 1
    assert PATIENCE <= time.monotonic() - began < PATIENCE + 3
    assert [each.answers for each in workers.figures.workers()] == [False, True]
    workers.reactor.addReader(workers.ends[0].transport)
    workers.refreshed()
    assert [each.answers for each in workers.figures.workers()] == [True, True]


@pytest.mark.parametrize("value", [None, [], [1] * 8, "x"])
def test_a_worker_that_was_taken_over(workers: Workers, value: object) -> None:
    """What is no figures is not counted, and the worker is shown as one that does not answer."""
    workers.ends[1].serve("figures.read", lambda: value)
    assert workers.refreshed().sessions == 2
    assert [each.answers for each in workers.figures.workers()] == [True, False]


def test_counts_never_decrease(workers: Workers) -> None:
    """What a worker has counted still counts when it has ended; what it did last is known if it could say so."""
    tally = workers.hubs[1].tally
    assert tally is not None
    tally.command("NOOP", 200)
    workers.refreshed()
    tally.command("NOOP", 200)
    stream = Stream()
    workers.counts[1].begin(stream, "upload")
    workers.counts[1].end(stream)
    report_last(workers.ends[1], workers.locals[1])
    workers.end(1)
    found = workers.refreshed()
    assert found.tally.commands == {("NOOP", 200): 2}
    assert (found.transfers.uploaded, found.sessions, found.ports) == (500, 2, 4)
    assert [each.index for each in workers.figures.workers()] == [0]
    workers.start(1)
    workers.ends[1].serve("figures.read", lambda: encode(workers.locals[0].read()))
    workers.ends[1].serve("journal.want", lambda *_: None)
    assert workers.refreshed().tally.commands == {("NOOP", 200): 2}


def test_rates_are_measured_when_somebody_wants_them(workers: Workers) -> None:
    """Workers take samples from `start` to `stop`, also one that starts meanwhile."""
    sampled: list[int] = []
    for index, counts in enumerate(workers.counts):
        counts.sample = lambda index=index: sampled.append(index)  # type: ignore[method-assign,misc]
        workers.locals[index]._sampling = PeriodicTask(workers.reactor, "sampling", counts.sample)
    workers.turns()
    assert not sampled
    workers.figures.start()
    workers.figures.start()
    workers.until(lambda: sorted(sampled) == [0, 1])
    workers.figures.stop()
    workers.until(lambda: not any(each._sampling.running for each in workers.locals))
    assert INTERVAL > 0


def test_faults(workers: Workers) -> None:
    """A worker whose threads do not begin a job is named, and so is the lack of workers."""
    workers.figures._own.faults = _nothing  # type: ignore[method-assign]
    for index in range(2):
        workers.ends[index].serve("figures.responds", lambda index=index: index == 0)
    assert workers.result(workers.figures.faults()) == [
        "the worker threads of worker 1 do not respond: a disk may not respond"
    ]
    workers.end(0)
    workers.end(1)
    assert workers.result(workers.figures.faults()) == ["no worker process is ready"]


async def _nothing() -> tuple[()]:
    return ()
