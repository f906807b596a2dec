"""The records of changes that the journal has before they become events: DurableIds."""

from __future__ import annotations

import threading
from typing import TypeAlias

#: Sessions whose ids are kept. A session that has ended can leave one, if its last change was slow.
CAPACITY = 10_000


#: A change that was made: the name of its record, its paths (both of a rename, with NUL in between), its id, and its
#: record as JSON. No NamedTuple, since making one costs a call in Python for each upload.
_Made: TypeAlias = tuple[str, str, str, str]


class DurableIds:
    """Passes a change from the journal to its event, so that webhooks, audit and API have one record of it.

    The storage writes a change that a rule wants into the journal before it is made, in a worker thread. The event is
    published when the command has ended. A session makes one change at a time, so one id of each is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[int, _Made] = {}
        #: The id that was taken last, and its record: that of the event that is being published, if it has this id.
        self.taken = "", ""

    def put(self, session: int, name: str, paths: str, identity: str, record: str) -> None:
        """Keep the id and record of a change that a session has made. In any thread, before its command ends."""
        with self._lock:
            if len(self._made) >= CAPACITY and session not in self._made:
                del self._made[next(iter(self._made))]
            self._made[session] = name, paths, identity, record

    def take(self, session: int, name: str, paths: str) -> str:
        """Return the id of the session's last change if it is this one, otherwise an empty text."""
        with self._lock:
            made = self._made.pop(session, None)
        if made is None or made[0] != name or made[1] != paths:
            return ""
        self.taken = made[2:]
        return made[2]

    def forget(self, session: int) -> None:
        """Keep nothing of a session that has ended."""
        with self._lock:
            self._made.pop(session, None)
