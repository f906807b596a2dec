"""The bans and known addresses in memory: BanList. It outlives reloads; `store.py` keeps a copy over restarts.

All times are those of a clock that no one sets. Everything is bounded: the entry that has not changed for longest makes
room, and an attacker who has `CAPACITY` addresses does not need the room. Known addresses of a user make room for the
same user only (`known_addresses.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol, get_args

from ftpsd.events.types import BanKind
from ftpsd.limits.bans.known_addresses import KnownAddresses
from ftpsd.limits.bans.networks import Networks
from ftpsd.protocol.parsing import Address, plain_address, site
from ftpsd.protocol.printable import printable

#: What is banned. The subject of a "site" is the site, a blank, and the user name from which it is banned. A "network"
#: and an "account" are banned by an administrator.
Kind = BanKind

#: The length of a ban for ever in seconds, which the state file can hold. No calendar has its end.
FOR_EVER = 1e12

#: The number of addresses or names that are remembered, of each kind.
CAPACITY = 10_000

#: User names are cut to this many characters: the client chooses how long they are.
MAX_NAME = 128


def stored_name(user: str) -> str:
    """Return the form in which a user name is counted, shown and stored. The client may have sent anything."""
    return printable(user)[:MAX_NAME]


def stored_address(text: str, group: Callable[[Address], str]) -> str:
    """Return the group (network or site) that stands for an address; the text itself if it is no address."""
    try:
        return group(plain_address(text))
    except ValueError:
        return text


@dataclass(slots=True)
class Ban:
    """A ban. It is kept after its end, because the length of the next ban depends on it."""

    kind: Kind
    subject: str
    until: float
    length: float
    #: Whether a refused connection was logged: once for each ban, or a flood of connections would fill the log.
    logged: bool = False
    #: Its end as POSIX time, if it was made before the daemon started.
    stored: float | None = None


def _end(ban: Ban) -> float:
    return ban.until


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


class FailureWindow:
    """Recent failed logins, by subject. Each event counts once."""

    def __init__(self) -> None:
        self._events: dict[str, dict[Hashable, float]] = {}

    def add(self, subject: str, event: Hashable, now: float, window: float) -> int:
        """Record an event. Return how many the subject has had in the last `window` seconds."""
        events = {each: when for each, when in self._events.pop(subject, {}).items() if now - when < window}
        events[event] = now
        self._events[subject] = events  # the subject that changed last stands last
        if len(self._events) > CAPACITY:
            del self._events[next(iter(self._events))]
        return len(events)

    def clear(self, subject: str) -> None:
        """Forget the events of a subject."""
        self._events.pop(subject, None)

    def clear_prefix(self, prefix: str) -> None:
        """Forget the events of all subjects that start with a prefix."""
        for subject in [each for each in self._events if each.startswith(prefix)]:
            del self._events[subject]

    def __len__(self) -> int:
        return len(self._events)


class BanList:
    """Bans, failed logins and known addresses."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.failures: dict[Kind, FailureWindow] = {kind: FailureWindow() for kind in get_args(Kind)}
        self._bans: dict[tuple[Kind, str], Ban] = {}
        self._networks = Networks()
        self._known = KnownAddresses()
        self._listener: Listener | None = None

    def set_listener(self, listener: Listener) -> None:
        """Report changes from now on."""
        self._listener = listener

    # --- bans ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many bans there are, those included that are over and may make the next one longer."""
        return len(self._bans)

    def bans(self) -> Iterable[Ban]:
        """Return all bans, those that are over included."""
        return self._bans.values()

    def count_active(self) -> int:
        """Return how many bans are in effect."""
        now = self.now()
        return sum(ban.until > now for ban in self._bans.values())

    def last(self, kind: Kind, subject: str) -> Ban | None:
        """Return the last ban of a subject, which may be over."""
        return self._bans.get((kind, subject))

    def active(self, kind: Kind, subject: str) -> Ban | None:
        """Return the ban of a subject that is banned now."""
        ban = self._bans.get((kind, subject))
        return ban if ban is not None and ban.until > self.now() else None

    def network_ban(self, client: Address) -> Ban | None:
        """Return the ban of a network that contains an address."""
        found = (self.active("network", subject) for subject in self._networks.around(client))
        return next((ban for ban in found if ban is not None), None)

    def add(self, ban: Ban) -> None:
        """Add a new ban. The failures that led to it count no more."""
        self.failures[ban.kind].clear(ban.subject)
        self._keep(ban)
        if self._listener is not None:
            self._listener.ban_added(ban)
        if len(self._bans) > CAPACITY:
            self._drop(min(self._bans.values(), key=_end))

    def _drop(self, ban: Ban) -> None:
        self._forget(ban.kind, ban.subject)
        if self._listener is not None:
            self._listener.ban_dropped(ban)

    def _keep(self, ban: Ban) -> None:
        self._bans[ban.kind, ban.subject] = ban
        if ban.kind == "network":
            self._networks.add(ban.subject)

    def _forget(self, kind: Kind, subject: str) -> None:
        self._bans.pop((kind, subject), None)
        if kind == "network":
            self._networks.remove(subject)

    def lift(self, kind: Kind, subject: str) -> None:
        """Forget a ban, as if there had been none. The listener is not called: it is the source of this."""
        self.failures[kind].clear(subject)
        self._forget(kind, subject)
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
            own = self._bans.get((ban.kind, ban.subject))
            if own is None or own.stored is not None:
                self._keep(ban)
        for ban in heapq.nsmallest(len(self._bans) - CAPACITY, self._bans.values(), key=_end):
            self._forget(ban.kind, ban.subject)
        for user, address, when in known:
            self._known.merge(user, address, when)
            list(self._known.make_room())

    def clock_was_set(self, old: float, new: float) -> None:
        """Correct what was stored: the time of day was ahead of our clock by `old` seconds, and now is by `new`.

        No ban becomes shorter by that, or longer than it was made.
        """
        now = self.now()
        for ban in self._bans.values():
            if ban.stored is not None:
                ban.until = max(ban.until, min(ban.stored - new, now + ban.length))
        self._known.shift(old - new, now)
