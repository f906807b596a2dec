"""Events and log lines of workers: they reach the supervisor's hub and log in order, once, and whatever a worker sends."""

from __future__ import annotations

import json
import tracemalloc
import typing
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import task
from twisted.logger import Logger, eventAsText, globalLogPublisher

from ftpsd.events import hub as hubs
from ftpsd.events.hub import Hub
from ftpsd.events.linked import wire
from ftpsd.events.linked.log_lines import forward_log, leave_to_workers, relog
from ftpsd.events.linked.once import MOST, OnceForAll
from ftpsd.events.linked.receiver import Receiver
from ftpsd.events.linked.sender import BATCH, Sender
from ftpsd.events.linked.worker_hub import ForwardedEvents
from ftpsd.events.log_format import json_line
from ftpsd.events.tally import Tally
from ftpsd.events.types import (
    AdministrativeAct,
    Event,
    LoggedIn,
    SessionClosed,
    SessionEvent,
    SessionInfo,
    SessionOpened,
)
from ftpsd.system.link import LinkLost
from ftpsd.system.messages.codec import Malformed
from tests.links import LinkedWorkers
from tests.test_hub import ALICE, KINDS

pytestmark = pytest.mark.quick

TEXTS = st.text(max_size=20) | st.sampled_from(["", "\udcff.txt", "\x00\n", "ä" * 1000])
NUMBERS = st.integers(-(2**62), 2**62)
VALUES: dict[object, Any] = {
    int: NUMBERS,
    str: TEXTS,
    float: st.floats(-1e15, 1e15),
    bool: st.booleans(),
    type(None): st.none(),
    tuple[str, ...]: st.lists(TEXTS, max_size=5).map(tuple),
}


def values(hint: Any) -> Any:
    """Return a strategy for the values of a field."""
    if hint is SessionInfo:
        return st.builds(SessionInfo, NUMBERS, TEXTS, TEXTS, TEXTS, st.booleans())
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    return VALUES[hint] if hint in VALUES else st.one_of([values(each) for each in typing.get_args(hint)])


def events(kind: type[Event]) -> Any:
    """Return a strategy for events of a kind."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, *[values(hints[field.name]) for field in attrs.fields(kind)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_each_event_survives_the_way(kind: type[Event], data: st.DataObject) -> None:
    """An event of any kind, with any values, is the same event after the way through JSON."""
    event = data.draw(events(kind))
    received = wire.decode(json.loads(json.dumps(wire.encode(event))))
    assert received == event
    assert type(received) is kind
    if isinstance(event, SessionEvent) and isinstance(received, SessionEvent):
        assert received.session.label == event.session.label


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from([*wire.KINDS, "Event", "log", ""]), fields=st.lists(JSON, max_size=10))
def test_what_no_worker_sends_is_refused(name: str, fields: list[object]) -> None:
    """A list is an event with values of the right types, or it is refused."""
    try:
        event = wire.decode([name, *fields])
    except Malformed:
        return
    assert type(event).__name__ == name


@pytest.mark.parametrize(
    "session",
    [[True, "a", "b", "c", False], [1.0, "a", "b", "c", False], [1, "a", "b", "c", 0], [1, ["a"], "b", "c", False], 1],
)
def test_a_session_is_checked_each_time(session: object) -> None:
    """What equals a session that came before, but has other types, is refused."""
    wire.decode(["SessionOpened", [1, "a", "b", "c", False], False])
    with pytest.raises(Malformed):
        wire.decode(["SessionOpened", session, False])


@settings(max_examples=30, deadline=None)
@given(value=JSON)
def test_any_json_is_refused_or_an_event(value: object) -> None:
    """Other JSON is no event."""
    with pytest.raises(Malformed):
        wire.decode(value)


@settings(max_examples=30, deadline=None)
@given(fields=st.lists(JSON, max_size=8))
def test_any_json_is_refused_or_a_line(fields: list[object]) -> None:
    """The same holds for log lines."""
    with pytest.raises(Malformed):
        relog(["log", *fields], 0, OnceForAll(task.Clock().seconds))


@pytest.fixture
def workers() -> Iterator[LinkedWorkers]:
    """A supervisor with two workers."""
    made = LinkedWorkers(2)
    yield made
    made.close()


class Worker:
    """The end of one worker."""

    def __init__(self, workers: LinkedWorkers, index: int = 0) -> None:
        link = workers.ends[index]
        self.hub = Hub(workers.reactor)
        self.sender = Sender(workers.reactor, link)
        ForwardedEvents(self.hub, self.sender, link)


def opened(number: int) -> SessionOpened:
    """A session with this number begins."""
    return SessionOpened(attrs.evolve(ALICE, number=number), False)


def test_events_come_in_order_and_once(workers: LinkedWorkers) -> None:
    """What a worker publishes, the supervisor's listeners get: all of it, in order, and only what they want."""
    hub, got = Hub(workers.reactor), list[Event]()
    Receiver(workers.reactor, hub, workers)
    hub.subscribe("test", SessionOpened, got.append)
    hub.subscribe("test", LoggedIn, got.append)
    worker = Worker(workers)
    published: list[Event] = [each for number in range(250) for each in (opened(number), LoggedIn(ALICE, "fast"))]
    for event in published:
        worker.hub.publish(event)
        worker.hub.publish(SessionClosed(ALICE, 1.5))
    workers.until(lambda: len(got) == len(published))
    workers.turns()
    assert got == published
    assert set(worker.hub.wanted) == {SessionOpened, LoggedIn}


