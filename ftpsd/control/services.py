"""What the control connections of all listeners share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from attrs import Factory, frozen

from ftpsd.control.scheduler import Scheduler
from ftpsd.events.hub import Hub
from ftpsd.limits.session_registry import LocalSessionRegistry
from ftpsd.system.reactor import Reactor


@frozen
class ControlServices:
    """The long-lived objects that every control connection uses."""

    reactor: Reactor
    scheduler: Scheduler
    hub: Hub
    registry: LocalSessionRegistry
    #: The numbers of connections, as the log shows them.
    numbers: Iterator[int] = Factory(lambda: itertools.count(1))
