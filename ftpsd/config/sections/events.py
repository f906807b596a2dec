"""The section `events`: which events go where."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen


@frozen
class EventsSettings:
    """The files to which events are written. None: they are not."""

    #: Each event that changes or shows something, as a line of JSON.
    audit: Path | None = None
    #: Each transfer of a file, in the format of wu-ftpd.
    xferlog: Path | None = None
