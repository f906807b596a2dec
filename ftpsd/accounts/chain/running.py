"""One source while the daemon runs: its threads, the questions that wait, deadlines, and its state."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as Expired
from twisted.logger import Logger

from ftpsd.accounts.chain.counts import Result, SourceCounts, SourceStatus
from ftpsd.accounts.chain.threads import SourceThreads
from ftpsd.accounts.chain.watch import SourceWatch
from ftpsd.accounts.fair_queue import FairSemaphore
from ftpsd.accounts.sources.source import Answer, ListeningSource, Question, Source
from ftpsd.accounts.user_store import Admit, CannotLookUp, LoginDenied, SourceFailed, WrongPassword
from ftpsd.protocol.addresses import network
from ftpsd.protocol.printable import printable
from ftpsd.system.presence import within
from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")

T = TypeVar("T")

#: The most questions that wait for a source.
MOST_WAITING = 1000

#: How many seconds after its own timeout a question is abandoned.
GRACE = 1.0

#: How many times `concurrency` threads may hang before nothing is asked any more.
MOST_ABANDONED = 4

#: The longest name that a source may give a user, in characters.
LONGEST_NAME = 1000

#: The longest text of a source in a log line: it may come from another machine.
_LONGEST_ERROR = 500

#: The number of durations that are kept, of recent questions about unknown names.
_RECENT = 100


class Late(SourceFailed):
    """The source did not answer before the deadline."""


class RunningSource:
    """Asks a source in threads of its own, so that its trouble delays nobody else. For the reactor thread.

    Questions that wait are served round-robin by client network, and each is checked against the bans again when its
    turn comes. `name` identifies the source in log lines. A source that is down is not asked.
    """

    def __init__(self, name: str, source: Source, clock: Clock, threads: SourceThreads) -> None:
        self.name = name
        self._source = source
        self._clock = clock
        self._turns = FairSemaphore(source.concurrency, MOST_WAITING)
        self._threads = threads
        self._watch = SourceWatch(name, clock, self.probe)
        self._counts = SourceCounts()
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._running = 0
        self._closed = False

    def start(self, changed: Callable[[Collection[str]], None]) -> None:
        """Find out whether the source answers. Call `changed` with the names of users of whose changes it tells."""
        self._watch.check()
        source = self._source
        if isinstance(source, ListeningSource):
            listening = self._threads.call(
                lambda: source.listen(lambda names: self._threads.call_in_reactor(changed, names))
            )
            listening.addErrback(lambda failure: log.failure("source {name}", failure, name=self.name))

    async def ask(self, question: Question, admit: Admit) -> Answer | None:
        """Return the user; None if the source has none of this name.

        Raises WrongPassword, LoginDenied, SourceFailed, or what `admit` raises.
        """
        self._require_up()
        turn = self._turns.acquire(network(question.peer))
        try:
            await within(turn, self._clock, self._source.timeout)
        except (CancelledError, Expired):
            self._counts.add("busy", 0.0)
            raise self._failed("too many logins wait for it") from None
        self._running += 1
        try:
            await admit()
            self._require_up()
            return await self._ask(question)
        finally:
            self._running -= 1
            self._turns.release()

    async def probe(self) -> None:
        """Ask the source something harmless. Raises SourceFailed."""
        await self._call(self._source.probe)

    def usual_delay(self) -> float:
        """Return how many seconds a recent question about an unknown name took, picked at random; 0 without one."""
        return random.choice(self._durations) if self._durations and self._watch.state != "down" else 0.0

    def status(self, remembered: int) -> SourceStatus:
        """Return the state of the source now."""
        return SourceStatus(
            name=self.name,
            kind=self._source.kind,
            state=self._watch.state,
            error=self._watch.error,
            results=dict(self._counts.results),
            seconds=self._counts.time_taken,
            waiting=self._turns.length,
            running=self._running,
            hanging=self._threads.abandoned,
            remembered=remembered,
        )

    @property
    def is_down(self) -> bool:
        """Whether the source does not answer, and is asked nothing but probes."""
        return self._watch.state == "down"

    async def has_gone_down(self) -> bool:
        """Return whether the source is down. If a question has just failed, its probe decides."""
        await self._watch.wait_for_probe()
        return self.is_down

    def close(self) -> None:
        """Close the source, in a thread. No question is sent to it after that."""
        self._closed = True
        self._watch.close()
        self._threads.close(self._source.close)

    async def _ask(self, question: Question) -> Answer | None:
        began = self._clock.seconds()
        result: Result | None = "failed"
        try:
            answer = await self._call(lambda: _checked(self._source.ask(question)))
            result = "found" if answer is not None else "unknown"
            return answer
        except WrongPassword:
            result = "wrong_password"
            raise
        except LoginDenied:
            result = "denied"
            raise
        except CannotLookUp:
            result = None
            raise
        except SourceFailed as error:
            result = "late" if isinstance(error, Late) else "failed"
            self._watch.failed(str(error))
            raise
        finally:
            if result is not None:
                self._count(result, self._clock.seconds() - began)

    def _count(self, result: Result, took: float) -> None:
        self._counts.add(result, took)
        if result == "unknown":
            self._durations.append(took)
        if result not in ("failed", "late"):
            self._watch.succeeded()

    async def _call(self, function: Callable[[], T]) -> T:
        if self._threads.abandoned >= MOST_ABANDONED * self._source.concurrency:
            raise self._failed(f"{self._threads.abandoned} questions hang")
        result: Deferred[T] = self._threads.call(function)
        timeout = self._source.timeout + GRACE
        try:
            return await within(result, self._clock, timeout)
        except (WrongPassword, LoginDenied):
            raise
        except CannotLookUp as error:
            raise CannotLookUp(str(self._failed(str(error)))) from None
        except SourceFailed as error:
            raise self._failed(str(error)) from None
        except (CancelledError, Expired):
            raise Late(f"source {self.name}: no answer within {timeout:.0f} seconds") from None
        except Exception as error:  # a fault in the source's code, or in its library
            raise self._failed(f"internal error: {error!r}") from error

    def _require_up(self) -> None:
        if self._closed:
            raise self._failed("it is not in the configuration any more: a new connection would use the new one")
        if self.is_down:
            raise SourceFailed(self._watch.error)

    def _failed(self, reason: str) -> SourceFailed:
        return SourceFailed(f"source {self.name}: {printable(reason, _LONGEST_ERROR)}")


def _checked(answer: object) -> Answer | None:
    """Return what a source has answered. Raises SourceFailed if it is no answer at all."""
    if answer is None:
        return None
    name = answer.name if isinstance(answer, Answer) else None
    if not isinstance(answer, Answer) or not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise SourceFailed("the answer has no name")
    if not name.isprintable():  # log lines and files have it
        raise SourceFailed(f"the name {name!r} has characters that cannot be printed")
    return answer
