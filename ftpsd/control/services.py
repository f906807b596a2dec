"""What the control connections of all listeners share."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import Factory, frozen

from ftpsd.control.scheduler import Scheduler
from ftpsd.events.hub import Hub
from ftpsd.limits.session_registry import LocalSessionRegistry
from ftpsd.system.reactor import Reactor


class SessionNumbers(Iterator[int]):
    """The numbers of connections, from 1."""

    def __init__(self) -> None:
        self._last = 0

    def __next__(self) -> int:
        self._last += 1
        return self._last

    def skip(self, highest: int) -> None:
        """Continue after a number that is in use."""
        self._last = max(self._last, highest)


@frozen
class ControlServices:
    """The long-lived objects that every control connection uses."""

    reactor: Reactor
    scheduler: Scheduler
    hub: Hub
    registry: LocalSessionRegistry
    #: The numbers of connections, as the log shows them.
    numbers: SessionNumbers = Factory(SessionNumbers)
