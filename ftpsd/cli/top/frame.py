"""The lines of `ftpsd top`, as spans with a style, from what the daemon answers and the view. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ftpsd.cli import text
from ftpsd.cli.durations import in_words
from ftpsd.cli.live import session_table as table
from ftpsd.cli.live.answers import Session, Status
from ftpsd.cli.top.view import View

#: A piece of a line and its style, in the words of rich.
Span = tuple[str, str]
Line = list[Span]

#: Lines beside those of the sessions: three above the table, its titles, and two below it.
FRAME_LINES = 6

_BAR = 10

#: From this width on, there is room for all columns of `ftpsd who`.
_WIDE = 110

_COMMANDS = (("s", "sort"), ("f", "filter"), ("t", "transfers only"), ("↑↓", "select"), ("k", "kick"), ("q", "quit"))


@dataclass(frozen=True, slots=True)
class Look:
    """The width of the screen, the characters of a bar that is done and that is not, and whether there are keys."""

    width: int = 80
    bar: str = "━─"
    keys: bool = True


def lines(status: Status, view: View, now: float, look: Look) -> list[Line]:
    """Return the whole frame. `now` is POSIX time."""
    page = view.page()
    left = len(view.shown) + view.beyond - len(page)
    found = [*_head(status, view), *_table(page, view, now, look)]
    if look.keys:
        found += [[] for _ in range(view.room - len(page))]
        found += [[(f"{left} more" if left else "", "dim")], _foot(view)]
    return [_cut(line, look.width) for line in found]


def _head(status: Status, view: View) -> Iterator[Line]:
    sessions, transfers = status["sessions"], status["transfers"]
    limit = "" if sessions["limit"] is None else f" of {sessions['limit']:.0f}"
    yield [
        (f"ftpsd {text.clean(status['version'])}", "bold"),
        (f", up {in_words(status['uptime'])}   sessions {sessions['used']:.0f}{limit}   bans {status['bans']}", ""),
    ]
    yield [
        (f"uploads {transfers['uploads']}  ", ""),
        (f"{text.short_size(transfers['upload_rate'])}/s", "bold green"),
        (f"   downloads {transfers['downloads']}  ", ""),
        (f"{text.short_size(transfers['download_rate'])}/s", "bold cyan"),
        (f"   sorted by {view.order}", "dim"),
        (f"   filter: {text.clean(view.filter)}" if view.filter else "", "dim"),
        ("   transfers only" if view.transfers_only else "", "dim"),
    ]
    yield []


def _table(page: Sequence[Session], view: View, now: float, look: Look) -> list[Line]:
    shown = table.lines(page, now, look.width, _columns(look))
    found: list[Line] = [[(text.pad(shown[0], look.width), "bold reverse")]]
    for session, line in zip(page, shown[1:], strict=True):
        selected = session["number"] == view.selected
        found.append([(text.pad(line, look.width), "reverse")] if selected else _coloured(session, line))
    return found


def _columns(look: Look) -> Sequence[table.Column]:
    done = replace(table.DONE, title="PROGRESS", value=lambda session, _: bar(session, look), right=False)
    if look.width >= _WIDE:
        return [done if column is table.DONE else column for column in table.WHO]
    return (table.NUMBER, table.USER, table.ADDRESS, table.TLS, table.IDLE, table.DOING, done, table.RATE)


def bar(session: Session, look: Look) -> str:
    """Return a progress bar with a percentage; the bytes so far if the size is not known."""
    done = table.fraction(session)
    if done is None:
        return table.progress(session)
    full = int(done * _BAR)
    return f"{look.bar[0] * full}{look.bar[1] * (_BAR - full)} {int(done * 100):3}%"


def _coloured(session: Session, line: str) -> Line:
    style = {"upload": "green", "download": "cyan"}.get(session["direction"] or "")
    if style is None:
        style = "" if session["state"] == "command" else "dim"
    return [(line, style)]


def _foot(view: View) -> Line:
    if view.mode == "filter":
        return [("filter: ", "bold"), (f"{text.clean(view.filter)}_", ""), ("   Enter: done   Esc: no filter", "dim")]
    if view.mode == "question":
        return [(_question(view), "bold yellow")]
    if view.trouble or view.message:
        return [(text.clean(view.trouble or view.message), "yellow")]
    return [span for key, what in _COMMANDS for span in ((key, "bold"), (f" {what}   ", "dim"))]


def _question(view: View) -> str:
    session = view.chosen()
    if session is None:
        return "The session has ended."
    who = f"{text.clean(session['user'] or '-')}, {text.clean(session['address'])}"
    return f"Kick {session['number']} ({who})?  y: after its transfer  n: now  other keys: no"


def _cut(line: Line, width: int) -> Line:
    """Return as much of a line as the screen has room for."""
    found: Line = []
    for content, style in line:
        shown = text.head(content, width)
        width -= text.cells(shown)
        if shown:
            found.append((shown, style))
    return found
