"""What a target is: a webhook or a program that takes events."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Protocol

from ftpsd.outbox.segments import Entry


class NotDelivered(Exception):
    """The target has not accepted the event; the text says why."""


class Target(Protocol):
    """Where events go. At most PARALLEL deliveries run at the same time."""

    def deliver(self, entry: Entry) -> Awaitable[None]:
        """Deliver an event. Raises NotDelivered, at the latest after the time-out."""

    def stop(self) -> None:
        """End deliveries that run, so that they raise NotDelivered soon."""


def body(entry: Entry) -> bytes:
    """Return the record of an event as JSON: the body of a request, and the standard input of a program."""
    return json.dumps(entry["record"], ensure_ascii=False).encode("utf-8", "backslashreplace")