def test_a_worker_learns_what_is_wanted(workers: LinkedWorkers) -> None:
    """A later subscriber gets later events, and a reload, which subscribes again, loses none."""
    hub, got = Hub(workers.reactor), list[Event]()
    Receiver(workers.reactor, hub, workers)
    worker = Worker(workers)
    workers.until(lambda: not worker.hub.wanted)
    unsubscribe = hub.subscribe("test", SessionOpened, got.append)
    workers.until(lambda: worker.hub.wanted)
    for number in range(5):
        worker.hub.publish(opened(number))
        unsubscribe()
        unsubscribe = hub.subscribe("test", SessionOpened, got.append)
        workers.turns(3)
    workers.until(lambda: len(got) == 5)
    unsubscribe()
    workers.until(lambda: not worker.hub.wanted)
    assert worker.hub.tally is None
    hub.count(Tally())
    workers.until(lambda: worker.hub.tally is not None)
    hub.count(None)
    workers.until(lambda: worker.hub.tally is None)


def test_a_worker_that_starts_later_is_told(workers: LinkedWorkers) -> None:
    """A worker that replaces another one forwards, too."""
    hub, got = Hub(workers.reactor), list[Event]()
    hub.subscribe("test", SessionOpened, got.append)
    Receiver(workers.reactor, hub, workers)
    workers.end(1)
    workers.start(1)
    worker = Worker(workers, 1)
    worker.hub.publish(opened(1))
    workers.until(lambda: set(worker.hub.wanted) == {SessionOpened})
    workers.until(lambda: got == [opened(1)])


def test_what_waits_is_bounded(
    workers: LinkedWorkers, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]
) -> None:
    """A supervisor that does not answer gets one batch; the queue has an end, and what was dropped is logged."""
    hub, got = Hub(workers.reactor), list[Event]()
    hub.subscribe("test", SessionOpened, got.append)
    Receiver(workers.reactor, hub, workers)
    worker = Worker(workers)
    workers.turns()
    reader = workers.links[0].transport
    workers.reactor.removeReader(reader)
    capacity = hubs.CAPACITY
    for number in range(BATCH):
        worker.hub.publish(opened(number))
    workers.turns()
    for number in range(BATCH, BATCH + capacity + 7):
        worker.hub.publish(opened(number))
    workers.turns()
    state = worker.hub.queues["supervisor"]()
    assert (state.length, state.capacity, state.dropped) == (capacity, capacity, 7)
    workers.reactor.addReader(reader)
    workers.until(lambda: len(got) == BATCH + capacity)
    assert [event.session.number for event in got if isinstance(event, SessionEvent)] == list(range(BATCH + capacity))
    (line,) = [each for each in logged if "dropped" in str(each.get("log_format"))]
    assert (line["index"], line["count"]) == (0, 7)


def test_events_wait_for_the_next_supervisor(workers: LinkedWorkers) -> None:
    """What a worker publishes while no supervisor is there reaches the one that takes its place."""
    worker = Worker(workers)
    workers.end(0)
    workers.until(lambda: workers.ends[0].transport is None)
    worker.hub.publish(opened(1))
    workers.turns(60)
    worker.sender.flush()
    hub, got = Hub(workers.reactor), list[Event]()
    hub.subscribe("test", SessionOpened, got.append)
    Receiver(workers.reactor, hub, workers)
    end = workers.ends[0]
    workers.start(0, end)
    workers.until(lambda: got == [opened(1)])


def test_a_batch_without_an_answer_is_sent_to_the_next_supervisor(workers: LinkedWorkers) -> None:
    """What a supervisor has not read before its end reaches the next one: in order, and once."""
    worker, end = Worker(workers), workers.ends[0]
    workers.reactor.removeReader(workers.links[0].transport)
    for number in range(BATCH + 5):
        worker.hub.publish(opened(number))
    workers.turns()  # a batch is on its way
    workers.result(end_without_reading(workers, worker))
    hub, got = Hub(workers.reactor), list[Event]()
    hub.subscribe("test", SessionOpened, got.append)
    Receiver(workers.reactor, hub, workers)
    workers.start(0, end)
    workers.until(lambda: len(got) >= BATCH + 5)
    workers.turns()
    assert [event.session.number for event in got if isinstance(event, SessionEvent)] == [*range(BATCH + 5)]


