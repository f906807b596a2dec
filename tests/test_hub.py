"""The hub of events and its listeners: who gets which event, and that no listener breaks or delays a session."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from ftpsd.commands import TABLE
from ftpsd.events import types
from ftpsd.events.hub import BATCH, Hub
from ftpsd.events.log import Log
from ftpsd.events.log_budget import LogBudget
from ftpsd.events.session_events import HIDDEN, SessionEvents, info
from ftpsd.events.types import (
    BanEnded,
    CommandAnswered,
    ConfigurationLoaded,
    DaemonStarted,
    Event,
    FileChanged,
    LoggedIn,
    LoginFailed,
    QuietCommandAnswered,
    SessionClosed,
    SessionEvent,
    SessionOpened,
    TransferEnded,
    TransferStarted,
)
from ftpsd.protocol.addresses import plain_address
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.replies import Reply
from tests.inprocess import Server

#: Every kind of event.
KINDS = [
    kind
    for kind in vars(types).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, SessionEvent)
]

ALICE = info(22, plain_address("203.0.113.9"))


def example(kind: type[Event]) -> Event:
    """An event of a kind, with a value of the right type in each field."""
    values: dict[object, object] = {int: 1, str: "192.0.2.1", float: 1.5, bool: True, tuple[str, ...]: ("fault",)}
    hints = typing.get_type_hints(kind)

    def value(hint: Any) -> object:
        if hint is types.SessionInfo:
            return ALICE
        arguments = typing.get_args(hint)
        if typing.get_origin(hint) is typing.Literal:
            return arguments[0]
        return values[hint] if hint in values else value(arguments[0])

    return kind(**{field.name: value(hints[field.name]) for field in attrs.fields(kind)})


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """What is logged during the test."""
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def session(hub: Hub, known: bool = True) -> SessionEvents:
    """The events of a session without a login."""
    return SessionEvents(hub, ALICE, lambda _: known)


# --- listeners -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_gets_the_kinds_that_it_wants(kind: type[Event]) -> None:
    """Each event reaches the listeners of exactly its kind, in the order of publication."""
    hub = Hub(Clock())
    got: list[Event] = []
    for each in KINDS:
        hub.subscribe("test", each, lambda event, each=each: got.append(event) if each is kind else None)
    events = [example(each) for each in KINDS]
    for event in events:
        hub.publish(event)
    assert got == [event for event in events if type(event) is kind]
    assert set(hub.wanted) == set(KINDS)


def test_a_listener_can_leave() -> None:
    """A subscription ends when its function is called, and then nobody wants the event any more."""
    hub = Hub(Clock())
    got: list[str] = []
    first = hub.subscribe("first", DaemonStarted, lambda _: got.append("first"))
    second = hub.subscribe("second", DaemonStarted, lambda _: got.append("second"))
    hub.publish(DaemonStarted())
    first()
    first()
    hub.publish(DaemonStarted())
    assert DaemonStarted in hub.wanted
    second()
    hub.publish(DaemonStarted())
    assert got == ["first", "second", "second"]
    assert DaemonStarted not in hub.wanted


def test_an_exception_of_a_listener_reaches_no_session(logged: list[dict[str, Any]]) -> None:
    """A listener that raises is logged once, by its name; the others and later events are served."""
    hub = Hub(Clock())
    got: list[Event] = []

    def broken(_: Event) -> None:
        raise RuntimeError("broken")

    hub.subscribe("the broken one", DaemonStarted, broken)
    hub.subscribe("the other", DaemonStarted, got.append)
    for _ in range(3):
        hub.publish(DaemonStarted())
    assert len(got) == 3
    (line,) = logged
    assert line["name"] == "the broken one"
    assert isinstance(line["log_failure"].value, RuntimeError)


def test_a_broken_listener_breaks_no_session(tmp_path: Any) -> None:
    """With a listener that raises at each event, a session works as without one."""
    server = Server(tmp_path)
    for kind in KINDS:
        server.hub.subscribe("broken", kind, lambda _: 1 / 0)
    client = server.connect().log_in()
    assert client.say("PWD").startswith("257")
    assert client.say("MKD d").startswith("257")
    assert client.say("QUIT").startswith("221")


# --- queues ----------------------------------------------------------------------------------------


def test_a_consumer_gets_events_later_in_batches() -> None:
    """A queue delays nobody: the consumer is called in later turns of the reactor, with some events at a time."""
    clock = Clock()
    hub = Hub(clock)
    batches: list[list[Event]] = []
    hub.subscribe_queue("test", [BanEnded], lambda batch: batches.append(list(batch)))
    events = [BanEnded("user", str(number), "lifted") for number in range(BATCH + 1)]
    for event in events:
        hub.publish(event)
    assert batches == []
    clock.advance(0)
    assert batches == [events[:BATCH], events[BATCH:]]
    hub.publish(events[0])
    clock.advance(0)
    assert batches[2] == [events[0]]


def test_a_slow_consumer_loses_events_and_they_are_counted(logged: list[dict[str, Any]]) -> None:
    """While a consumer works, its queue fills up to its bound; what comes then is dropped, counted and logged."""
    clock = Clock()
    hub = Hub(clock)
    working: list[Deferred[None]] = []

    def consume(_: object) -> Deferred[None]:
        working.append(Deferred())
        return working[-1]

    queue = hub.subscribe_queue("slow", [DaemonStarted], consume, capacity=5)
    hub.publish(DaemonStarted())
    clock.advance(0)
    for _ in range(12):
        hub.publish(DaemonStarted())
    clock.advance(1000)
    assert (len(working), len(queue), queue.dropped) == (1, 5, 7)
    working[0].callback(None)
    clock.advance(0)
    working[1].callback(None)
    clock.advance(0)
    assert (len(working), len(queue), queue.dropped) == (2, 0, 7)
    assert [line["log_format"].format(**line) for line in logged] == [
        "the listener slow is too slow: events are dropped",
        "7 events for the listener slow were dropped",
    ]


def test_a_consumer_survives_its_exceptions(logged: list[dict[str, Any]]) -> None:
    """A consumer that raises, or whose Deferred fails, is logged once and gets the next events."""
    clock = Clock()
    hub = Hub(clock)
    results = iter(["raises", "fails", "works"])
    outcomes: list[str] = []

    def consume(_: object) -> Deferred[None] | None:
        outcomes.append(next(results))
        if outcomes[-1] == "raises":
            raise RuntimeError("in the call")
        return fail(RuntimeError("in the Deferred")) if outcomes[-1] == "fails" else None

    queue = hub.subscribe_queue("test", [DaemonStarted], consume)
    for _ in range(3):
        hub.publish(DaemonStarted())
        clock.advance(0)
    assert outcomes == ["raises", "fails", "works"]
    assert [line["name"] for line in logged] == ["test"]
    queue.close()
    hub.publish(DaemonStarted())
    assert len(queue) == 0


# --- what a session publishes ------------------------------------------------------------------------


def test_no_event_has_a_secret() -> None:
    """A password is in no event, whether its command succeeds, fails, or is misspelled; nor is an unknown name."""
    hub = Hub(Clock())
    got: list[Event] = []
    for kind in KINDS:
        hub.subscribe("test", kind, got.append)
    stranger = session(hub, known=False)
    for verb, code in (("PASS", 530), ("PASS", 230), ("PAS", 500), ("USER", 331), ("ACCT", 202), ("HELP", 502)):
        stranger.command_answered(TABLE.get(verb), verb, "hunter2", Reply(code, "text"), 0.1, None)
    stranger.command_answered(TABLE["PWD"], "PWD", "hunter2", Reply(501, "text"), 0.1, None)
    stranger.publish(LoginFailed(stranger.session, stranger.visible_name("hunter2")))
    assert len(got) == 8
    assert "hunter2" not in repr(got)
    assert repr(got).count(HIDDEN) == 8


def test_quiet_commands_are_events_of_their_own_kind() -> None:
    """PWD is published for those who listen to quiet commands; a PWD that fails is like any other command."""
    hub = Hub(Clock())
    quiet: list[Event] = []
    loud: list[Event] = []
    hub.subscribe("quiet", QuietCommandAnswered, quiet.append)
    hub.subscribe("loud", CommandAnswered, loud.append)
    events = session(hub)
    events.logged_in("alice", "")
    for code in (257, 550):
        events.command_answered(TABLE["PWD"], "PWD", "", Reply(code, "text"), 0.1, None)
    assert [(event.command, event.code) for event in quiet] == [("PWD", 257)]
    assert [(event.command, event.code, event.session.user) for event in loud] == [("PWD", 550, "alice")]


def test_a_transfer_ends_with_the_reply_of_its_command() -> None:
    """The end of a transfer has the path, the bytes, the duration, the rate and the result."""
    clock = Clock()
    hub = Hub(clock)
    got: list[Any] = []
    for kind in (TransferStarted, TransferEnded, CommandAnswered):
        hub.subscribe("test", kind, got.append)
    events = session(hub)
    events.transfer_started("upload", VirtualPath(("in", "a.txt")), 100)
    clock.advance(2)
    events.command_answered(TABLE["STOR"], "STOR", "a.txt", Reply(426, "broken"), 2.5, 500)
    started, ended, answered = got
    assert (started.kind, started.path, started.offset) == ("upload", "/in/a.txt", 100)
    assert (ended.kind, ended.path, ended.offset, ended.bytes) == ("upload", "/in/a.txt", 100, 500)
    assert (ended.seconds, ended.rate, ended.code, ended.complete) == (2, 250, 426, False)
    assert (answered.bytes, answered.changed) == (500, True)
    events.command_answered(TABLE["STOR"], "STOR", "b.txt", Reply(550, "no"), 0.1, 0)
    assert len(got) == 4  # it had not begun


def test_the_events_of_a_session(tmp_path: Any) -> None:
    """A session publishes what its client causes, in order, from the connection to its end."""
    server = Server(tmp_path)
    got: list[Event] = []
    for kind in KINDS:
        if kind not in (CommandAnswered, QuietCommandAnswered):
            server.hub.subscribe("test", kind, got.append)
    client = server.connect()
    client.say("USER alice")
    client.say("PASS wrong")
    client.say("USER alice")
    client.say("PASS secret")
    for line in ("MKD d", "RNFR d", "RNTO e", "SITE CHMOD 700 e", "MFMT 20240101000000 e", "RMD e", "RMDA nothing"):
        client.say(line)
    client.say("REIN")
    client.leave()
    assert [type(event) for event in got if not isinstance(event, FileChanged)] == [
        SessionOpened,
        LoginFailed,
        LoggedIn,
        types.LoggedOut,
        SessionClosed,
    ]
    assert [(event.change, event.path, event.new_path) for event in got if isinstance(event, FileChanged)] == [
        ("directory_made", "/d", None),
        ("renamed", "/d", "/e"),
        ("mode_changed", "/e", None),
        ("time_changed", "/e", None),
        ("directory_removed", "/e", None),
    ]


# --- the log ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_takes_every_event(kind: type[Event], logged: list[dict[str, Any]]) -> None:
    """No kind of event breaks the log, and a line about a session names it."""
    hub = Hub(Clock())
    Log(hub, LogBudget(Clock()), verbose=True)
    hub.publish(example(kind))
    assert not any("log_failure" in line for line in logged)
    for line in logged:
        text = line["log_format"].format(**line)
        assert "203.0.113.9" in text or not issubclass(kind, SessionEvent)


def test_the_log_leaves_quiet_commands_out(logged: list[dict[str, Any]]) -> None:
    """Without --verbose nobody wants quiet commands, so that their events are not even made."""
    hub = Hub(Clock())
    Log(hub, LogBudget(Clock()))
    assert QuietCommandAnswered not in hub.wanted
    assert TransferStarted not in hub.wanted
    hub.publish(example(QuietCommandAnswered))
    hub.publish(example(ConfigurationLoaded))
    assert len(logged) == 1
