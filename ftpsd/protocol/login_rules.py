"""Who may come in: from where, until when, at which hours. Asked once, behind the right password.

A session that runs is left alone when its hours end or its account expires: a transfer that is cut at
six o'clock helps nobody, and what a session may do is what held when it began, as after a reload.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from ftpsd.protocol.parsing import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours on some days of the week (Monday is 0), in minutes since midnight; `text` is how they were written.

    An end that is not behind the start is meant for the next day.
    """

    days: frozenset[int]
    start: int
    end: int
    text: str

    def hold(self, moment: datetime) -> bool:
        """Whether a moment is within them. The start is, the end is not."""
        today, minute = moment.weekday(), moment.hour * 60 + moment.minute
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        begun = today in self.days and minute >= self.start
        return begun or ((today - 1) % 7 in self.days and minute < self.end)


class Denial(NamedTuple):
    """Why somebody with the right password may not come in: a word for the log, a sentence for the client."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class LoginRules:
    """The rules of one user. Nothing in `allow` or `hours`: everywhere, always."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    expires: datetime | None = None
    hours: tuple[Hours, ...] = ()
    enabled: bool = True

    def denial(self, client: Address, now: float) -> Denial | None:
        """What stands against a login from an address at a POSIX time; None for nothing."""
        if not self.enabled:
            return Denial("disabled", "Account disabled.")
        if any(client in each for each in self.deny) or (self.allow and not any(client in each for each in self.allow)):
            return Denial("network", "Login not allowed from your address.")
        if self.expires is not None and now >= self.expires.timestamp():
            return Denial("expired", "Account expired.")
        if self.hours and not any(each.hold(datetime.fromtimestamp(now)) for each in self.hours):
            allowed = ", ".join(each.text for each in self.hours)
            return Denial("hours", f"Login not allowed at this time; allowed: {allowed}.")
        return None
