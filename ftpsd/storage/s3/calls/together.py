"""Make calls for many objects, several at a time: `together`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition
from typing import Generic, TypeVar

from ftpsd.storage.s3.calls.progress import PATIENT
from ftpsd.storage.s3.calls.tasks import Submit, not_answering
from ftpsd.system.worker_threads import JobSteps

T = TypeVar("T")

#: How many calls are made at a time.
PARALLEL = 8

#: Seconds for which the caller waits between two steps, and for the end of a call.
_SOMETIMES, _DEADLINE = 0.5, 2 * PATIENT


def together(submit: Submit, objects: Iterable[T], call: Callable[[T], JobSteps[None] | None]) -> JobSteps[None]:
    """Make a call for each object, in this thread and in others of the store. Raises what one of them has raised.

    A call may return steps, which are taken.

    No call runs any more when this ends, also if it is closed in the middle.
    """
    return _Calls(objects, call).run(submit)


class _Calls(Generic[T]):
    """The calls. This thread makes them, too: so it needs no other one, and jobs that have all threads do not wait."""

    def __init__(self, objects: Iterable[T], call: Callable[[T], JobSteps[None] | None]) -> None:
        self._left = deque(objects)
        self._call = call
        self._failed: BaseException | None = None
        self._running = self._ended = 0
        self._changed = Condition()

    def run(self, submit: Submit) -> JobSteps[None]:
        """See `together`."""
        for _ in range(min(PARALLEL, len(self._left)) - 1):
            submit(self._work)
        try:
            yield from self._steps()
            yield from self._wait()
        finally:
            self._left.clear()
            with self._changed:
                self._changed.wait_for(lambda: not self._running, _DEADLINE)
        if self._failed is not None:
            raise self._failed

    def _wait(self) -> JobSteps[None]:
        ended, waited = self._ended, 0.0
        while self._running:
            with self._changed:
                self._changed.wait_for(lambda: not self._running, _SOMETIMES)
            waited = 0.0 if self._ended != ended else waited + _SOMETIMES
            ended = self._ended
            if waited > _DEADLINE:
                raise not_answering()
            yield

    def _work(self) -> None:
        for _ in self._steps():
            pass

    def _steps(self) -> JobSteps[None]:
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
                self._left.clear()
                self._failed = self._failed or error
            finally:
                with self._changed:
                    self._running -= 1
                    self._ended += 1
                    self._changed.notify_all()
            yield
