"""Tasks that run every so often."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from ftpsd.system.periodic import PeriodicTask


def test_a_task_survives_an_exception() -> None:
    """A run that raises, or whose Deferred fails, is logged with the name of the task, and the next run comes in time."""
    clock, outcomes, logged = Clock(), iter(["raise", "fail", "fine", "fine"]), []
    runs: list[str] = []

    def run() -> Deferred[None] | None:
        runs.append(next(outcomes))
        if runs[-1] == "raise":
            raise RuntimeError("in the run")
        return fail(RuntimeError("in its Deferred")) if runs[-1] == "fail" else None

    globalLogPublisher.addObserver(logged.append)
    try:
        task = PeriodicTask(clock, "counting sheep", run)
        task.start(10)
        for _ in range(3):
            clock.advance(10)
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert runs == ["raise", "fail", "fine", "fine"]
    failures = [str(event["log_failure"].value) for event in logged if event.get("task") == "counting sheep"]
    assert failures == ["in the run", "in its Deferred"]


def test_runs_do_not_overlap() -> None:
    """While a run has not ended no other one begins; it comes at the next full interval after it."""
    clock, runs = Clock(), []

    def run() -> Deferred[None]:
        runs.append(Deferred[None]())
        return runs[-1]

    PeriodicTask(clock, "counting sheep", run).start(10)
    clock.advance(35)
    assert len(runs) == 1
    runs[0].callback(None)
    clock.advance(5)
    assert len(runs) == 2
