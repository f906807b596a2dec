"""Where the journal of events is, for the daemon, for `ftpsd deliver` and for `ftpsd events`."""

from __future__ import annotations

import os
from pathlib import Path

from ftpsd.config.settings import Settings
from ftpsd.system.state import directory

#: The least size of the journal, in bytes.
MIN_JOURNAL = 1 << 20

#: The configuration of ftpsd.service, and the journal's directory with it: no shell has its $STATE_DIRECTORY.
CONFIGURATION, SERVICE = "/etc/ftpsd/ftpsd.yaml", Path("/var/lib/ftpsd-state/events")


def journal_directory(settings: Settings, configuration: str | os.PathLike[str]) -> Path | None:
    """Return the directory of the journal, or None if there is no place that survives a restart."""
    if settings.events.directory is not None:
        return settings.events.directory
    state = directory(settings.state)
    if state is not None:
        return state / "events"
    return SERVICE if os.path.abspath(configuration) == CONFIGURATION else None
