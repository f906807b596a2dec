"""One source while the daemon runs: its threads, the questions that wait, and deadlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as Expired

from ftpsd.accounts.fair_queue import FairSemaphore
from ftpsd.accounts.sources.source import Answer, ConfiguredSource, Question, Source
from ftpsd.accounts.sources.threads import SourceThreads
from ftpsd.accounts.user_store import Admit, LoginDenied, SourceFailed, WrongPassword
from ftpsd.protocol.parsing import network
from ftpsd.system.reactor import Clock

T = TypeVar("T")

#: The most questions that wait for a source.
MOST_WAITING = 1000

#: How many seconds after its own timeout a question is abandoned.
GRACE = 1.0

#: How many times `concurrency` threads may hang before nothing is asked any more.
MOST_ABANDONED = 4


class RunningSource:
    """Asks a source in threads of its own, so that its trouble delays nobody else. For the reactor thread.

    Questions that wait are served round-robin by client network, and each is checked against the bans again when its
    turn comes. `name` identifies the source in log lines.
    """

    def __init__(self, name: str, source: Source, clock: Clock, call_in_reactor: Callable[..., None]) -> None:
        self.name = name
        self._source = source
        self._clock = clock
        self._turns = FairSemaphore(source.concurrency, MOST_WAITING)
        self._threads = SourceThreads(f"source {name}", call_in_reactor)

    async def ask(self, question: Question, admit: Admit) -> Answer | None:
        """Return the user; None if the source has none of this name.

        Raises WrongPassword, LoginDenied, SourceFailed, or what `admit` raises.
        """
        turn = self._turns.acquire(network(question.peer))
        try:
            await turn.addTimeout(self._source.timeout, self._clock)  # type: ignore[arg-type]
        except (CancelledError, Expired):
            raise self._failed("too many logins wait for it") from None
        try:
            await admit()
            return await self._call(lambda: self._source.ask(question))
        finally:
            self._turns.release()

    async def probe(self) -> None:
        """Ask the source something harmless. Raises SourceFailed."""
        await self._call(self._source.probe)

    def close(self) -> None:
        """Close the source when its calls have ended."""
        self._threads.close(self._source.close)

    async def _call(self, function: Callable[[], T]) -> T:
        if self._threads.abandoned >= MOST_ABANDONED * self._source.concurrency:
            raise self._failed(f"{self._threads.abandoned} questions hang")
        result: Deferred[T] = self._threads.call(function)
        timeout = self._source.timeout + GRACE
        try:
            return await result.addTimeout(timeout, self._clock)  # type: ignore[arg-type]
        except (WrongPassword, LoginDenied):
            raise
        except SourceFailed as error:
            raise self._failed(str(error)) from None
        except (CancelledError, Expired):
            raise self._failed(f"no answer within {timeout:.0f} seconds") from None
        except Exception as error:  # a fault in the source's code, or in its library
            raise self._failed(f"internal error: {error!r}") from error

    def _failed(self, reason: str) -> SourceFailed:
        return SourceFailed(f"source {self.name}: {reason}")


class RunningSources:
    """The sources that run. One whose settings did not change survives a reload. For the reactor thread.

    A source that is configured no longer is closed `delay` seconds later: sessions that began before may still log in.
    """

    def __init__(self, clock: Clock, call_in_reactor: Callable[..., None]) -> None:
        self._clock = clock
        self._call_in_reactor = call_in_reactor
        self._running: list[tuple[ConfiguredSource, RunningSource]] = []

    def use(self, configured: Sequence[ConfiguredSource], delay: float) -> list[RunningSource]:
        """Return the running sources of a configuration, in its order."""
        before, self._running = self._running, []
        for each in configured:
            kept = next((pair for pair in before if pair[0] == each), None)
            if kept is not None:
                before.remove(kept)
            self._running.append(
                kept or (each, RunningSource(each.name, each.source, self._clock, self._call_in_reactor))
            )
        for _, source in before:
            self._clock.callLater(delay, source.close)
        return [source for _, source in self._running]

    def stop(self) -> None:
        """Close all sources. Does not wait for them."""
        for _, source in self._running:
            source.close()
