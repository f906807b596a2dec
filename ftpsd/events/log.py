"""What is told of sessions: events with names and fields, at one seam, and never a secret.

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

from twisted.logger import FileLogObserver, ILogObserver, Logger, formatEvent
from twisted.scripts._twistd_unix import UnixAppLogger

from ftpsd.events.log_budget import LogBudget
from ftpsd.protocol.parsing import Address, network
from ftpsd.protocol.replies import Reply
from ftpsd.protocol.session import Row

log = Logger(namespace="ftpsd")

#: Events that no budget leaves out.
ALWAYS = frozenset({"login_failed", "login_refused", "banned", "injection"})

#: What names a command that is not known.
NOT_UNDERSTOOD = {("HELP", 502), ("SITE", 501)}


#: Characters of an argument, or of another text of a client, that a line shows.
LONGEST_TEXT = 200

#: The same of a sentence that may hold such a text.
LONGEST_SENTENCE = 400

#: What stands for a text that is not shown.
HIDDEN = "********"


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


class SessionLog:
    """The events of one session."""

    __slots__ = ("_budget", "_network", "_shows", "_verbose", "address", "session", "user")

    def __init__(
        self,
        session: int,
        client: Address,
        budget: LogBudget,
        verbose: bool = False,
        shows: Callable[[str], bool] = lambda name: True,
    ) -> None:
        self._verbose = verbose
        self._budget = budget
        self._network = network(client)
        self._shows = shows  # whether a user's name may be shown
        address = str(client)
        self.session = session
        self.address = address.partition("%")[0]  # with a zone it would be no address to fail2ban
        self.user = "-"

    @property
    def label(self) -> str:
        """How lines about this session begin."""
        return f"({self.session:06d}) {self.user} ({self.address})>"

    def command(
        self, row: Row | None, verb: str, argument: str, reply: Reply, seconds: float, moved: int | None
    ) -> None:
        """A command has had its final reply."""
        if row is not None and row.quiet and reply.code < 400 and not self._verbose:
            return
        # What was not understood may be a password with a typing error around it.
        if not self._admits(row, reply):
            return
        hidden = row is None or row.secret or (verb, reply.code) in NOT_UNDERSTOOD
        if verb == "USER":
            hidden = not self._shows(argument)
        elif self.user == "-" and reply.code in (501, 530):
            hidden = True
        shown = HIDDEN if hidden and argument else printable(argument)
        text = printable(reply.text, LONGEST_SENTENCE)
        line = f"{self.label} {verb} {shown}".rstrip(" ")
        self._tell(
            f"{line}: {reply.code} {text} [{seconds:.3f} s]",
            event="command",
            command=verb,
            argument=shown,
            code=reply.code,
            text=text,
            seconds=seconds,
            bytes=moved,
        )

    def _admits(self, row: Row | None, reply: Reply) -> bool:
        """Whether the budget has a line for a command. Those that a user has changed something with are free."""
        if self.user == "-":
            return self._budget.admits_stranger(self._network)
        if row is not None and row.permission is not None and reply.code < 400:
            return True
        return self._budget.admits_user(self.user)

    def name(self, user: str) -> str:
        """A user's name as lines show it: one that nobody has may be a password in the wrong place."""
        return printable(user) if self._shows(user) else HIDDEN

    def _tell(self, line: str, **fields: Any) -> None:
        # Ready to be written: see `LineFormat`.
        log.info(
            "{line}",
            line=line,
            log_system="ftpsd",
            session=self.session,
            user=self.user,
            address=self.address,
            **fields,
        )

    def note(self, event: str, text: str, **fields: Any) -> None:
        """Something about the session that is no command. What fail2ban has to see is written in any case."""
        if self.user == "-" and event not in ALWAYS and not self._budget.admits_stranger(self._network):
            return
        text = printable(text, LONGEST_SENTENCE)
        self._tell(f"{self.label} {text}", event=event, text=text, **fields)


def lines(twistd: Mapping[str, Any]) -> FileLogObserver | None:
    """Makes the observer that twistd would log to by itself, a file or standard output, but with lines of sessions
    written as they are: Twisted's formatter takes a twentieth of the time of a small download for each.

    None where the options say something else. That there is an observer to be had has no public name in Twisted.
    """
    if twistd.get("logger") or twistd.get("syslog"):
        return None
    observer: FileLogObserver = UnixAppLogger(twistd)._getLogObserver()
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
