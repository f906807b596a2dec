"""Tasks that run every so often, and survive an exception in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")


def periodic(clock: Clock, task: str, run: Callable[[], Deferred[None] | None]) -> LoopingCall:
    """Return a LoopingCall that logs an exception of one run and runs again the next time.

    A plain LoopingCall stops for good at the first exception. `task` names the task in the log. While the Deferred
    that `run` returned is pending, no other run begins.
    """

    def failed(failure: Failure) -> None:
        log.failure("{task} failed; it will be tried again", failure, task=task)

    def run_once() -> Deferred[None] | None:
        try:
            result = run()
        except Exception:
            failed(Failure())
            return None
        return result.addErrback(failed) if isinstance(result, Deferred) else result

    loop = LoopingCall(run_once)
    loop.clock = cast(IReactorTime, clock)
    return loop
