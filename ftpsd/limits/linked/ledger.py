"""The ledger of a worker process: LinkedLedger."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ftpsd.config.settings import BanSettings, Limits, UserLimits
from ftpsd.limits.bans.policy import BanPolicy
from ftpsd.limits.home_counts import GroupCount, HomeCount
from ftpsd.limits.ledger import Failure, LedgerState, SessionLease, SessionRefused, UserLease, lease_user
from ftpsd.limits.linked.bans import LinkedBans
from ftpsd.limits.shared.patience import TableBusy
from ftpsd.limits.user_limits import Share
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.replies import SessionEnd
from ftpsd.system.link import Link


class LinkedLedger:
    """Asks the supervisor about bans when it must, and counts in the shared table: see `ledger.Ledger`."""

    def __init__(self, link: Link, bans: LinkedBans, state: LedgerState, limits: Limits, settings: BanSettings) -> None:
        """`state` is that of this process; its counts are those of the shared table."""
        self._link = link
        self._bans = bans
        self._users = state.users
        self._homes = state.homes
        self._limits = limits
        self._policy = BanPolicy(settings, bans.list)

    async def admit_session(self, client: Address) -> SessionLease:
        """Refuse: the supervisor accepts connections, and admits them before a worker gets them."""
        text = "Service not available: try again later."
        raise SessionRefused("undecided", text, text)

    async def check_bans(self, client: Address, user: str) -> None:
        """Raise Refusal if the client may not try this user name."""
        if not self._bans.are_current() or self._policy.ban_of(client, user) is not None:
            await self._bans.check(client, user)

    async def record_failure(self, client: Address, user: str) -> Failure:
        """Count a wrong name or password, and check the bans in the same step."""
        if self._policy.counts_failures_of(client) or self._policy.ban_of(client, user) is not None:
            return await self._bans.record_failure(client, user)
        return Failure()

    async def record_login(self, client: Address, user: str) -> None:
        """Remember that the user has logged in from this address."""
        if self._policy.is_enabled:
            self._bans.record_login(client, user)

    async def admit_user(self, user: str, own: UserLimits, shares: Sequence[Share] = ()) -> UserLease:
        """Count a session of a user who has logged in. Raises SessionEnd if there are too many sessions."""
        lease = partial(lease_user, self._users, self._limits, user, own, shares)
        try:
            try:
                return lease()
            except TableBusy:
                return await self._users.when_free(lease)
        except SessionEnd:
            await self._link.call("ledger.settle")
        return await self._users.when_free(lease)

    def knows_home(self, home: str) -> bool:
        """Return whether there is a count of a home."""
        return self._homes.knows_home(home)

    def home(self, home: str) -> HomeCount:
        """Return the count of a home."""
        return self._homes.home(home)

    def group(self, name: str) -> GroupCount:
        """Return the count of the homes of a group."""
        return self._homes.group(name)
