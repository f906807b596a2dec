"""Calls between the processes of the daemon."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor

from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system import link as links
from ftpsd.system.link import Link, LinkLost
from tests.inprocess import outcome

pytestmark = pytest.mark.quick


class Pair:
    """Two links that are connected, in one reactor, which runs while somebody waits."""

    def __init__(self) -> None:
        self.reactor: Any = EPollReactor()
        self.lost: list[str] = []
        self.supervisor = Link(self.reactor, lambda: self.lost.append("worker"))
        self.worker = Link(self.reactor, lambda: self.lost.append("supervisor"))
        ends = socket.socketpair()
        for end, link in zip(ends, (self.supervisor, self.worker), strict=True):
            link.connect(end)

    def until(self, condition: Callable[[], object]) -> None:
        """Run the reactor until a condition holds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.reactor.iterate(0.01)

    def result(self, answer: Deferred[Any]) -> Any:
        """Return or raise what a call returns."""
        results: list[Any] = []
        answer.addBoth(results.append)
        self.until(lambda: results)
        return outcome(results)

    def close(self) -> None:
        """Close both ends."""
        for link in (self.supervisor, self.worker):
            if link.transport is not None:
                link.transport.abortConnection()
        self.until(lambda: len(self.lost) == 2)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected links."""
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("value", [None, [], {"a": [1, 2.5, "ä\n"]}, "x" * 65535, ["ä" * 100_000] * 3])
def test_arguments_and_results_are_json_of_any_length(pair: Pair, value: object) -> None:
    """What is sent there comes back, also if it is longer than one value of AMP."""
    pair.supervisor.serve("echo", lambda *given: list(given))
    assert pair.result(pair.worker.call("echo", value, 1)) == [value, 1]


def test_both_ends_call_each_other(pair: Pair) -> None:
    """While a call waits, the other end may call."""

    async def double(number: int) -> object:
        return 2 * await pair.supervisor.call("number", number)

    pair.supervisor.serve("double", double)
    pair.worker.serve("number", lambda number: number + 1)
    assert pair.result(pair.worker.call("double", 20)) == 42


@pytest.mark.parametrize("error", [Refusal(552, "Quota exceeded."), SessionEnd(421, "Too many", "sessions.")])
def test_a_refusal_reaches_the_caller(pair: Pair, error: Refusal) -> None:
    """A refusal has the same reply at the caller, and ends the session if it was to end it."""

    def refuse() -> None:
        raise error

    pair.supervisor.serve("refuse", refuse)
    with pytest.raises(Refusal) as raised:
        pair.result(pair.worker.call("refuse"))
    assert raised.value.reply == error.reply
    assert isinstance(raised.value, SessionEnd) == isinstance(error, SessionEnd)


def test_an_internal_error_is_a_refusal(pair: Pair) -> None:
    """For any other exception, or a name that is not served, the caller gets 451; both ends go on."""
    pair.supervisor.serve("fail", lambda: 1 // 0)
    for name in ("fail", "nothing"):
        with pytest.raises(Refusal, match="451"):
            pair.result(pair.worker.call(name))
    pair.supervisor.serve("fail", lambda: "good")
    assert pair.result(pair.worker.call("fail")) == "good"


def test_calls_without_an_answer_keep_their_order(pair: Pair) -> None:
    """Calls without an answer are received in the order in which they were made; one that fails stops no other."""
    received: list[int] = []
    pair.worker.serve("note", lambda number: received.append(10 // number))
    for number in (1, 2, 0, 5):
        pair.supervisor.tell("note", number)
    pair.until(lambda: len(received) == 3)
    assert received == [10, 5, 2]


def test_the_end_of_a_process_ends_its_calls(pair: Pair) -> None:
    """Waiting calls and later calls raise LinkLost; `tell` does nothing then."""
    never: Deferred[None] = Deferred()
    pair.supervisor.serve("never", lambda: never)
    waiting = pair.worker.call("never")
    assert pair.supervisor.transport is not None
    pair.supervisor.transport.abortConnection()
    with pytest.raises(LinkLost):
        pair.result(waiting)
    assert "supervisor" in pair.lost
    with pytest.raises(LinkLost):
        pair.result(pair.worker.call("never"))
    pair.worker.tell("never")


def test_a_process_that_does_not_answer_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call ends after some seconds, and the link stays."""
    monkeypatch.setattr(links, "PATIENCE", 0.05)
    pair.supervisor.serve("never", Deferred)
    pair.supervisor.serve("soon", lambda: "good")
    with pytest.raises(LinkLost):
        pair.result(pair.worker.call("never"))
    assert pair.result(pair.worker.call("soon")) == "good"


