"""Log lines of a worker, which the supervisor logs: `forward_log`, and `relog` at the other end."""

from __future__ import annotations

import time
from typing import NamedTuple

from twisted.logger import LogEvent, LogLevel, eventAsText, globalLogPublisher

from ftpsd.events.linked.once import ONCE, OnceForAll
from ftpsd.events.linked.sender import Sender
from ftpsd.system.messages.codec import Codec
from ftpsd.system.twisted_private import filter_observers, replace_observers

#: The first item of a log line in a batch, where an event has the name of its kind.
LOG = "log"

#: Characters of a line. A traceback has some thousand.
LONGEST = 20_000

#: Fields of a line, as `json_line` shows them, and the characters of one.
MOST_FIELDS = 50
LONGEST_FIELD = 2_000

#: How the names begin that no field has: those of Twisted, and of the text.
_OWN = ("log_", "line")

#: Seconds by which the clock of a line may differ from ours: the time of one that is further away is not believed.
CLOCK = 3600.0


class Line(NamedTuple):
    """One line, as the text observer of Twisted would write it, with its traceback."""

    level: str
    namespace: str
    #: What stands in brackets in place of namespace and level, if the event says so.
    system: str | None
    time: float
    text: str
    #: What is logged once for all workers, which find it out for themselves: see `OnceForAll`. Empty for other lines.
    once: str
    #: The fields of the event that are texts, numbers or flags.
    texts: dict[str, str]
    numbers: dict[str, float]


_CODEC = Codec(Line)


def forward_log(sender: Sender) -> None:
    """Send what this process logs to the supervisor, and to nobody else.

    That includes warnings, and what is written to `sys.stdout` and `sys.stderr`, which twistd redirects to the log.
    """

    def observe(event: LogEvent) -> None:
        sender.put([LOG, *_CODEC.encode(_line(event))])

    replace_observers(observe)


def _line(event: LogEvent) -> Line:
    level = event.get("log_level")
    text = eventAsText(event, includeTraceback=True, includeTimestamp=False, includeSystem=False)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    texts: dict[str, str] = {}
    numbers: dict[str, float] = {}
    for name, value in event.items():
        if name.startswith(_OWN):
            continue
        if isinstance(value, str):
            texts[name] = value[:LONGEST_FIELD]
        elif isinstance(value, int | float):
            numbers[name] = value
    system, once = event.get("log_system"), event.get(ONCE)
    return Line(
        level=LogLevel.info.name if level is None else level.name,
        namespace=str(event.get("log_namespace") or "-"),
        system=None if system is None else str(system),
        time=event.get("log_time") or time.time(),
        text=text,
        once=text if once is True else str(once or "")[:LONGEST_FIELD],
        texts=texts,
        numbers=numbers,
    )


def leave_to_workers() -> None:
    """In the supervisor: log nothing that each worker finds out for itself, and that `relog` logs once."""
    filter_observers(lambda event: ONCE not in event or "worker" in event)


def relog(item: list[object], worker: int, once: OnceForAll) -> None:
    """Log a line of a worker here. Raises Malformed for anything else."""
    line = _CODEC.decode(item[1:])
    if line.once and not once.is_new(worker, line.once[:LONGEST_FIELD]):
        return
    now = time.time()
    fields = [*line.texts.items(), *line.numbers.items()][:MOST_FIELDS]
    event: LogEvent = {
        **{name: value for name, value in fields if not name.startswith(_OWN)},
        "worker": worker,
        "line": line.text,
        "log_format": "{line}",
        "log_level": _level(line.level),
        "log_namespace": line.namespace,
        "log_time": line.time if abs(line.time - now) < CLOCK else now,
    }
    if line.system is not None:
        event["log_system"] = line.system
    globalLogPublisher(event)  # type: ignore[call-arg,misc]  # the interface has no self


def _level(name: str) -> object:
    try:
        return LogLevel.levelWithName(name)
    except Exception:
        return LogLevel.warn
