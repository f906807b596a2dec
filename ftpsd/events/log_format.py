"""The form of log lines: those of sessions, written quickly, and JSON.

By default they are lines, `2026-11-22T19:27:32+0000 [ftpsd] (000022) alice (203.0.113.9)> RETR f …`, as all that
twistd logs. `twistd --logger=ftpsd.log.json ftpsd …` prints each as a line of JSON.
"""

from __future__ import annotations

import json as json_
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from twisted.logger import FileLogObserver, ILogObserver, formatEvent

from ftpsd.system.twisted_private import log_observer

#: Characters of an argument, or of another text of a client, that a line shows.
LONGEST_TEXT = 200

#: The same of a sentence that may hold such a text.
LONGEST_SENTENCE = 400


def printable(text: str, most: int = LONGEST_TEXT) -> str:
    """Text of a client for a log line: not too long, no control characters, and nothing that cannot be encoded."""
    if len(text) <= most and text.isprintable():
        return text
    shown: list[str] = []
    length = 0
    for character in text[: most + 1]:
        if not character.isprintable():
            character = character.encode("unicode_escape", "surrogatepass").decode()
        length += len(character)
        if length > most:
            return f"{''.join(shown)}… ({len(text)} characters)"
        shown.append(character)
    return "".join(shown)


def lines(twistd: Mapping[str, Any]) -> FileLogObserver | None:
    """Makes the observer that twistd would log to by itself, a file or standard output, but with lines of sessions
    written as they are: Twisted's formatter takes a twentieth of the time of a small download for each.

    None if the options say something else, or if Twisted makes the observer in another way than it did.
    """
    if twistd.get("logger") or twistd.get("syslog"):
        return None
    observer = log_observer(twistd)
    if observer is not None:
        observer.formatEvent = LineFormat(observer.formatEvent)  # type: ignore[method-assign]
    return observer


class LineFormat:
    """Text for an event, as Twisted's `formatEvent` makes it; `others` is that, for all that is not of a session."""

    def __init__(self, others: Callable[[dict[str, Any]], str | None]) -> None:
        self._others = others
        self._second, self._told = -1, ""

    def __call__(self, event: dict[str, Any]) -> str | None:
        """The line, with its end."""
        if event.get("log_system") != "ftpsd" or event["log_format"] != "{line}":
            return self._others(event)
        second = int(event["log_time"])
        if second != self._second:
            self._second, self._told = second, time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
        return f"{self._told} [ftpsd] {event['line']}\n"


def json() -> ILogObserver:
    """Makes an observer for `twistd --logger`: a JSON object in a line, with the event's own fields."""
    return _write_json  # type: ignore[return-value]


def _write_json(event: dict[str, Any]) -> None:
    sys.__stdout__.write(json_line(event) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def json_line(event: dict[str, Any]) -> str:
    """One event as JSON."""
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    told: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": getattr(event.get("log_level"), "name", "info"),
        "message": formatEvent(event),
    }
    for key, value in event.items():
        if not key.startswith(("log_", "line")) and isinstance(value, str | int | float):
            told[key] = value
    return json_.dumps(told)
