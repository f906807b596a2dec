"""The bans and known addresses in memory: BanList. It outlives reloads; `store.py` keeps a copy over restarts.

All times are those of a clock that no one sets. Everything is bounded: the entry that has not changed for longest makes
room, and an attacker who has `CAPACITY` addresses does not need the room. Known addresses of a user make room for the
same user only (`known_addresses.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, get_args

from ftpsd.limits.bans.ban_table import Ban, BanTable, Kind
from ftpsd.limits.bans.failures import FailureWindow
from ftpsd.limits.bans.known_addresses import KnownAddresses
from ftpsd.protocol.addresses import Address, plain_address, site
from ftpsd.protocol.printable import printable

#: The number of addresses or names that are remembered, of each kind.
CAPACITY = 10_000

#: The longest subject: a site, a blank and a user name.
MAX_SUBJECT = 64 + 128

#: User names are cut to this many characters: the client chooses how long they are.
MAX_NAME = 128


def stored_name(user: str) -> str:
    """Return the form in which a user name is counted, shown and stored. The client may have sent anything."""
    return printable(user)[:MAX_NAME]


def shown_subject(subject: str) -> str:
    """Return the subject of a ban as events, lists and log lines show it. The state file may have anything."""
    return printable(subject)[:MAX_SUBJECT]


def stored_address(text: str, group: Callable[[Address], str]) -> str:
    """Return the group (network or site) that stands for an address; the text itself if it is no address."""
    try:
        return group(plain_address(text))
    except ValueError:
        return text


class Listener(Protocol):
    """Is called for each change of the list."""

    def ban_added(self, ban: Ban) -> None:
        """Handle a new ban; it replaces the last ban of the same subject."""

    def ban_dropped(self, ban: Ban) -> None:
        """Handle the removal of a ban from the full list."""

    def login_recorded(self, user: str, address: str, when: float) -> None:
        """Handle a login of a user from an address."""

    def address_dropped(self, user: str, address: str) -> None:
        """Handle the removal of a known address from the full table."""


class BanList:
    """Bans, failed logins and known addresses: the changes, and who is told of them. `table` has the bans."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.failures: dict[Kind, FailureWindow] = {kind: FailureWindow(CAPACITY) for kind in get_args(Kind)}
        self.table = BanTable(now)
        self._known = KnownAddresses()
        self._listener: Listener | None = None

    def set_listener(self, listener: Listener) -> None:
        """Report changes from now on."""
        self._listener = listener

    def add(self, ban: Ban) -> None:
        """Add a new ban. The failures that led to it count no more."""
        self.failures[ban.kind].clear(ban.subject)
        self.table.keep(ban)
        if self._listener is not None:
            self._listener.ban_added(ban)
        for dropped in self.table.make_room(CAPACITY):
            if self._listener is not None:
                self._listener.ban_dropped(dropped)

    def lift(self, kind: Kind, subject: str) -> None:
        """Forget a ban, as if there had been none. The listener is not called: it is the source of this."""
        self.failures[kind].clear(subject)
        self.table.forget(kind, subject)
        if kind == "address":  # its failures would ban its site from a name soon after
            self.failures["site"].clear_prefix(f"{stored_address(subject.partition('/')[0], site)} ")

    # --- known addresses -------------------------------------------------------------------------

    def known_addresses(self) -> Iterable[tuple[str, str, float]]:
        """Return users, their known addresses, and the time of the last login from there."""
        return self._known

    def record_login(self, user: str, address: str) -> None:
        """Remember that a user has logged in from an address."""
        now = self.now()
        changed = self._known.record(user, address, now)
        if changed and self._listener is not None:
            self._listener.login_recorded(user, address, now)
        for dropped in self._known.make_room():
            if self._listener is not None:
                self._listener.address_dropped(*dropped)

    def is_known(self, user: str, address: str) -> bool:
        """Return whether this user has recently logged in from this address."""
        return self._known.has(user, address, self.now())

    # --- what was stored before the start ----------------------------------------------------------

    def merge(self, bans: Iterable[Ban], known: Iterable[tuple[str, str, float]]) -> None:
        """Add what was stored. Bans that were made since the start stay as they are; the listener is not called."""
        for ban in bans:
            own = self.table.last(ban.kind, ban.subject)
            if own is None or own.stored is not None:
                self.table.keep(ban)
        self.table.make_room(CAPACITY)
        for user, address, when in known:
            self._known.merge(user, address, when)
            list(self._known.make_room())

    def clock_was_set(self, old: float, new: float) -> None:
        """Correct what was stored: the time of day was ahead of our clock by `old` seconds, and now is by `new`.

        No ban becomes shorter by that, or longer than it was made.
        """
        now = self.now()
        for ban in list(self.table.all()):
            if ban.stored is not None:
                ban.until = max(ban.until, min(ban.stored - new, now + ban.length))
                self.table.keep(ban)
        self._known.shift(old - new, now)
