"""Recent failed logins: FailureWindow."""

from __future__ import annotations

from collections.abc import Hashable


class FailureWindow:
    """Recent failed logins of at most `capacity` subjects. Each event counts once."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._events: dict[str, dict[Hashable, float]] = {}

    def add(self, subject: str, event: Hashable, now: float, window: float) -> int:
        """Record an event. Return how many the subject has had in the last `window` seconds."""
        events = {each: when for each, when in self._events.pop(subject, {}).items() if now - when < window}
        events[event] = now
        self._events[subject] = events  # the subject that changed last stands last
        if len(self._events) > self._capacity:
            del self._events[next(iter(self._events))]
        return len(events)

    def clear(self, subject: str) -> None:
        """Forget the events of a subject."""
        self._events.pop(subject, None)

    def clear_prefix(self, prefix: str) -> None:
        """Forget the events of all subjects that start with a prefix."""
        for subject in [each for each in self._events if each.startswith(prefix)]:
            del self._events[subject]

    def __len__(self) -> int:
        return len(self._events)
