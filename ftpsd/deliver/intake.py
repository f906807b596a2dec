"""Take entries over from the journal into the tables of the queue: Intake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from ftpsd.outbox.evidence import file_of
from ftpsd.outbox.segments import Entry, paths_of
from ftpsd.system.state import Row, State

#: Executes a statement with parameters.
Execute = Callable[..., list[Row]]


class Intake:
    """Notes in the database what was read of the journal. The methods block, and raise sqlite3.Error."""

    def __init__(self, state: State) -> None:
        self._state = state

    def position(self, file: str) -> int:
        """Return how many bytes of a file of the journal were taken over."""
        found = self._state.execute("SELECT offset FROM positions WHERE file = ?", file)
        return int(found[0][0]) if found else 0

    def take_over(
        self, file: str, position: int, entries: Iterable[Entry], targets: Callable[[Entry], Iterable[str]], now: float
    ) -> None:
        """Take entries over from a file, and note the position after them. `targets` returns those of an event."""
        with self._state.transaction() as execute:
            for entry in entries:
                event = _decided(execute, file, entry)
                if event is not None:
                    for target in targets(event):
                        _insert(execute, event, target, now)
            execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", file, position)

    def has_intents(self, file: str) -> bool:
        """Return whether a file has intents that are not decided."""
        return bool(self._state.execute("SELECT 1 FROM intents WHERE file = ? LIMIT 1", file))

    def forget(self, file: str) -> None:
        """Forget the position in a file that was removed."""
        self._state.execute("DELETE FROM positions WHERE file = ?", file)


def _decided(execute: Execute, file: str, entry: Entry) -> Entry | None:
    """Take one entry over. Return the entry of an event if this one shows that the event has happened, else None."""
    if "intent" in entry:
        execute("INSERT OR IGNORE INTO intents VALUES (?, ?, ?)", entry["intent"], file, json.dumps(entry))
        return None
    if "event" in entry:
        return entry
    identity = entry.get("done", entry.get("void"))
    found = execute("SELECT entry FROM intents WHERE event = ?", identity)
    execute("DELETE FROM intents WHERE event = ?", identity)
    if not found or "done" not in entry:
        return None
    event: Entry = json.loads(found[0][0])
    return event


def _insert(execute: Execute, event: Entry, target: str, now: float) -> None:
    record = event["record"]
    assert isinstance(record, dict)
    keys = keys_of(event)
    rows = [execute("SELECT 1 FROM keys WHERE target = ? AND key = ? LIMIT 1", target, key) for key in keys]
    evidence = event.get("evidence")
    file = {"file": file_of(evidence)} if isinstance(evidence, dict) else {}
    text = json.dumps({"record": record, "paths": paths_of(event), **file})
    statement = "INSERT OR IGNORE INTO deliveries (event, target, entry, since, due) VALUES (?, ?, ?, ?, ?)"
    execute(statement, record["id"], target, text, now, None if any(rows) else now)
    ((number,),) = execute("SELECT number FROM deliveries WHERE event = ? AND target = ?", record["id"], target)
    for key in keys:
        execute("INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", target, key, number)


def keys_of(event: Entry) -> list[str]:
    """Return keys for the order of deliveries: events that share one are delivered one after the other.

    They are the paths of the event, or else its session, or else the daemon.
    """
    paths, record = paths_of(event), event["record"]
    assert isinstance(record, dict)
    if paths:
        # As JSON, since SQLite takes no text with bytes that are not UTF-8.
        return sorted({json.dumps([record.get("user"), path]) for path in paths})
    return [f"session {record['session']}" if "session" in record else "daemon"]