def test_a_link_is_connected_again(pair: Pair) -> None:
    """When the other end has gone, another process may take its place: what is served stays, and calls reach it."""
    pair.worker.serve("echo", lambda text: text)
    assert pair.supervisor.transport is not None
    pair.supervisor.transport.abortConnection()
    pair.until(lambda: len(pair.lost) == 2)
    pair.lost.clear()
    near, far = socket.socketpair()
    successor = Link(pair.reactor)
    successor.serve("name", lambda: "successor")
    pair.worker.connect(near)
    successor.connect(far)
    assert pair.result(pair.worker.call("name")) == "successor"
    assert pair.result(successor.call("echo", "text")) == "text"
    pair.supervisor = successor
    pair.lost.append("supervisor")


def test_a_message_without_end(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that sends one is cut off: it cannot fill the memory of the other."""
    monkeypatch.setattr(links, "LARGEST", 1 << 20)
    received: list[int] = []
    pair.supervisor.serve("note", received.append)
    for _ in range(5):
        pair.worker.tell("note", "x" * 500_000)
    pair.until(lambda: len(received) == 5)
    assert pair.worker.transport is not None
    for number in range(40):
        pair.worker.transport.write(b"\0\4k%03d\xff\xff%s" % (number, b"x" * 65535))
    pair.until(lambda: "worker" in pair.lost)


@pytest.mark.parametrize(
    "message",
    [
        b"\0\x08_command\0\4note\0\0010\0\5[1, 2\0\0",
        b"\0\x08_command\0\4note\0\0010\0\0011\0\0",
        b"\0\x08_command\0\4note\0\0010\0\4[\xc3\xa4]\0\0",
        b"\0\x08_command\0\4note\0\0010\xff\xff%s\0\0" % (b"[" * 65535),
        b"\0\x08_command\0\4note\0\0",
        b"\0\0",
    ],
    ids=["cut JSON", "no list", "not ASCII", "too deep", "no arguments", "nothing"],
)
def test_a_message_that_no_process_sends(pair: Pair, message: bytes) -> None:
    """The connection is closed, and what comes behind the message is not read."""
    received: list[int] = []
    pair.supervisor.serve("note", received.append)
    pair.worker.tell("note", 1)
    pair.until(lambda: received)
    waiting = pair.supervisor.call("never")
    assert pair.worker.transport is not None
    pair.worker.transport.write(message)
    pair.worker.tell("note", 2)
    pair.until(lambda: len(pair.lost) == 2)
    with pytest.raises(LinkLost) as lost:
        pair.result(waiting)
    assert lost.value.closed
    assert received == [1]
    pair.supervisor.tell("note", 3)


def test_descriptors_that_no_process_sends(pair: Pair) -> None:
    """They are closed, and so is the connection: a process that was taken over cannot use up those of the other."""
    received: list[int] = []
    pair.supervisor.serve("note", received.append)
    pair.worker.tell("note", 1)
    pair.until(lambda: received)
    before = len(os.listdir("/proc/self/fd"))
    transport: Any = pair.worker.transport
    socket.send_fds(transport.socket, [b"\0\x08_command\0\4note\0\0010\0\3[2]\0\0"], [0] * 50)
    pair.until(lambda: len(pair.lost) == 2)
    assert received == [1]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_an_answer_that_is_no_json(pair: Pair) -> None:
    """The caller gets no answer, as if the other end had none; both ends go on."""
    pair.supervisor.serve("give", lambda: object())
    pair.supervisor.serve("soon", lambda: "good")
    with pytest.raises(LinkLost):
        pair.result(pair.worker.call("give", patience=0.05))
    assert pair.result(pair.worker.call("soon")) == "good"
    assert pair.reactor.getDelayedCalls() == []
