"""Sessions as lines of a table, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftpsd.cli import text
from ftpsd.cli.durations import short
from ftpsd.cli.live.answers import Session, posix_time


def doing(session: Session) -> str:
    """Return what a session does: its command and path, or its state."""
    if session["state"] not in ("command", "transfer"):
        return text.clean(session["state"])
    return text.clean(" ".join(filter(None, (session["command"], session["path"]))))


def fraction(session: Session) -> float | None:
    """Return how much of its transfer is done, from 0 to 1; None if that is not known."""
    size, moved = session["size"], session["bytes"]
    if session["direction"] is None or not size or moved is None:
        return None
    return min(1.0, moved / size)


def progress(session: Session) -> str:
    """Return the progress of a transfer: in percent, or in bytes if the size is not known."""
    done = fraction(session)
    if done is not None:
        return f"{int(done * 100)}%"
    return text.short_size(session["bytes"] or 0) if session["direction"] else ""


def rate(session: Session) -> str:
    """Return the bytes per second of a transfer."""
    return f"{text.short_size(session['rate'] or 0)}/s" if session["direction"] else ""


def _tls(session: Session, _: float) -> str:
    return text.clean(session["tls"] or "-").removeprefix("TLSv")


def _idle(session: Session, _: float) -> str:
    return "-" if session["idle"] is None else short(session["idle"])


def shorten_doing(content: str, width: int) -> str:
    """Return command and path in `width` cells: the end of a path tells more than its start."""
    command, blank, path = content.partition(" ")
    room = width - text.cells(command) - 1
    if text.cells(content) <= width or not blank or room < 3:
        return text.head(content, width)
    return f"{command} {text.tail(path, room)}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and its text for a session at a POSIX time."""

    title: str
    value: Callable[[Session, float], str]
    right: bool = False
    #: Cells at most, where not all columns have room.
    widest: int = 1000
    #: Cells that the column keeps when it gives way to the others; None if it does not.
    narrowest: int | None = None
    shorten: Callable[[str, int], str] = text.head


NUMBER = Column("NO", lambda session, _: str(session["number"]), right=True)
USER = Column("USER", lambda session, _: text.clean(session["user"] or "-"), widest=16, narrowest=8)
ADDRESS = Column("ADDRESS", lambda session, _: text.clean(session["address"]), narrowest=15)
TLS = Column("TLS", _tls)
CLIENT = Column("CLIENT", lambda session, _: text.clean(session["client"] or "-"), widest=12, narrowest=6)
SINCE = Column("SINCE", lambda session, now: short(now - posix_time(session["since"])), right=True)
IDLE = Column("IDLE", _idle, right=True)
DOING = Column("DOING", lambda session, _: doing(session), narrowest=13, shorten=shorten_doing)
DONE = Column("DONE", lambda session, _: progress(session), right=True)
RATE = Column("RATE", lambda session, _: rate(session), right=True)

#: The columns of `ftpsd who`.
WHO = (NUMBER, USER, ADDRESS, TLS, CLIENT, SINCE, IDLE, DOING, DONE, RATE)

#: The columns that give way when the terminal is narrow, the first one first.
_ORDER = ("DOING", "CLIENT", "USER", "ADDRESS")


def lines(sessions: Sequence[Session], now: float, width: int | None, columns: Sequence[Column] = WHO) -> list[str]:
    """Return the titles and a line for each session, at most `width` cells wide if the columns can be made to fit."""
    rows = [[column.title for column in columns]]
    rows += [[column.value(session, now) for column in columns] for session in sessions]
    widths = fit(columns, [max(map(text.cells, cells)) for cells in zip(*rows, strict=True)], width)
    return [" ".join(map(_cell, columns, row, widths)).rstrip() for row in rows]


def fit(columns: Sequence[Column], natural: list[int], width: int | None) -> list[int]:
    """Return the widths of the columns: the natural ones, or narrower ones that fit."""
    room = None if width is None else width - len(columns) + 1
    if room is None or sum(natural) <= room:
        return natural
    widths = [min(each, column.widest) for column, each in zip(columns, natural, strict=True)]
    titles = [column.title for column in columns]
    for title in filter(titles.__contains__, _ORDER):
        place = titles.index(title)
        least = min(columns[place].narrowest or 0, widths[place])
        widths[place] = max(least, widths[place] - max(0, sum(widths) - room))
    return widths


def _cell(column: Column, content: str, width: int) -> str:
    return text.pad(column.shorten(content, width), width, column.right)
