"""When users logged in last, and from which address, in the state file: LastLogins.

Logins are collected in memory and stored together every few seconds, in the thread of the state file. The table has one
row for each user at most: rows of users who no longer exist are deleted after each load of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred

from ftpsd.events.hub import Hub
from ftpsd.events.types import ConfigurationLoaded, LoggedIn
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Clock
from ftpsd.system.state import State, Store

#: Seconds between two times at which new logins are stored.
INTERVAL = 2

_TABLE = """CREATE TABLE IF NOT EXISTS last_logins
    (user TEXT PRIMARY KEY, seen REAL, address TEXT) WITHOUT ROWID"""

#: Rows that are valid, whoever has written them, and have times that can be shown.
_IS_VALID = "typeof(user) = 'text' AND typeof(seen) = 'real' AND abs(seen) < 2.5e11 AND typeof(address) = 'text'"

#: Rows for one step: SQLite allows 999 values in a statement.
_STEP = 500


@frozen
class LastLogin:
    """The last login of a user: POSIX time in seconds, and the client's address."""

    time: float
    address: str


class LastLogins:
    """Stores the last login of each user. For the reactor thread; nothing blocks it.

    `knows` returns whether there may be a user of a name now, `wall` the POSIX time.
    """

    def __init__(
        self, clock: Clock, store: Store, hub: Hub, wall: Callable[[], float], knows: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._wall = wall
        self._knows = knows
        #: What is not stored yet. It has no more entries than there were users in the configurations so far.
        self._pending: dict[str, LastLogin] = {}
        self._task = PeriodicTask(clock, "storing last logins", self._flush)
        hub.subscribe("last logins", LoggedIn, self._note)
        hub.subscribe("last logins", ConfigurationLoaded, lambda _: self._prune_soon())

    def start(self) -> None:
        """Store logins from now on."""
        self._task.start(INTERVAL, now=False)
        self._prune_soon()

    def stop(self) -> None:
        """Store what is not stored yet, for the last time."""
        self._task.stop()
        self._flush()

    async def find(self, names: Iterable[str]) -> dict[str, LastLogin]:
        """Return the last logins of those users who have logged in; none if the state cannot be read."""
        wanted = list(names)
        found = await self._store.put(_find, self._store, wanted) or {}
        return {**found, **{name: self._pending[name] for name in wanted if name in self._pending}}

    def _note(self, event: LoggedIn) -> None:
        self._pending[event.session.user] = LastLogin(self._wall(), event.session.address)

    def _flush(self) -> Deferred[None] | None:
        """Store what is pending. While the file cannot be written, it stays pending."""
        if not self._pending or self._store.state.provisional:
            return None
        rows, self._pending = self._pending, {}
        return self._store.put(_save, self._store, rows).addCallback(self._saved, rows)

    def _saved(self, done: bool | None, rows: dict[str, LastLogin]) -> None:
        if not done:
            self._pending = {**rows, **self._pending}

    # --- users who no longer exist -------------------------------------------------------------------

    def _prune_soon(self) -> None:
        Deferred.fromCoroutine(self._prune())

    async def _prune(self) -> None:
        """Delete the rows of users who do not exist, step by step."""
        last = ""
        while True:
            names = await self._store.put(_names_after, self._store, last)
            if not names:
                return
            gone = [name for name in names if not self._knows(name)]
            if gone:
                await self._store.put(_forget, self._store, gone)
            last = names[-1]


# --- in the thread of the state file -----------------------------------------------------------------


def stored(state: State) -> dict[str, LastLogin]:
    """Return the last logins of all users. Blocks."""
    if not _exists(state):
        return {}
    rows = state.execute(f"SELECT user, seen, address FROM last_logins WHERE {_IS_VALID}")
    return {user: LastLogin(seen, address) for user, seen, address in rows}


def _exists(state: State) -> bool:
    return bool(state.execute("SELECT 1 FROM sqlite_master WHERE name = 'last_logins'"))


def _save(store: Store, rows: Mapping[str, LastLogin]) -> bool:
    with store.state.transaction() as execute:
        execute(_TABLE)
        for user, login in rows.items():
            execute("INSERT OR REPLACE INTO last_logins VALUES (?, ?, ?)", user, login.time, login.address)
    return True


def _find(store: Store, names: Sequence[str]) -> dict[str, LastLogin]:
    found: dict[str, LastLogin] = {}
    if not _exists(store.state):
        return found
    for start in range(0, len(names), _STEP):
        some = names[start : start + _STEP]
        marks = ", ".join("?" * len(some))
        rows = store.state.execute(
            f"SELECT user, seen, address FROM last_logins WHERE user IN ({marks}) AND {_IS_VALID}", *some
        )
        found.update({user: LastLogin(seen, address) for user, seen, address in rows})
    return found


def _names_after(store: Store, last: str) -> list[str]:
    if store.state.provisional or not _exists(store.state):
        return []
    rows = store.state.execute(f"SELECT user FROM last_logins WHERE user > ? ORDER BY user LIMIT {_STEP}", last)
    return [str(user) for (user,) in rows]


def _forget(store: Store, names: Iterable[str]) -> None:
    with store.state.transaction() as execute:
        for name in names:
            execute("DELETE FROM last_logins WHERE user = ?", name)
