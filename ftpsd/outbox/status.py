"""How far the delivery of events is, as `ftpsd deliver` last wrote it: DeliveryStatus.

A file of JSON in the directory of the journal: the daemon's metrics read it, and cannot open the deliverer's database.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

_FILE = "delivery.json"


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """Deliveries that wait, and those that were put aside. Times are POSIX time."""

    #: When this was written.
    time: float
    waiting: int
    failed: int
    #: Since when the oldest one waits, or None.
    oldest: float | None


def write(directory: Path, status: DeliveryStatus) -> None:
    """Replace the file. Raises OSError."""
    new = directory / f".{_FILE}.new"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644), "w") as file:
        os.fchmod(file.fileno(), 0o644)  # the daemon has another user, and the directory is for both alone
        json.dump(asdict(status), file)
    new.replace(directory / _FILE)


def read(directory: Path) -> DeliveryStatus | None:
    """Return what was written last, or None if there is nothing. Blocks for a moment."""
    try:
        found = json.loads((directory / _FILE).read_text())
        return DeliveryStatus(found["time"], found["waiting"], found["failed"], found["oldest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
