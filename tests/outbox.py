"""What the tests of durable events share: the journal as it stands, and uploads whose server may be killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftpsd.outbox.segments import entries, segments
from tests.daemon import Daemon


def settings(*rules: dict[str, Any], **events: Any) -> dict[str, Any]:
    """Settings with rules for events. Without a target, they go to a port at which nobody listens."""
    nobody = {"webhook": {"url": "http://127.0.0.1:9/"}}
    return {
        "events": {
            "rules": [rule if "exec" in rule or "webhook" in rule else rule | nobody for rule in rules],
            **events,
        }
    }


def with_state(directory: Path) -> dict[str, Any]:
    """Settings with a directory for what survives a restart."""
    directory.mkdir(exist_ok=True)
    return {"state": {"directory": str(directory)}}


class JournalNow:
    """The journal of a daemon as it is now."""

    def __init__(self, daemon: Daemon) -> None:
        directory = Path(daemon.settings["state"]["directory"]) / "events"
        #: The records of intents by identity, in their order.
        self.intents: dict[str, dict[str, Any]] = {}
        #: Whether the change was made, by identity.
        self.decisions: dict[str, bool] = {}
        #: The records of all other events.
        self.others: list[dict[str, Any]] = []
        self.locks = [path.name for path in directory.glob("*.lock")]
        for each in segments(directory) if directory.is_dir() else []:
            for entry in entries(each):
                self._add(entry)

    def _add(self, entry: dict[str, Any]) -> None:
        if "intent" in entry:
            self.intents[entry["intent"]] = entry["record"]
        elif "event" in entry:
            self.others.append(entry["record"])
        else:
            self.decisions[entry.get("done", entry.get("void"))] = "done" in entry

    @property
    def made(self) -> list[dict[str, Any]]:
        """The records of the changes that were made."""
        return [record for identity, record in self.intents.items() if self.decisions.get(identity)]

    @property
    def undecided(self) -> set[str]:
        """The intents without a decision."""
        return set(self.intents) - set(self.decisions)
