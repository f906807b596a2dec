"""List the running sessions, find one by its number, and end them.

`SessionRegistry` is what administration knows. `LocalSessionRegistry` holds the sessions of this process; a supervisor
has a `MergedSessionRegistry`. A view is made when somebody asks for it: a running session writes nothing into the
registry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from heapq import nsmallest
from math import inf
from typing import Literal, Protocol

from ftpsd.protocol.addresses import Address
from ftpsd.protocol.interfaces import Direction
from ftpsd.protocol.login_rules import Network
from ftpsd.protocol.replies import Reply
from ftpsd.system.reactor import Clock
from ftpsd.system.slices import Slices

#: What a session does. `handshake`: TLS is being negotiated. `login`: nobody has logged in. `idle`: it waits for a
#: command. `command`: a command runs. `transfer`: a command runs that uses a data connection or walks a tree.
#: `closing`: the last reply was sent.
SessionState = Literal["handshake", "login", "idle", "command", "transfer", "closing"]


@dataclass(frozen=True, slots=True)
class SessionView:
    """One session at one moment. Times are POSIX times in seconds."""

    number: int
    state: SessionState
    #: The user who has logged in; None before the login.
    user: str | None
    address: Address
    started: float
    #: When the last reply was sent, or the session began; None while a command runs.
    idle_since: float | None
    #: The TLS version of the control connection ("TLSv1.3"); None for plain text.
    tls: str | None
    #: The subject of the client's certificate; None without one.
    certificate: str | None
    #: What the client calls itself (CLNT); empty if it has not said.
    client_name: str
    #: The command that runs, or the last one; empty before the first. Never with its argument.
    command: str
    #: The path that the running command is about, as the client sees it; None if it has none.
    path: str | None
    #: Which way file data moves; None while no transfer runs.
    direction: Direction | None
    #: Bytes that the running transfer has moved.
    bytes: int
    #: The total for the running transfer, if it is known.
    expected_size: int | None
    #: Bytes per second: of the last seconds if somebody samples (`transfer_counts`), else on average.
    rate: float


class SessionList(list[SessionView]):
    """Sessions, in the order in which they began. `missing` are the workers whose sessions are not known now."""

    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Dismissed:
    """How many sessions a call has ended. `missing` are the workers that did not answer: theirs may continue."""

    count: int
    missing: tuple[int, ...] = ()


class WorkersSilent(Exception):
    """A session is not known, but it may be one of the workers that do not answer: `missing`."""

    def __init__(self, missing: tuple[int, ...]) -> None:
        super().__init__(missing)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions a request is about. None stands for any."""

    user: str | None = None
    address: Network | None = None
    state: SessionState | None = None

    def matches(self, view: SessionView) -> bool:
        """Return whether the request is about this session."""
        return (
            (self.user is None or view.user == self.user)
            and (self.address is None or view.address in self.address)
            and (self.state is None or view.state == self.state)
        )


class RunningSession(Protocol):
    """A session, as the registry knows it."""

    @property
    def number(self) -> int:
        """The number of the session in the log."""

    def view(self) -> SessionView:
        """Return what the session does now."""

    def dismiss(self, reply: Reply, immediately: bool) -> None:
        """End the session with a reply, after its transfer or immediately."""


class SessionRegistry(Protocol):
    """The running sessions. All methods must be called in the reactor thread.

    Results are awaitable, because they may have to be collected from several processes.
    """

    def sessions(self) -> Awaitable[SessionList]:
        """Return all sessions, in the order in which they began."""

    def find(self, number: int) -> Awaitable[SessionView | None]:
        """Return the session with that number, or None if it has ended. Raises WorkersSilent."""

    def dismiss(self, number: int, reply: Reply, immediately: bool = False) -> Awaitable[bool]:
        """End a session with a reply, after its transfer or immediately. Return False if it has ended before.

        Raises WorkersSilent.
        """

    def dismiss_each(self, wanted: SessionFilter, reply: Reply, immediately: bool = False) -> Awaitable[Dismissed]:
        """End the sessions that run now with a reply, as `dismiss` does."""


class LocalSessionRegistry:
    """The sessions of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[int, RunningSession] = {}
        self._when_empty: Callable[[], object] | None = None

    # --- SessionRegistry -------------------------------------------------------------------------

    async def sessions(self) -> SessionList:
        """Return all sessions, in the order in which they began. The views are made in slices."""
        slices = Slices(self._clock)
        views = SessionList()
        for session in list(self._sessions.values()):
            if session.number in self._sessions:
                views.append(session.view())
                await slices.pause()
        return views

    async def find(self, number: int) -> SessionView | None:
        """Return the session with that number, or None if it has ended."""
        session = self._sessions.get(number)
        return None if session is None else session.view()

    async def dismiss(self, number: int, reply: Reply, immediately: bool = False) -> bool:
        """End a session with a reply, after its transfer or immediately. Return False if it has ended before."""
        session = self._sessions.get(number)
        if session is None:
            return False
        session.dismiss(reply, immediately)
        return True

    async def dismiss_each(self, wanted: SessionFilter, reply: Reply, immediately: bool = False) -> Dismissed:
        """End the sessions that run now with a reply, each after its transfer or immediately."""
        slices = Slices(self._clock)
        count = 0
        for number in list(self._sessions):
            count += self._dismiss_if(wanted, number, reply, immediately)
            await slices.pause()
        return Dismissed(count)

    # --- for this process ------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._sessions)

    def page(self, after: int, count: int) -> list[SessionView]:
        """Return the next sessions with higher numbers than `after`, in the order of their numbers."""
        return [self._sessions[number].view() for number in self._next(after, count)]

    @property
    def last(self) -> int:
        """The highest number of a session; 0 without any."""
        return max(self._sessions, default=0)

    def dismiss_page(
        self, wanted: SessionFilter, reply: Reply, immediately: bool, after: int, end: int, count: int
    ) -> tuple[int, int | None]:
        """Do as `dismiss_each` for the next `count` sessions with higher numbers than `after`, up to `end`.

        Return how many were ended, and the highest number that was looked at; None if there are no further ones.
        """
        numbers = self._next(after, count, end)
        dismissed = sum(self._dismiss_if(wanted, number, reply, immediately) for number in numbers)
        return dismissed, numbers[-1] if len(numbers) == count else None

    def _next(self, after: int, count: int, end: float = inf) -> list[int]:
        return nsmallest(count, (number for number in self._sessions if after < number <= end))

    def _dismiss_if(self, wanted: SessionFilter, number: int, reply: Reply, immediately: bool) -> bool:
        """End a session if it has not ended meanwhile, and the request is about it. Return whether it was."""
        session = self._sessions.get(number)
        if session is None or not wanted.matches(session.view()):
            return False
        session.dismiss(reply, immediately)
        return True

    def add(self, session: RunningSession) -> None:
        """Register a session that begins."""
        self._sessions[session.number] = session

    def remove(self, session: RunningSession) -> None:
        """Forget a session that has ended."""
        self._sessions.pop(session.number, None)
        if not self._sessions and self._when_empty is not None:
            self._when_empty()

    def when_empty(self, call: Callable[[], object]) -> None:
        """Call back when the last session has ended; now if there is none."""
        self._when_empty = call
        if not self._sessions:
            call()
