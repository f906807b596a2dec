"""The bans in memory: BanTable."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ftpsd.events.types import BanKind
from ftpsd.limits.bans.networks import Networks
from ftpsd.protocol.addresses import Address

#: What is banned. The subject of a "site" is the site, a blank, and the user name from which it is banned. A "network"
#: and an "account" are banned by an administrator.
Kind = BanKind

#: The length of a ban for ever in seconds, which the state file can hold. No calendar has its end.
FOR_EVER = 1e12


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

    @property
    def user(self) -> str | None:
        """The user name that is banned, or None for the ban of an address or network."""
        if self.kind == "site":
            return self.subject.partition(" ")[2]
        return self.subject if self.kind in ("user", "account") else None


class Watcher(Protocol):
    """Is told of each change of the table."""

    def ban_kept(self, ban: Ban) -> None:
        """Handle a ban that is new or has changed; it replaces the last ban of the same subject."""

    def ban_forgotten(self, kind: Kind, subject: str) -> None:
        """Handle the removal of a ban."""


def _end(ban: Ban) -> float:
    return ban.until


class BanTable:
    """Bans by kind and subject, one for each. `now` returns the time of the clock that their ends are in."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._bans: dict[tuple[Kind, str], Ban] = {}
        self._networks = Networks()
        self._watchers: list[Watcher] = []

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody of all changes from now on."""
        self._watchers.append(watcher)

    def __len__(self) -> int:
        """Return how many bans there are, those included that are over and may make the next one longer."""
        return len(self._bans)

    def all(self) -> Iterable[Ban]:
        """Return all bans, those that are over included."""
        return self._bans.values()

    def in_effect(self) -> Iterator[Ban]:
        """Iterate over the bans that are not over."""
        now = self.now()
        return (ban for ban in self._bans.values() if ban.until > now)

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

    def keep(self, ban: Ban) -> None:
        """Add a ban, in place of the last one of its subject."""
        self._bans[ban.kind, ban.subject] = ban
        if ban.kind == "network":
            self._networks.add(ban.subject)
        for watcher in self._watchers:
            watcher.ban_kept(ban)

    def forget(self, kind: Kind, subject: str) -> None:
        """Remove the ban of a subject, if there is one."""
        if self._bans.pop((kind, subject), None) is None:
            return
        if kind == "network":
            self._networks.remove(subject)
        for watcher in self._watchers:
            watcher.ban_forgotten(kind, subject)

    def make_room(self, capacity: int) -> Sequence[Ban]:
        """Remove the bans that end first until no more than `capacity` are left. Return those that were removed."""
        excess = len(self._bans) - capacity
        dropped = heapq.nsmallest(excess, self._bans.values(), key=lambda ban: ban.until) if excess > 0 else []
        for ban in dropped:
            self.forget(ban.kind, ban.subject)
        return dropped
