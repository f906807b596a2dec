"""Who has failed to log in too often, and is not asked for a password for a while.

An address that fails `attempts` times within `window` is banned: it gets no session. IPv6 counts by /64,
since a single host has that many addresses.

A name that `attempts` different sites fail for within `window` is being guessed by many at once.
A ban of the name would do an attacker's work and lock the user out: so it holds for strangers only, and
not for addresses that have logged in as this user of late. One address alone never gets a name banned,
as it is banned itself first.

A site is an IPv4 address or an IPv6 /48, the most that one customer gets (RFC 6177). Its 65,536 /64s count as one
here, and so they have `attempts` guesses at one name together: with more, the name is banned for strangers from that
site. One /64 alone is banned itself before that.

A ban is twice as long as the last one of the same address or name, up to `longest`. Each quiet time as
long as the last ban halves that again. A successful login forgives no failures: who has an account of
his own would guess another's between two logins.

All times here are those of a clock that no one sets. Everything is bounded: what is crowded out is what
has not moved for longest, and an attacker who has `CAPACITY` addresses needs no gap in our memory. What is known of a
user is crowded out by that user (`known_addresses.py`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from ftpsd.config.settings import BanSettings
from ftpsd.events.log_format import printable
from ftpsd.limits.bans.known_addresses import Known
from ftpsd.protocol.parsing import Address, network, plain_address, site
from ftpsd.protocol.replies import Refusal, SessionEnd

#: A "site" is banned from one name: its subject is the site, a blank, and the name.
Kind = Literal["address", "user", "site"]

#: How many addresses or names are remembered, of each sort.
CAPACITY = 10_000

#: A ban has no influence on the next one after as many quiet times of its own length: halved so often, any is gone.
FORGOTTEN = 10

#: A name's first characters stand for it: a client chooses how long it is.
LONGEST_NAME = 128


#: What a banned address is told when it connects.
BANNED = "Too many failed logins from your address: try again later."

#: What a banned address or name is told at PASS. lftp sends the same password again after a 530 that says "too many"
#: or "later" (its ftp:retry-530), and the next ban would be twice as long.
ADDRESS_BLOCKED = "Logins from your address are blocked after failed attempts."
NAME_BLOCKED = "Logins with this name are blocked from your address after failed attempts."


def name(user: str) -> str:
    """Under what a user's name is counted, shown and stored: it is the client's, and may be anything."""
    return printable(user)[:LONGEST_NAME]


def counted(text: str, under: Callable[[Address], str]) -> str:
    """Return under what an address is counted; the text itself if it is no address."""
    try:
        return under(plain_address(text))
    except ValueError:
        return text


@dataclass(slots=True)
class Ban:
    """Until when, and how long it was made; kept beyond its end, since the next one may grow from it."""

    kind: Kind
    subject: str
    until: float
    length: float
    #: Whether a refused connection was logged: once for each ban, or a flood would fill the log.
    told: bool = False
    #: Its end in POSIX time, if it is from before the daemon's start.
    stored: float | None = None


def _end(ban: Ban) -> float:
    return ban.until


class Keeper(Protocol):
    """Where it all survives a restart (`store.py`)."""

    def save(self, ban: Ban) -> None: ...
    def drop(self, ban: Ban) -> None: ...
    def saw(self, user: str, address: str, when: float) -> None: ...
    def forget(self, user: str, address: str) -> None: ...


class Window:
    """What has happened of late to whom, each event once."""

    def __init__(self) -> None:
        self._events: dict[str, dict[Hashable, float]] = {}

    def add(self, subject: str, event: Hashable, now: float, length: float) -> int:
        """One more; how many there were within `length` seconds."""
        events = {each: when for each, when in self._events.pop(subject, {}).items() if now - when < length}
        events[event] = now
        self._events[subject] = events  # the last one is the latest
        if len(self._events) > CAPACITY:
            del self._events[next(iter(self._events))]
        return len(events)

    def clear(self, subject: str) -> None:
        """Forgets all of one."""
        self._events.pop(subject, None)

    def clear_below(self, prefix: str) -> None:
        """Forgets all subjects that start with a prefix."""
        for subject in [each for each in self._events if each.startswith(prefix)]:
            del self._events[subject]

    def __len__(self) -> int:
        return len(self._events)


class Book:
    """What is remembered from one configuration to the next, and by its keeper from one start to the next."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.failures: dict[Kind, Window] = {"address": Window(), "user": Window(), "site": Window()}
        self._bans: dict[tuple[Kind, str], Ban] = {}
        self._known = Known()
        self._keeper: Keeper | None = None

    def keep_with(self, keeper: Keeper) -> None:
        """Tells a keeper what changes from now on."""
        self._keeper = keeper

    def add(self, bans: Iterable[Ban], known: Iterable[tuple[str, str, float]]) -> None:
        """Goes on with what was kept. What has happened since the start stays as it is; the keeper is told nothing."""
        for ban in bans:
            own = self._bans.get((ban.kind, ban.subject))
            if own is None or own.stored is not None:
                self._bans[ban.kind, ban.subject] = ban
        for ban in heapq.nsmallest(len(self._bans) - CAPACITY, self._bans.values(), key=_end):
            del self._bans[ban.kind, ban.subject]
        for user, address, when in known:
            self._known.add(user, address, when)
            list(self._known.crowded_out())

    def bans(self) -> Iterable[Ban]:
        """All bans, those that are over included."""
        return self._bans.values()

    def known(self) -> Iterable[tuple[str, str, float]]:
        """Users, their addresses, and when they have logged in from there."""
        return self._known

    def clock_was_set(self, old: float, new: float) -> None:
        """The time of day was ahead of our clock by `old`, and is by `new`: what it said at the start about those from
        before it was wrong. None of them gets shorter, or longer than it was made."""
        now = self.now()
        for ban in self._bans.values():
            if ban.stored is not None:
                ban.until = max(ban.until, min(ban.stored - new, now + ban.length))
        self._known.later(old - new, now)

    def __len__(self) -> int:
        """How many bans there are, those that are over but may still grow included."""
        return len(self._bans)

    def last(self, kind: Kind, subject: str) -> Ban | None:
        """The ban of someone: it may be over."""
        return self._bans.get((kind, subject))

    def running(self, kind: Kind, subject: str) -> Ban | None:
        """The ban of someone who is banned now."""
        ban = self._bans.get((kind, subject))
        return ban if ban is not None and ban.until > self.now() else None

    def put(self, ban: Ban) -> None:
        """A new ban; its failures have had their answer."""
        self.failures[ban.kind].clear(ban.subject)
        self._bans[ban.kind, ban.subject] = ban
        if self._keeper is not None:
            self._keeper.save(ban)
        if len(self._bans) > CAPACITY:
            self._drop(min(self._bans.values(), key=_end))

    def _drop(self, ban: Ban) -> None:
        del self._bans[ban.kind, ban.subject]
        if self._keeper is not None:
            self._keeper.drop(ban)

    def lift(self, kind: Kind, subject: str) -> None:
        """Forgets a ban, as if there had been none. The keeper knows: it is he who says so."""
        self.failures[kind].clear(subject)
        self._bans.pop((kind, subject), None)
        if kind == "address":  # its failures would ban its site from a name soon after
            self.failures["site"].clear_below(f"{counted(subject.partition('/')[0], site)} ")

    def saw(self, user: str, address: str) -> None:
        """Somebody has logged in."""
        now = self.now()
        changed = self._known.saw(user, address, now)
        if changed and self._keeper is not None:
            self._keeper.saw(user, address, now)
        for each in self._known.crowded_out():
            if self._keeper is not None:
                self._keeper.forget(*each)

    def knows(self, user: str, address: str) -> bool:
        """Whether this user has logged in from there of late."""
        return self._known.has(user, address, self.now())


