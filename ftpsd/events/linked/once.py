"""Log once what each worker finds out for itself, such as that a source of users does not answer: OnceForAll."""

from __future__ import annotations

#: The field of a log event that is such a line: True, or a text that is the same where the line has other details.
#: Names that begin with `log_` are no fields of the line.
ONCE = "log_once"

#: Different lines that are remembered. The oldest one is forgotten first.
MOST = 1000


class OnceForAll:
    """Counts how often each worker has had each line.

    A line is logged when a worker has it more often than any other had. So each is logged once for all workers, and
    again when it is true again: a source goes down, answers, and goes down.
    """

    def __init__(self) -> None:
        #: How often each worker has had a line, by its text.
        self._counts: dict[str, dict[int, int]] = {}

    def is_new(self, worker: int, text: str) -> bool:
        """Count a line of a worker, by its text or what stands for it. Return whether it is to be logged."""
        if text not in self._counts and len(self._counts) >= MOST:
            del self._counts[next(iter(self._counts))]
        counts = self._counts.setdefault(text, {})
        most = max(counts.values(), default=0)
        counts[worker] = counts.get(worker, 0) + 1
        return counts[worker] > most

    def started(self, worker: int) -> None:
        """A worker has started. It has had what the others have had, and nothing of the last one of this index."""
        self.ended(worker)
        for counts in self._counts.values():
            counts[worker] = max(counts.values())

    def ended(self, worker: int) -> None:
        """A worker has ended: what it alone has had is forgotten."""
        for text in [text for text, counts in self._counts.items() if counts.pop(worker, None) and not counts]:
            del self._counts[text]