async def end_without_reading(workers: LinkedWorkers, worker: Worker) -> None:
    """End the supervisor while the worker waits for its answer, as before its own end."""
    workers.links[0].transport.abortConnection()  # type: ignore[union-attr]
    with pytest.raises(LinkLost):
        await worker.sender.close()


def test_what_was_published_before_the_end_arrives(workers: LinkedWorkers) -> None:
    """A worker that ends sends what waits first; so does one that is asked for its figures."""
    hub, got = Hub(workers.reactor), list[Event]()
    hub.subscribe("test", SessionOpened, got.append)
    Receiver(workers.reactor, hub, workers)
    worker = Worker(workers)
    workers.ends[0].serve("figures", worker.sender.flush)
    workers.turns()
    for number in range(3 * BATCH):
        worker.hub.publish(opened(number))
    workers.result(workers.links[0].call("figures"))
    assert len(got) == 3 * BATCH
    for number in range(3 * BATCH):
        worker.hub.publish(opened(number))
    workers.result(worker.sender.close())
    assert [event.session.number for event in got if isinstance(event, SessionEvent)] == [*range(3 * BATCH)] * 2


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (None, None),
        ([], -1),
        ([["SessionOpened"]], 0),
        ([["SessionOpened", [1, "a", "b", "c", False], 1]], 0),
        ([["LoggedIn", [1, "a", "b", "c", False], "x" * 200_000, "", ""]], 0),
        ([["LoggedIn", [10**400, "a", "b", "c", False], "", "", ""]], 0),
        ([[["SessionOpened"]]], 0),
        ([{}], 0),
        ([["log", "info"]], 0),
        ([["AdministrativeAct", "kick", "all", "root"]], 0),
        ([["SessionOpened", [1, "a", "b", "c", False], True]] * (BATCH + 1), 0),
    ],
)
def test_a_worker_that_was_taken_over(
    workers: LinkedWorkers, arguments: tuple[object, ...], logged: list[dict[str, Any]]
) -> None:
    """What a worker sends in place of events is refused without an exception, and logged once; good events count."""
    hub, got = Hub(workers.reactor), list[Event]()
    hub.subscribe("test", AdministrativeAct, got.append)
    hub.subscribe("test", SessionOpened, got.append)
    Receiver(workers.reactor, hub, workers)
    for index in range(2):
        Worker(workers, index)
    for _ in range(3):
        workers.result(workers.ends[0].call("journal.batch", *arguments))
    assert got == []
    assert not [each for each in logged if each.get("log_failure")]
    (line,) = [each for each in logged if "no worker sends" in str(each.get("log_format"))]
    assert line["index"] == 0
    workers.result(workers.ends[0].call("journal.batch", [wire.encode(opened(1))], 0))
    assert got == [opened(1)]


# --- log lines -------------------------------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """What is logged during the test."""
    lines: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(lines.append)
    yield lines
    globalLogPublisher.removeObserver(lines.append)


class Capture:
    """Takes the items of a worker's log."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def put(self, item: object) -> None:
        """Append an item."""
        self.items.append(json.loads(json.dumps(item)))


@pytest.fixture
def forwarded() -> Iterator[Capture]:
    """What a worker's process forwards during the test; the observers of the suite get nothing."""
    before = list(globalLogPublisher._observers)
    capture = Capture()
    forward_log(typing.cast(Sender, capture))
    yield capture
    globalLogPublisher._observers[:] = before


def line_of(event: dict[str, Any]) -> str:
    """The line that twistd writes for an event."""
    return eventAsText(event, includeTraceback=True)


def test_a_line_is_logged_as_the_worker_would_have(forwarded: Capture) -> None:
    """Time, namespace, level, text, traceback and fields of a line are those of the worker; it is not logged twice."""
    original: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(original.append)
    log = Logger(namespace="ftpsd")
    log.warn("{path} is full: {count} files", path="/a\udcff", count=3, other=object())
    log.emit(log_level(log, "error"), "with a system", log_system="ftpsd")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.failure("internal error")
    log.info("x" * 100_000)
    globalLogPublisher._observers.clear()
    again: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(again.append)
    for item in forwarded.items:
        relog(item, 2, OnceForAll(task.Clock().seconds))
    assert [line_of(each) for each in again[:3]] == [line_of(each) for each in original[:3]]
    assert "RuntimeError: broken" in line_of(again[2])
    assert [each["log_level"] for each in again] == [each["log_level"] for each in original]
    fields = json.loads(json_line(again[0]))
    assert (fields["path"], fields["count"], fields["worker"], fields["level"]) == ("/a\udcff", 3, 2, "warn")
    assert len(line_of(again[3])) < 30_000


