"""Format log events: as lines of text, or as JSON.

The default is lines of text, like all that twistd logs:
`2026-11-22T19:27:32+0000 [ftpsd] (000022) alice (203.0.113.9)> RETR f …`. With `twistd --logger=ftpsd.log.json ftpsd …`
each event is a line of JSON.
"""

from __future__ import annotations

import json as json_
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

from ftpsd.system.twisted_private import log_observer

#: Characters that a log line shows of a sentence that may contain such a text.
LONGEST_SENTENCE = 400


def line_observer(twistd: Mapping[str, object]) -> LineObserver | None:
    """Return the observer that twistd would make for its options, but faster.

    It logs to a file or to standard output. None if the options name another logger or syslog, or if this release of
    Twisted makes its observer in another way: twistd then uses its own.
    """
    if twistd.get("logger") or twistd.get("syslog"):
        return None
    observer = log_observer(twistd)
    return None if observer is None else LineObserver(observer)


@implementer(ILogObserver)
class LineObserver:
    """Writes lines with an observer of Twisted."""

    def __init__(self, observer: FileLogObserver) -> None:
        self._observer = observer
        self._format = LineFormat(observer.formatEvent)
        #: The lines that wait for the end of `together`, and the thread whose lines these are.
        self._waiting: list[str] | None = None
        self._thread = 0
        observer.formatEvent = self._text  # type: ignore[method-assign]

    def __call__(self, event: LogEvent) -> None:
        """Write an event."""
        self._observer(event)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Collect what this thread logs in the block, and write it at the end in one call.

        A call costs as much time as the rest of a line.
        """
        waiting: list[str] = []
        self._waiting, self._thread = waiting, threading.get_ident()
        try:
            yield
        finally:
            self._waiting = None
            self._write(waiting)

    def _write(self, lines: list[str]) -> None:
        """Write lines. One that cannot be written is lost alone, as Twisted loses it: it raises nothing.

        A line may contain what no file takes, such as a part of a surrogate pair; the disk may be full.
        """
        if lines:
            try:
                self._observer({_TEXT: "".join(lines)})
            except Exception:
                for line in lines:
                    with suppress(Exception):
                        self._observer({_TEXT: line})

    def _text(self, event: LogEvent) -> str | None:
        """Return what is written now."""
        if self._waiting is None or self._thread != threading.get_ident():
            return event[_TEXT] if _TEXT in event else self._format(event)
        text = self._format(event)
        if text:
            self._waiting.append(text)
        return None


#: The field of an event that is the text of some lines.
_TEXT = "log_lines"


class LineFormat:
    """Formats the lines of sessions quickly, and all other events with `other`, Twisted's formatter.

    For each line, Twisted's formatter takes a twentieth of the time of a small download.
    """

    def __init__(self, other: Callable[[LogEvent], str | None]) -> None:
        self._other = other
        #: The last POSIX time in seconds, and its text.
        self._second, self._time = -1, ""

    def __call__(self, event: LogEvent) -> str | None:
        """Return the line, with its line end."""
        if event.get("log_system") != "ftpsd" or event["log_format"] != "{line}":
            return self._other(event)
        second = int(event["log_time"])
        if second != self._second:
            self._second, self._time = second, time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
        return f"{self._time} [ftpsd] {event['line']}\n"


def json() -> ILogObserver:
    """Return an observer for `twistd --logger` that prints each event as a line of JSON."""
    return _write_json  # type: ignore[return-value]


def _write_json(event: LogEvent) -> None:
    sys.__stdout__.write(json_line(event) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def json_line(event: LogEvent) -> str:
    """Return an event as a JSON object: time, level, message, and the fields of the event."""
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    fields: LogEvent = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": getattr(event.get("log_level"), "name", "info"),
        "message": formatEvent(event),
    }
    for key, value in event.items():
        if not key.startswith(("log_", "line")) and isinstance(value, str | int | float):
            fields[key] = value
    return json_.dumps(fields)
