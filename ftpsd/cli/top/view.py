"""What the keys of `ftpsd top` change: order, filter, selection, and the question before a kick. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftpsd.cli import text
from ftpsd.cli.live.answers import Session
from ftpsd.cli.live.session_table import doing
from ftpsd.cli.live.sorting import ORDERS, in_order

#: What the keys mean at the moment: commands, the text of the filter, or the answer to the question.
Mode = Literal["commands", "filter", "question"]

#: Keys that are not characters.
UP, DOWN, PAGE_UP, PAGE_DOWN, ENTER, ESCAPE, BACKSPACE = (
    "up",
    "down",
    "page up",
    "page down",
    "enter",
    "escape",
    "backspace",
)

_LONGEST_FILTER = 60


@dataclass(frozen=True, slots=True)
class Kick:
    """The decision to end a session, immediately or after its transfer."""

    number: int
    now: bool


class Quit(Exception):
    """The user wants to leave."""


@dataclass(slots=True)
class View:
    """The state of the screen. `sessions` are those of the daemon, or the first `needed` of them in the order."""

    order: str = "number"
    filter: str = ""
    transfers_only: bool = False
    #: The number of the selected session.
    selected: int | None = None
    mode: Mode = "commands"
    #: What happened last, and what is wrong at the moment, for the line below the table.
    message: str = ""
    trouble: str = ""
    sessions: Sequence[Session] = ()
    #: How many sessions the daemon has beside them.
    beyond: int = 0
    #: The lines of the table that the screen has room for.
    room: int = 20
    _shown: list[Session] = field(default_factory=list)

    def update(self, sessions: Sequence[Session], beyond: int = 0) -> None:
        """Take over what the daemon has answered."""
        self.sessions, self.beyond = sessions, beyond
        self._arrange()

    @property
    def needed(self) -> int:
        """How many sessions the screen needs: down to the selected one, and a page below it."""
        return max(self.room, self._position() + 1) + self.room

    @property
    def query(self) -> tuple[str, bool, bool, int]:
        """What decides which sessions the daemon is asked for."""
        return self.order, self.transfers_only, bool(self.filter), self.needed

    @property
    def shown(self) -> Sequence[Session]:
        """The sessions that the filter leaves, in order."""
        return self._shown

    def page(self) -> Sequence[Session]:
        """Return those that the screen has room for, with the selected one among them."""
        start = max(0, self._position() - self.room + 1)
        return self._shown[start : start + self.room]

    def press(self, key: str) -> Kick | None:
        """Do what a key stands for. Returns a kick if the user has decided on one. Raises Quit."""
        if self.mode == "filter":
            self._edit_filter(key)
            return None
        if self.mode == "question":
            return self._answer(key)
        self._command(key)
        return None

    def chosen(self) -> Session | None:
        """Return the selected session, or None."""
        return next((session for session in self._shown if session["number"] == self.selected), None)

    # --- keys ------------------------------------------------------------------------------------

    def _command(self, key: str) -> None:
        self.message = ""
        if key == "q":
            raise Quit
        if key == "s":
            self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        elif key == "t":
            self.transfers_only = not self.transfers_only
        elif key in ("f", "/"):
            self.mode = "filter"
        elif key == ESCAPE:
            self.filter, self.selected = "", None
        elif key == "k":
            self._ask()
        elif key in (UP, DOWN, PAGE_UP, PAGE_DOWN):
            self._move({UP: -1, DOWN: 1, PAGE_UP: -self.room, PAGE_DOWN: self.room}[key])
        self._arrange()

    def _edit_filter(self, key: str) -> None:
        if key in (ENTER, ESCAPE):
            self.mode = "commands"
            self.filter = self.filter if key == ENTER else ""
        elif key == BACKSPACE:
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter = (self.filter + key)[:_LONGEST_FILTER]
        self._arrange()

    def _ask(self) -> None:
        if self.chosen() is None:
            self.message = "Select a session with the arrow keys first."
        else:
            self.mode = "question"

    def _answer(self, key: str) -> Kick | None:
        self.mode = "commands"
        session = self.chosen()
        if session is None:
            self.message = "The session has ended."
        elif key in ("y", "n"):
            return Kick(session["number"], key == "n")
        else:
            self.message = "Nothing was done."
        return None

    # --- what is shown ---------------------------------------------------------------------------

    def _arrange(self) -> None:
        wanted = self.filter.casefold()
        self._shown = in_order((session for session in self.sessions if self._matches(session, wanted)), self.order)

    def _matches(self, session: Session, wanted: str) -> bool:
        if self.transfers_only and session["direction"] is None:
            return False
        words = (str(session["number"]), session["user"], session["address"], session["client"], doing(session))
        return not wanted or any(wanted in text.clean(word).casefold() for word in words if word)

    def _position(self) -> int:
        """Return the line of the selected session, or -1."""
        numbers = [session["number"] for session in self._shown]
        return numbers.index(self.selected) if self.selected in numbers else -1

    def _move(self, lines: int) -> None:
        if self._shown:
            position = self._position()
            target = position + lines if position >= 0 else (0 if lines > 0 else len(self._shown) - 1)
            self.selected = self._shown[min(max(target, 0), len(self._shown) - 1)]["number"]
