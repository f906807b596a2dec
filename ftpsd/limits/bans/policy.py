"""Decide who is banned after failed logins, and for how long: BanPolicy.

Address: one that fails `attempts` times within `window` is banned. It gets no session. IPv6 counts by /64, since a
single host has that many addresses.

User name: one that `attempts` different sites fail for within `window` is being guessed by many clients. A ban of the
name for everybody would lock the user out, which may be what the attacker wants. So it holds for strangers only: for
addresses from which this user has not logged in recently. A single address never gets a name banned, since it is banned
itself first.

Site: an IPv4 address or an IPv6 /48, the largest network that one customer gets (RFC 6177). Together its 65,536 /64s
have `attempts` guesses at one name: then the name is banned for strangers from that site.

Bans by an administrator (networks and accounts) hold for all clients and all addresses of the user; only `bans.allow`
exempts clients from the ban of a network. `attempts: 0` does not disable them.

A ban is twice as long as the last one of the same subject, up to `longest`. Each quiet time as long as the last ban
halves that again. A successful login does not clear failures: an attacker with an account would log in between two
guesses.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from ftpsd.config.settings import BanSettings
from ftpsd.limits.bans.ban_list import BanList, stored_name
from ftpsd.limits.bans.ban_table import Ban, Kind
from ftpsd.protocol.addresses import Address, network, site
from ftpsd.protocol.replies import Refusal, SessionEnd

#: The reply to a connection from a banned address.
BANNED = "Too many failed logins from your address: try again later."

#: The replies to PASS from a banned address, and with a banned name. lftp sends the same password again after a 530
#: that says "too many" or "later" (its ftp:retry-530), and the next ban would be twice as long.
ADDRESS_BLOCKED = "Logins from your address are blocked after failed attempts."
NAME_BLOCKED = "Logins with this name are blocked from your address after failed attempts."

#: The same for bans by an administrator.
BANNED_NETWORK = "Your address is banned by the administrator."
NETWORK_BLOCKED = "Logins from your address are blocked by the administrator."
ACCOUNT_BLOCKED = "Logins with this name are blocked by the administrator."


class BanPolicy:
    """The rules with the settings of one configuration, applied to the list that all configurations share."""

    def __init__(self, settings: BanSettings, bans: BanList) -> None:
        self._settings = settings
        self._bans = bans

    @property
    def is_enabled(self) -> bool:
        """Whether wrong passwords lead to bans."""
        return self._settings.attempts > 0

    def address_ban(self, client: Address) -> Ban | None:
        """Return the ban of a client's address, whatever name the client uses."""
        ban = self._bans.table.active("address", network(client)) if self.is_enabled else None
        ban = ban or self._bans.table.network_ban(client)
        return ban if ban is not None and not self._is_allowed(client) else None

    def name_ban(self, client: Address, user: str) -> Ban | None:
        """Return the ban of a user name, if it holds for this client."""
        name = stored_name(user)
        account = self._bans.table.active("account", name)
        if account is not None:
            return account
        ban = self._bans.table.active("user", name) or self._bans.table.active("site", f"{site(client)} {name}")
        if ban is None or not self.counts_failures_of(client) or self._bans.is_known(name, network(client)):
            return None
        return ban

    def ban_of(self, client: Address, user: str) -> Ban | None:
        """Return the ban of a client's address, or else of a user name if it holds for this client."""
        return self.address_ban(client) or self.name_ban(client, user)

    def check(self, client: Address, user: str) -> None:
        """Raise Refusal if the client is banned. Neither text tells whether a password was right."""
        ban = self.address_ban(client)
        if ban is not None:
            raise SessionEnd(530, NETWORK_BLOCKED if ban.kind == "network" else ADDRESS_BLOCKED)
        ban = self.name_ban(client, user)
        if ban is not None:
            # The text may name the reason: it tells nothing about the name (which need not exist) or the password. A
            # user at a new address must not believe that the password is wrong.
            raise Refusal(530, ACCOUNT_BLOCKED if ban.kind == "account" else NAME_BLOCKED)

    def record_failure(self, client: Address, user: str) -> list[Ban]:
        """Count a wrong name or password. Return the bans that follow from it."""
        if not self.counts_failures_of(client):
            return []
        address, around, name = network(client), site(client), stored_name(user)
        made = [self._count("address", address, object())]
        if not self._bans.is_known(name, address):
            made.append(self._count("user", name, around))
            if around != address and made[0] is None:
                made.append(self._count("site", f"{around} {name}", object()))
        return [ban for ban in made if ban is not None]

    def record_login(self, client: Address, user: str) -> None:
        """Remember from where a user has logged in."""
        if self.is_enabled:
            self._bans.record_login(stored_name(user), network(client))

    def counts_failures_of(self, client: Address) -> bool:
        """Return whether wrong passwords of a client can lead to bans."""
        return self.is_enabled and not self._is_allowed(client)

    def _is_allowed(self, client: Address) -> bool:
        return any(client in each for each in self._settings.allow)

    def _count(self, kind: Kind, subject: str, event: Hashable) -> Ban | None:
        bans, settings = self._bans, self._settings
        if bans.table.active(kind, subject) is not None:
            return None  # the password was sent before the ban
        if bans.failures[kind].add(subject, event, bans.now(), settings.window) < settings.attempts:
            return None
        length = self._length(bans.table.last(kind, subject))
        ban = Ban(kind, subject, bans.now() + length, length)
        bans.add(ban)
        return ban

    def _length(self, last: Ban | None) -> float:
        settings = self._settings
        if last is None:
            return settings.duration
        halvings = int((self._bans.now() - last.until) / last.length)
        return min(settings.longest, max(settings.duration, math.ldexp(last.length, 1 - halvings)))
