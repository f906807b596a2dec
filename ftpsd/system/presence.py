"""Notice when this process did not run: deadlines of clients, disks and other processes must not count that time.

A process does not run while it is stopped (SIGSTOP, a frozen cgroup, a suspended virtual machine). On a busy machine
it runs late. Timers then fire before the daemon has read what arrived meanwhile. So whatever ends something because
another party was silent asks `time_left` first, and waits again for what is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.internet.error import AlreadyCalled
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ftpsd.system.memory.nothing import do_nothing
from ftpsd.system.reactor import Clock, DelayedCall

T = TypeVar("T")

#: Seconds between two looks at the clock.
INTERVAL = 1.0

#: Seconds by which a look may be late. A turn of the reactor takes less.
TOLERANCE = 0.25

#: Absences that are remembered: the last minutes of a machine on which each look is late.
_MOST = 500

#: The presence of this process, by the clock of its timers.
_all: WeakKeyDictionary[Clock, Presence] = WeakKeyDictionary()


class Presence:
    """Looks at the clock at regular intervals. A look that is late shows an absence. For the reactor thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due = 0.0
        #: The ends of absences, and their seconds; the last one is the last.
        self._absences: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._call: DelayedCall | None = None

    def start(self) -> None:
        """Begin to look, and serve `time_left` for deadlines of the same clock."""
        _all[self._clock] = self
        self._next()

    def stop(self) -> None:
        """Look no longer. May be called any number of times."""
        _all.pop(self._clock, None)
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _next(self) -> None:
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        if now - self._due > TOLERANCE:
            self._absences.append((now, now - self._due))
        self._next()

    def absent_since(self, time: float) -> float:
        """Return for how many seconds since a time the process did not run, up to now."""
        now = self._clock.seconds()
        found = min(now - self._due, now - time) if now - self._due > TOLERANCE else 0.0
        for end, seconds in reversed(self._absences):
            if end <= time:
                break
            found += min(seconds, end - time)
        return found


def absent_since(clock: Clock, time: float) -> float:
    """Return for how many seconds since a time of the clock this process did not run."""
    presence = _all.get(clock)
    return 0.0 if presence is None else presence.absent_since(time)


def time_left(clock: Clock, since: float, seconds: float) -> float:
    """Return the seconds until a deadline of `seconds` since a time of the clock; 0 or less if it is over.

    The time in which this process did not run is not counted.
    """
    left = since + seconds - clock.seconds()
    return left if left > 0 else left + absent_since(clock, since)


class PatientClock:
    """A clock that makes its calls later by the time in which this process did not run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def seconds(self) -> float:
        """Return the time of the clock."""
        return self._clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> PatientCall:
        """Call a function when this process has run for `delay` seconds."""
        return PatientCall(self._clock, delay, callable, *args)


def within(
    result: Deferred[T], clock: Clock, seconds: float, late: Callable[[T | Failure, float], T | Failure] | None = None
) -> Deferred[T]:
    """Cancel a result that does not come within so many seconds in which this process runs (`Deferred.addTimeout`).

    Then `late` returns the result. Without it, the result is TimeoutError.
    """
    return result.addTimeout(seconds, cast(IReactorTime, PatientClock(clock)), late)


class _Done:
    """The reactor's call of a `PatientCall` that was made, or cancelled."""

    def active(self) -> bool:
        """Return that the call is not to be made any more."""
        return False

    def cancel(self) -> None:
        """Raise: it is too late."""
        raise AlreadyCalled


_DONE = _Done()


class PatientCall:
    """A call that the reactor makes after so many seconds in which this process runs (IDelayedCall)."""

    __slots__ = ("_arguments", "_call", "_clock", "_function", "_seconds", "_since")

    def __init__(self, clock: Clock, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        self._clock, self._function, self._arguments = clock, function, arguments
        self._since, self._seconds = clock.seconds(), seconds
        self._call: DelayedCall = clock.callLater(seconds, self._check)

    def _check(self) -> None:
        left = time_left(self._clock, self._since, self._seconds)
        if left > 0:
            self._call = self._clock.callLater(left, self._check)
        else:
            function, arguments = self._function, self._arguments
            self._forget()
            function(*arguments)

    def _forget(self) -> None:
        """Free the function, and what would refer to this object: whoever made the call may keep it."""
        self._function, self._arguments, self._call = do_nothing, (), _DONE

    def active(self) -> bool:
        """Return whether the call is still to be made."""
        return self._call.active()

    def cancel(self) -> None:
        """Do not make the call. Raises if it was made or cancelled before."""
        self._call.cancel()
        self._forget()

    def reset(self, seconds: float) -> None:
        """Make the call in so many seconds from now instead. Raises if it was made or cancelled before."""
        self._call.cancel()
        self._since, self._seconds = self._clock.seconds(), seconds
        self._call = self._clock.callLater(seconds, self._check)
