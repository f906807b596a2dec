"""Find out whether a source answers: SourceWatch.

up     it answers, or has not been asked yet
down   its probe has failed: it is asked nothing but probes

A question that fails starts a probe. So an answer that is wrong for one user only, which anybody might provoke, does
not take the source away from the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.accounts.chain.counts import State
from ftpsd.system.reactor import Clock, DelayedCall

log = Logger(namespace="ftpsd")

#: Seconds between two probes of a source that is down.
RETRY = 2.0


class SourceWatch:
    """Probes a source after failures, until it answers. For the reactor thread."""

    def __init__(self, name: str, clock: Clock, probe: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._clock = clock
        self._probe = probe
        self._probing = self._closed = False
        self._next: DelayedCall | None = None
        #: Fired when the probe that runs has ended.
        self._waiting: list[Deferred[None]] = []
        self.state: State = "unknown"
        #: The text of the last failure; empty if there was none.
        self.error = ""

    def succeeded(self) -> None:
        """The source has answered a question."""
        if self.state == "unknown":
            self.state = "up"

    def failed(self, error: str) -> None:
        """A question has failed: probe the source, unless that is being done."""
        self.error = error
        self.check()

    def check(self) -> None:
        """Probe the source now, and again until it answers."""
        if not self._probing and not self._closed:
            self._probing = True
            Deferred.fromCoroutine(self._check())

    async def wait_for_probe(self) -> None:
        """Wait until the probe that runs now has ended, if one does."""
        if self._probing and self.state != "down" and not self._closed:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting

    def close(self) -> None:
        """Probe no longer."""
        self._closed = True
        if self._next is not None and self._next.active():
            self._next.cancel()

    async def _check(self) -> None:
        try:
            await self._probe()
        except Exception as error:
            self._is_down(str(error))
        else:
            self._is_up()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _is_up(self) -> None:
        if self.state == "down" and not self._closed:
            log.info("source {name} answers again", name=self._name, log_once=True)
        self.state, self._probing = "up", False

    def _is_down(self, error: str) -> None:
        self.error = error
        if self._closed:
            return
        if self.state != "down":
            text = "{error}: the source is down; no question is sent to it until it answers"
            log.warn(text, error=error, log_once=True)
        self.state = "down"
        self._next = self._clock.callLater(RETRY, self._again)

    def _again(self) -> None:
        self._probing = False
        self.check()