class Bans:
    """The rules, as one configuration sets them, over the book that all share."""

    def __init__(self, settings: BanSettings, book: Book) -> None:
        self._settings = settings
        self._book = book

    def of_address(self, client: Address) -> Ban | None:
        """The ban that a client is under, wherever he wants to go."""
        ban = self._book.running("address", network(client))
        return ban if ban is not None and self._counts(client) else None

    def of_user(self, client: Address, user: str) -> Ban | None:
        """The ban of a user's name, if it holds for this client."""
        who = name(user)
        ban = self._book.running("user", who) or self._book.running("site", f"{site(client)} {who}")
        if ban is None or not self._counts(client) or self._book.knows(who, network(client)):
            return None
        return ban

    def admit(self, client: Address, user: str) -> None:
        """Raises Refusal if the client is banned, before and after its password is verified: never which it was."""
        if self.of_address(client) is not None:
            raise SessionEnd(530, ADDRESS_BLOCKED)
        if self.of_user(client, user) is not None:
            # Said plainly: it tells nothing of the name (there need be no such user) or of the password,
            # and the user, at an address that is new, must not doubt the password.
            raise Refusal(530, NAME_BLOCKED)

    def failed(self, client: Address, user: str) -> list[Ban]:
        """A login with a wrong name or password; the bans that come of it."""
        if not self._counts(client):
            return []
        where, around, who = network(client), site(client), name(user)
        made = [self._count("address", where, object())]
        if not self._book.knows(who, where):
            made.append(self._count("user", who, around))
            if around != where and made[0] is None:
                made.append(self._count("site", f"{around} {who}", object()))
        return [ban for ban in made if ban is not None]

    def succeeded(self, client: Address, user: str) -> None:
        """A login that was let in."""
        if self._settings.attempts:
            self._book.saw(name(user), network(client))

    def _counts(self, client: Address) -> bool:
        return self._settings.attempts > 0 and not any(client in each for each in self._settings.allow)

    def _count(self, kind: Kind, subject: str, event: Hashable) -> Ban | None:
        book, settings = self._book, self._settings
        if book.running(kind, subject) is not None:
            return None  # was asked before the ban
        if book.failures[kind].add(subject, event, book.now(), settings.window) < settings.attempts:
            return None
        length = self._length(book.last(kind, subject))
        ban = Ban(kind, subject, book.now() + length, length)
        book.put(ban)
        return ban

    def _length(self, last: Ban | None) -> float:
        settings = self._settings
        if last is None:
            return settings.duration
        halvings = int((self._book.now() - last.until) / last.length)
        return min(settings.longest, max(settings.duration, math.ldexp(last.length, 1 - halvings)))
