"""Whether the ban list and its copy in the state file agree: a state machine as a table.

| state | what the file is | what the next check does |
| --- | --- | --- |
| UNREAD | not read, or not open: it may have rows that the list lacks | open and read it, merge, then store all |
| BEHIND | without some changes of the list | store all |
| CURRENT | a copy of the list | look for bans that another process has lifted |

A check that fails is repeated after `RETRY` seconds, or as soon as the clock is set.
"""

from __future__ import annotations

import math
from enum import Enum

#: Seconds until the next attempt to read or store all.
RETRY = 5


class Sync(Enum):
    """Whether the state file is a copy of the ban list (see the table above)."""

    UNREAD = "unread"
    BEHIND = "behind"
    CURRENT = "current"


class Event(Enum):
    """Events that change the state."""

    READ = "the file was read"
    STORED = "all was stored"
    FAILED = "a change could not be stored"
    CLOSED = "the file is not open"
    CLOCK_SET = "the time of day was set, so that all stored times are wrong"


#: The next state. An event that is not listed for a state does not change it.
TRANSITIONS = {
    (Sync.UNREAD, Event.READ): Sync.BEHIND,
    (Sync.BEHIND, Event.STORED): Sync.CURRENT,
    (Sync.BEHIND, Event.CLOSED): Sync.UNREAD,
    (Sync.CURRENT, Event.FAILED): Sync.BEHIND,
    (Sync.CURRENT, Event.CLOSED): Sync.UNREAD,
    (Sync.CURRENT, Event.CLOCK_SET): Sync.BEHIND,
}


class SyncState:
    """The state of the copy, and when to try again."""

    def __init__(self) -> None:
        self.state = Sync.UNREAD
        self._retry_at = -math.inf

    def happened(self, event: Event) -> None:
        """Change the state."""
        self.state = TRANSITIONS.get((self.state, event), self.state)
        if event in (Event.STORED, Event.CLOCK_SET):
            self._retry_at = -math.inf

    def try_now(self, now: float) -> bool:
        """Return whether an attempt to read or store all is due. If so, the next one is `RETRY` seconds later."""
        due = now >= self._retry_at
        if due:
            self._retry_at = now + RETRY
        return due
