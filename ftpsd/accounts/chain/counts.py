"""How the questions to a source ended, and how long they took: SourceCounts and SourceStatus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

from attrs import frozen

#: How a question ended. late: no answer before the deadline. busy: too many others waited, and it was not asked.
Result = Literal["found", "unknown", "wrong_password", "denied", "failed", "late", "busy"]
RESULTS: tuple[Result, ...] = get_args(Result)

#: unknown: has not been asked yet.
State = Literal["unknown", "up", "down"]


class SourceCounts:
    """Counts the questions of one source. Durations are in seconds."""

    def __init__(self) -> None:
        self.results: Counter[Result] = Counter()
        self.time_taken = 0.0

    def add(self, result: Result, seconds: float) -> None:
        """Count a question that took `seconds` from the first call, without the time in the waiting line."""
        self.results[result] += 1
        self.time_taken += seconds


@frozen
class SourceStatus:
    """What one source did and does, at one moment."""

    name: str
    kind: str
    state: State
    #: The last failure, for an administrator; empty if there was none.
    error: str
    #: Questions by result since the start or since the source was configured, and the seconds that they took.
    results: Mapping[Result, int]
    seconds: float
    #: Questions that wait for a thread, that are being asked, and those that hang in a thread that was abandoned.
    waiting: int
    running: int
    hanging: int
    #: How many logins are remembered in case the source is down.
    remembered: int
