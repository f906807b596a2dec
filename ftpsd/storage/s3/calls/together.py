"""Make calls for many objects, several at a time: `together`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition
from typing import Generic, TypeVar

from ftpsd.storage.s3.calls.progress import PATIENT
from ftpsd.storage.s3.calls.tasks import Submit, not_answering
from ftpsd.system.jobs.job_queue import JobSteps, step_ended

T = TypeVar("T")

#: How many calls are made at a time.
PARALLEL = 8

#: Seconds for which the caller waits between two steps, and for the end of a step of a call.
_SOMETIMES, _DEADLINE = 0.5, 2 * PATIENT


def together(
    submit: Submit, objects: Iterable[T], call: Callable[[T], JobSteps[None] | None], parallel: int | None = None
) -> JobSteps[None]:
    """Make a call for each object, in this thread and in others of the store. Raises what one of them has raised.

    A call may return steps, which are taken. If another call fails, or this is closed in the middle, they are closed
    after the step that runs. No call runs any more when this ends.
    """
    return _Calls(submit, objects, call).run(parallel or PARALLEL)


class _Calls(Generic[T]):
    """The calls. The calling thread makes some itself, so that jobs which occupy all threads do not wait for others."""

    def __init__(self, submit: Submit, objects: Iterable[T], call: Callable[[T], JobSteps[None] | None]) -> None:
        self._submit = submit
        self._call = call
        #: Guards all that follows.
        self._changed = Condition()
        self._left = deque(objects)
        self._failed: BaseException | None = None
        self._closing = False
        #: The calls that have begun, and the steps that have ended.
        self._running = self._steps_ended = 0
        #: Steps whose threads were given to other jobs. The next free thread continues them.
        self._parked: deque[JobSteps[None]] = deque()

    def run(self, parallel: int) -> JobSteps[None]:
        """See `together`."""
        for _ in range(min(parallel, len(self._left)) - 1):
            self._submit(self._work)
        try:
            yield from self._take(self._make_calls())
            yield from self._wait()
        finally:
            self._end()
        if self._failed is not None:
            raise self._failed

    def _take(self, steps: JobSteps[None]) -> JobSteps[None]:
        """Take steps until they end, or are to end."""
        try:
            for _ in steps:
                self._advance()
                if self._closing:
                    return
                yield
        finally:
            steps.close()

    def _advance(self) -> None:
        with self._changed:
            self._steps_ended += 1
            self._changed.notify_all()

    def _wait(self) -> JobSteps[None]:
        """Wait for the other threads, and continue the steps that they have parked."""
        ended, waited = self._steps_ended, 0.0
        while self._running and not self._closing:
            if self._parked:
                yield from self._resume()
            with self._changed:
                self._changed.wait_for(lambda: not self._running or self._parked, _SOMETIMES)
            waited = 0.0 if self._steps_ended != ended else waited + _SOMETIMES
            ended = self._steps_ended
            if waited > _DEADLINE:
                raise not_answering()
            yield

    def _end(self) -> None:
        """Let no call run any more."""
        with self._changed:
            self._closing = True
            self._left.clear()
        while self._parked:
            for _ in self._resume():
                pass
        with self._changed:
            self._changed.wait_for(lambda: not self._running, _DEADLINE)

    def _resume(self) -> JobSteps[None]:
        """Go on with steps that are parked, if there are any."""
        with self._changed:
            steps = self._parked.popleft() if self._parked else None
        if steps is None:
            return
        if self._closing:
            steps.close()
        else:
            yield from self._take(steps)

    def _work(self) -> None:
        """Make calls in another thread."""
        self._go_on(self._make_calls())

    def _go_on(self, steps: JobSteps[None]) -> None:
        for _ in steps:
            self._advance()
            must_park = step_ended()
            with self._changed:
                if must_park and not self._closing:
                    self._parked.append(steps)
                    self._changed.notify_all()
                    break
            if self._closing:
                steps.close()
                return
        else:
            return
        self._submit(self._go_on_parked)

    def _go_on_parked(self) -> None:
        with self._changed:
            steps = self._parked.popleft() if self._parked else None
        if steps is not None:
            self._go_on(steps)

    def _make_calls(self) -> JobSteps[None]:
        """Make the calls that are left."""
        while True:
            with self._changed:
                if not self._left:
                    return
                self._running += 1
                found = self._left.popleft()
            try:
                steps = self._call(found)
                if steps is not None:
                    yield from steps
            except GeneratorExit:
                raise
            except BaseException as error:
                with self._changed:
                    self._failed = self._failed or error
                    self._closing = True
                    self._left.clear()
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()
            yield
