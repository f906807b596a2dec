"""The section `events`: which events go where."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from attrs import frozen

from ftpsd.config.sections.values import Quantity

#: The most bytes of the journal, if nothing else is configured: 1 GiB.
_JOURNAL_SIZE = Quantity(1 << 30)

#: The names of events that a rule can be for: those of `ftpsd.events.record`.
EventName = Literal[
    "connect",
    "disconnect",
    "refused",
    "login",
    "login_failed",
    "login_refused",
    "logout",
    "upload",
    "upload_failed",
    "download",
    "download_failed",
    "delete",
    "rename",
    "mkdir",
    "rmdir",
    "chmod",
    "mtime",
    "ban",
    "unban",
    "kick",
    "start",
    "stop",
    "reload",
    "reload_failed",
    "admin",
]


class PathPattern(str):
    """A pattern for virtual paths: `*` and `?` stand for characters of one name, `**` for any number of names."""

    __slots__ = ()


@frozen
class WebhookSettings:
    """An HTTP server that gets events as JSON. Without `url` there is none."""

    url: str | None = None
    secret_file: Path | None = None
    #: The authorities that the server's certificate may be of; None: those of the system.
    ca_file: Path | None = None
    #: Whether plain HTTP may leave this machine.
    insecure: bool = False


@frozen
class EventRule:
    """Which events go to a webhook or a program. Empty `users` and `paths` stand for all."""

    on: tuple[EventName, ...]
    users: tuple[str, ...] = ()
    paths: tuple[PathPattern, ...] = ()
    webhook: WebhookSettings = WebhookSettings()
    exec: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The text that identifies where the events go, also in a later configuration."""
        return f"webhook {self.webhook.url}" if self.webhook.url is not None else f"exec {shlex.join(self.exec)}"


@frozen
class EventsSettings:
    """The files to which events are written, and the rules by which `ftpsd deliver` delivers them."""

    #: Each event that changes or shows something, as a line of JSON. None: no file.
    audit: Path | None = None
    #: Each transfer of a file, in the format of wu-ftpd. None: no file.
    xferlog: Path | None = None
    rules: tuple[EventRule, ...] = ()
    #: The directory of the journal. None: `events` in the state directory.
    directory: Path | None = None
    #: The most bytes of the journal.
    journal_size: Quantity = _JOURNAL_SIZE
    #: Seconds after which an event that cannot be delivered is put aside.
    give_up: int = 3 * 24 * 3600
    #: Seconds in which a webhook answers and a program ends.
    timeout: int = 30
