"""The rules of an account about addresses, dates and hours. They are checked once, after the password.

A running session continues when its hours end or its account expires: to cut a transfer helps nobody. As after a
reload, the rules that held at the login remain in effect.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from ftpsd.protocol.addresses import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours on some days of the week (Monday is 0), in minutes since midnight. `text` is from the configuration.

    If the end is not after the start, it is on the next day.
    """

    days: frozenset[int]
    start: int
    end: int
    text: str

    def hold(self, moment: datetime) -> bool:
        """Return whether a moment is within the hours. The start is included, the end is not."""
        today, minute = moment.weekday(), moment.hour * 60 + moment.minute
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        begun = today in self.days and minute >= self.start
        return begun or ((today - 1) % 7 in self.days and minute < self.end)


class Denial(NamedTuple):
    """Why a login with the right password is refused: a word for the log, and a sentence for the client."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class LoginRules:
    """The rules of one user. An empty `allow` or `hours` allows all addresses or all hours."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    expires: datetime | None = None
    hours: tuple[Hours, ...] = ()
    enabled: bool = True

    def denial(self, client: Address, now: float) -> Denial | None:
        """Return why a login from an address is refused, or None. `now` is in seconds since 1970."""
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
