"""Log once what each worker finds out for itself, such as that a source of users does not answer: OnceForAll."""

from __future__ import annotations

from collections.abc import Callable

#: The field of a log event that is such a line: True, or a text that is the same where the line has other details.
#: Names that begin with `log_` are no fields of the line.
ONCE = "log_once"

#: Seconds after which a line is logged again, whoever has it: all workers find out the same within some seconds.
LONGEST = 60.0

#: Different lines that are remembered. The one that was logged first is forgotten first.
MOST = 1000


class OnceForAll:
    """Remembers when each line was logged, and the workers that have had it since.

    A line is logged unless another worker has just logged it. It is logged again when a worker has it a second time,
    or when a minute has passed: a source goes down, answers, and goes down, and perhaps each time another worker asks.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        #: When a line was logged, and the workers, by its text. The one that was logged last is the last.
        self._logged: dict[str, tuple[float, set[int]]] = {}

    def is_new(self, worker: int, text: str) -> bool:
        """A worker has a line: its text, or what stands for it. Return whether it is to be logged."""
        now = self._now()
        time, workers = self._logged.get(text, (now, set[int]()))
        if workers and worker not in workers and now - time <= LONGEST:
            workers.add(worker)
            return False
        self._logged.pop(text, None)
        if len(self._logged) >= MOST:
            del self._logged[next(iter(self._logged))]
        self._logged[text] = now, {worker}
        return True

    def ended(self, worker: int) -> None:
        """Forget what this worker alone has logged: it has ended, and the next one of its index begins with nothing."""
        for text, (_, workers) in [*self._logged.items()]:
            workers.discard(worker)
            if not workers:
                del self._logged[text]
