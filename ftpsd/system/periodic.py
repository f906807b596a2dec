"""Tasks that are repeated, and continue after an exception in one run: PeriodicTask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")


class PeriodicTask:
    """Calls a function at regular intervals. An exception in one run is logged, and does not stop the next run.

    A plain LoopingCall ends at the first exception. `task` is the name of the task in the log. No run begins before the
    Deferred of the last run has fired.
    """

    def __init__(self, clock: Clock, task: str, run: Callable[[], Deferred[None] | None]) -> None:
        # No method of this object: in a cycle, both would keep what `run` uses until a full garbage collection, for
        # example the homes of an earlier configuration.
        self._loop = LoopingCall(partial(_run_once, task, run))
        self._loop.clock = cast(IReactorTime, clock)

    @property
    def running(self) -> bool:
        """Whether the task is started."""
        return bool(self._loop.running)

    def start(self, seconds: float, now: bool = True) -> None:
        """Run every `seconds`, with `now` also immediately. If it is started already, start again."""
        self.stop()
        self._loop.start(seconds, now=now)

    def stop(self) -> None:
        """Begin no other run. May be called any number of times."""
        if self._loop.running:
            self._loop.stop()


def _run_once(task: str, run: Callable[[], Deferred[None] | None]) -> Deferred[None] | None:
    try:
        result = run()
    except Exception:
        _log_failure(Failure(), task)
        return None
    return result.addErrback(_log_failure, task) if isinstance(result, Deferred) else result


def _log_failure(failure: Failure, task: str) -> None:
    log.failure("{task} failed; it will be tried again", failure, task=task)
