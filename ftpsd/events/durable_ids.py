"""The ids of changes that the journal has before they become events: DurableIds."""

from __future__ import annotations

import threading
from typing import NamedTuple

#: Sessions whose ids are kept. A session that has ended can leave one, if its last change was slow.
CAPACITY = 10_000


class _Made(NamedTuple):
    """A change that was made: the name of its record, its path, and its id."""

    name: str
    path: str
    identity: str


class DurableIds:
    """Passes the id of a change from the journal to its event, so that webhooks, audit and API name it alike.

    The storage writes a change that a rule wants into the journal before it is made, in a worker thread. The event is
    published when the command has ended. A session makes one change at a time, so one id of each is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[int, _Made] = {}

    def put(self, session: int, name: str, path: str, identity: str) -> None:
        """Keep the id of a change that a session has made. In any thread, before its command ends."""
        with self._lock:
            if len(self._made) >= CAPACITY and session not in self._made:
                del self._made[next(iter(self._made))]
            self._made[session] = _Made(name, path, identity)

    def take(self, session: int, name: str, path: str) -> str:
        """Return the id of the session's last change if it is this one, otherwise an empty text."""
        with self._lock:
            made = self._made.pop(session, None)
        return made.identity if made is not None and made[:2] == (name, path) else ""

    def forget(self, session: int) -> None:
        """Keep nothing of a session that has ended."""
        with self._lock:
            self._made.pop(session, None)
