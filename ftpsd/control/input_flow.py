"""Decide when a control connection is read: InputFlow, the only owner of pause and resume.

Reading is paused for any of four reasons, and continues when none is left. Bytes that have arrived wait meanwhile, in
this process as far as they were read, and in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ftpsd.control.scheduler import ClientGroup, Task
from ftpsd.events.session_events import SessionEvents
from ftpsd.events.types import CommandsSlowed
from ftpsd.limits.token_bucket import CommandRate
from ftpsd.system.reactor import Clock

#: Why the control connection is not read now.
REPLIES_UNREAD = "the client does not read its replies"
QUEUE_FULL = "many commands wait"
TOO_FAST = "commands come too fast"
OTHERS_TURN = "other sessions have their turn"


class Reader(Protocol):
    """What reads the connection: Twisted's LineReceiver."""

    def pauseProducing(self) -> None:
        """Read no more."""

    def resumeProducing(self) -> None:
        """Read again."""


class _Nobody:
    """What reads a connection that is lost."""

    def pauseProducing(self) -> None:
        """Do nothing."""

    def resumeProducing(self) -> None:
        """Do nothing."""


_NOBODY = _Nobody()


class InputFlow:
    """Pauses and resumes the reading of one control connection, and counts its commands per second.

    `task` is the session in the scheduler; `take_turn` is called when its turn has come.
    """

    __slots__ = ("_clock", "_events", "_rate", "_reader", "closed", "commands_left", "paused", "task")

    def __init__(
        self,
        reader: Reader,
        clock: Clock,
        group: ClientGroup,
        take_turn: Callable[[], None],
        commands_per_second: int | None,
        events: SessionEvents,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._events = events
        self._rate = None if commands_per_second is None else CommandRate(commands_per_second, clock.seconds)
        #: Counts down with each command; at 0 the rate decides (`refill`). Without a rate it is below 0 from the start.
        self.commands_left = -1 if self._rate is None else self._rate.burst
        #: The reasons for which nothing is read.
        self.paused: set[str] = set()
        self.task = Task(group, self._wait_for_turn, take_turn)
        #: Whether the session has ended, so that nothing is to be read any more.
        self.closed = False

    def pause_reading(self, reason: str) -> None:
        """Read no more until this reason is gone."""
        if not self.paused:
            self._reader.pauseProducing()
        self.paused.add(reason)

    def resume_reading(self, reason: str) -> None:
        """Remove a reason. If none is left, reading continues in the session's next turn."""
        if reason in self.paused:
            self.paused.discard(reason)
            if not self.paused and not self.closed:
                self.task.wait()

    def connection_lost(self) -> None:
        """Nothing is read any more, and nothing of the session continues."""
        self.closed = True
        self._reader = _NOBODY
        self.task.leave()

    def _wait_for_turn(self) -> None:
        self.pause_reading(OTHERS_TURN)

    def turn_begins(self) -> None:
        """The session's turn has come."""
        self.paused.discard(OTHERS_TURN)

    def read_on(self) -> None:
        """Read again, unless there is a reason not to."""
        if not self.paused and not self.closed:
            self._reader.resumeProducing()

    def refill(self) -> None:
        """Allow as many more commands as the rate limit does; if it allows none, pause until it does."""
        rate = self._rate
        if rate is None:
            return
        self.commands_left = rate.refill()
        if self.commands_left:
            self.resume_reading(TOO_FAST)
        elif not self.closed:
            if not rate.exceeded:  # logged once per session
                rate.exceeded = True
                self._events.publish(CommandsSlowed(self._events.session, rate.rate))
            self.pause_reading(TOO_FAST)
            self._clock.callLater(rate.pause, self.refill)


class Backpressure:
    """Pauses reading while the client does not read its replies. The transport calls it (IPushProducer)."""

    def __init__(self, flow: InputFlow) -> None:
        self._flow = flow

    def pauseProducing(self) -> None:
        """Too many bytes wait to be sent."""
        self._flow.pause_reading(REPLIES_UNREAD)

    def resumeProducing(self) -> None:
        """Enough bytes were sent."""
        self._flow.resume_reading(REPLIES_UNREAD)

    def stopProducing(self) -> None:
        """The connection is lost."""