def log_level(log: Logger, name: str) -> Any:
    """A level by its name."""
    from twisted.logger import LogLevel

    return LogLevel.lookupByName(name)


def test_a_line_with_an_impossible_time_or_level_is_logged(forwarded: Capture) -> None:
    """A worker that was taken over cannot make an observer fail, nor use a field of Twisted's."""
    item = [
        "log",
        "no level",
        "ftpsd",
        None,
        1e300,
        "text",
        "",
        [["log_failure", "x"], ["line2", "y"], ["a", "b"]],
        [],
    ]
    with pytest.raises(Malformed):
        relog(item, 1, OnceForAll(task.Clock().seconds))
    item[4] = 1e17
    globalLogPublisher._observers.clear()
    again: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(again.append)
    relog(item, 1, OnceForAll(task.Clock().seconds))
    assert "[ftpsd#warn] text" in line_of(again[0])
    assert "log_failure" not in again[0]
    assert again[0]["a"] == "b"


def test_what_each_worker_finds_out_is_logged_once(forwarded: Capture) -> None:
    """Workers that see the same source go down and come back log that once, also when it goes down again."""
    log = Logger(namespace="ftpsd")
    log.warn("the source is down", log_once=True)
    log.info("it answers again", log_once=True)
    log.info("removed old part files")
    for client in ("192.0.2.1", "192.0.2.2"):
        log.info("announced to {client}", client=client, log_once="announced")
    down, up, other, *announced = forwarded.items
    globalLogPublisher._observers.clear()
    again: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(again.append)
    once = OnceForAll(task.Clock().seconds)
    for worker, item in (
        (0, down),
        (1, down),
        (1, up),
        (1, down),
        (0, up),
        (2, down),
        (0, down),
        (1, other),
        (0, other),
    ):
        relog(item, worker, once)
    assert [each["line"] for each in again] == ["the source is down", "it answers again", "the source is down"] + [
        "removed old part files"
    ] * 2
    assert not any("log_once" in each for each in again)
    for worker, item in enumerate(announced):
        relog(item, worker, once)
    assert again.pop()["line"] == "announced to 192.0.2.1"
    assert len(again) == 5
    for worker in (0, 1, 2):
        once.ended(worker)
    relog(down, 3, once)
    assert again[-1]["line"] == "the source is down" and len(again) == 6


def test_outages_that_different_workers_see_are_all_logged() -> None:
    """A worker that saw no earlier outage is the first to see the next one. No text is kept for ever."""
    clock = task.Clock()
    once = OnceForAll(clock.seconds)
    seen = []
    for worker in (0, 0, 1, 1):
        seen.append((once.is_new(worker, "down"), once.is_new(2, "down")))
        clock.advance(61)
    assert seen == [(True, False)] * 4
    assert once.is_new(0, "down") and once.is_new(0, "down")
    once.ended(1)
    assert not once.is_new(1, "down")
    for number in range(5000):
        once.is_new(0, str(number))
    assert len(once._logged) == MOST


def test_a_worker_that_was_taken_over_fills_no_memory(workers: LinkedWorkers) -> None:
    """The longest names of sessions, and the longest lines, are not kept."""
    Receiver(workers.reactor, Hub(workers.reactor), workers)
    long, batches = "\U0001f600" + "a" * 99_000, 20
    tracemalloc.start()
    try:
        for number in range(batches):
            session = [number, *[f"{number}{long}"] * 3, False]
            line = ["log", "info", "ftpsd", None, 0, "text", f"{number}{long}", [], []]
            workers.result(workers.ends[0].call("journal.batch", [["SessionOpened", session, False], line], 0))
        assert tracemalloc.get_traced_memory()[0] < batches * 200_000
    finally:
        tracemalloc.stop()


def test_the_supervisor_leaves_it_to_workers() -> None:
    """What the supervisor and its workers find out alike is not logged twice."""
    before = list(globalLogPublisher._observers)
    lines: list[dict[str, Any]] = []
    try:
        globalLogPublisher._observers[:] = [lines.append]
        leave_to_workers()
        log = Logger(namespace="ftpsd")
        log.info("own")
        log.info("down", log_once=True)
        log.info("down", log_once=True, worker=1)
        assert [(each["log_format"], each.get("worker")) for each in lines] == [("own", None), ("down", 1)]
    finally:
        globalLogPublisher._observers[:] = before
