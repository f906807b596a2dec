"""Admit sessions, logins and transfers, limit rates, count homes for quotas, and ban clients that guess passwords.

The rest of the daemon knows `Ledger` and the leases below. `LocalLedger` counts in this process. There is one for each
configuration snapshot, since limits change with a reload; the counts in `LedgerState` outlive reloads.

All calls are for the reactor thread, except `home` and those of a rate limit. Awaitable calls may ask another process.
They return within seconds or raise Refusal, and no call of one session delays another session. Whoever was admitted
returns the lease once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from ftpsd.config.settings import BanSettings, Limits, UserLimits
from ftpsd.limits.bans.ban_list import BanList
from ftpsd.limits.bans.ban_table import Ban
from ftpsd.limits.bans.policy import BANNED, BANNED_NETWORK, BanPolicy
from ftpsd.limits.home_counts import GroupCount, HomeCount, HomeLedger
from ftpsd.limits.local_home_counts import LocalHomeCounts
from ftpsd.limits.session_counts import RejectReason, SessionCounts
from ftpsd.limits.token_bucket import RateLimit
from ftpsd.limits.user_counts import LocalUserCounts
from ftpsd.limits.user_limits import CountedUserLease, Share, UserCounts, server_share, user_share
from ftpsd.protocol.addresses import Address
from ftpsd.protocol.interfaces import Direction
from ftpsd.protocol.replies import Refusal
from ftpsd.system.reactor import Now
from ftpsd.system.token_bucket import Bucket, TokenBucket


class SessionRefused(Refusal):
    """The reply 421 to a new connection, and what the log says about it: nothing if it was logged before."""

    def __init__(self, reason: RejectReason, text: str, log_text: str) -> None:
        super().__init__(421, text)
        self.reason = reason
        self.log_text = log_text


class SessionLease(Protocol):
    """One admitted session."""

    def release(self) -> None:
        """The session has ended."""


class UserLease(Protocol):
    """What one session of a user may use, from the login to the logout."""

    @property
    def rates(self) -> str:
        """The lowest rate limits in words, for the log; empty if there are none."""

    def rate_limits(self, direction: Direction) -> Sequence[RateLimit]:
        """Return the rate limits of transfers in one direction; empty without limits."""

    def transfer(self) -> AbstractAsyncContextManager[None]:
        """Count a transfer of a file while the context lasts. Entering raises Refusal for one transfer too many."""

    def release(self) -> None:
        """The user has logged out."""


class Failure(NamedTuple):
    """What follows from a wrong name or password."""

    #: The bans that this failure has caused.
    bans: Sequence[Ban] = ()
    #: The refusal if the client is banned now, by this failure or by others.
    refusal: Refusal | None = None


class Ledger(HomeLedger, Protocol):
    """Admits sessions and logins, counts homes, and bans clients that guess passwords."""

    def admit_session(self, client: Address) -> Awaitable[SessionLease]:
        """Count a new connection as a session. Raises SessionRefused for a banned client, or one session too many."""

    def check_bans(self, client: Address, user: str) -> Awaitable[None]:
        """Raise Refusal if the client may not try this user name. Callers check before and after each password."""

    def record_failure(self, client: Address, user: str) -> Awaitable[Failure]:
        """Count a wrong name or password, and check the bans in the same step."""

    def record_login(self, client: Address, user: str) -> Awaitable[None]:
        """Remember that the user has logged in from this address."""

    def admit_user(self, user: str, own: UserLimits, shares: Sequence[Share] = ()) -> Awaitable[UserLease]:
        """Count a session of a user who has logged in; `own` are the user's limits, `shares` those of the groups.

        Raises SessionEnd if there are too many sessions.
        """


class LedgerState:
    """What this process counts. It outlives reloads."""

    #: Networks whose bucket is kept after their last session. An attacker with more networks has more credit anyway.
    remembered_networks = 10_000

    def __init__(self, clock: Now, users: UserCounts | None = None) -> None:
        """`users` counts in memory that processes share; without it they are counted here."""
        self.sessions = SessionCounts()
        self.users = users or LocalUserCounts(clock)
        self.bans = BanList(clock)
        self.homes: HomeLedger = LocalHomeCounts()

    def strangers_bucket(self, network: str, rate: float, burst: float, now: float) -> Bucket:
        """Return the bucket for the commands of a network before the login."""
        return TokenBucket(rate, burst, now)


class LocalLedger:
    """The ledger of a daemon that is one process."""

    def __init__(self, state: LedgerState, limits: Limits, bans: BanSettings) -> None:
        self._sessions = state.sessions
        self._users = state.users
        self._homes = state.homes
        self._limits = limits
        self._bans = BanPolicy(bans, state.bans)

    async def admit_session(self, client: Address) -> SessionLease:
        """Count a new connection as a session. Raises SessionRefused for a banned client, or one session too many."""
        return self.admit(client)

    def admit(self, client: Address) -> SessionLease:
        """Do as `admit_session` does, for callers that know that this ledger decides at once."""
        ban = self._bans.address_ban(client)
        if ban is not None:
            text = BANNED_NETWORK if ban.kind == "network" else BANNED
            log_text = "" if ban.logged else f"{text} Logged once per ban."
            ban.logged = True
            raise SessionRefused("banned", text, log_text)
        refusal = self._sessions.refusal(self._limits, client)
        if refusal is not None:
            raise SessionRefused(*refusal, refusal[1])
        return _LocalSessionLease(self._sessions, client)

    async def check_bans(self, client: Address, user: str) -> None:
        """Raise Refusal if the client may not try this user name."""
        self._bans.check(client, user)

    async def record_failure(self, client: Address, user: str) -> Failure:
        """Count a wrong name or password, and check the bans in the same step."""
        bans = self._bans.record_failure(client, user)
        try:
            self._bans.check(client, user)
        except Refusal as refusal:
            return Failure(bans, refusal)
        return Failure(bans)

    async def record_login(self, client: Address, user: str) -> None:
        """Remember that the user has logged in from this address."""
        self._bans.record_login(client, user)

    async def admit_user(self, user: str, own: UserLimits, shares: Sequence[Share] = ()) -> UserLease:
        """Count a session of a user who has logged in. Raises SessionEnd if there are too many sessions."""
        return lease_user(self._users, self._limits, user, own, shares)

    def knows_home(self, home: str) -> bool:
        """Return whether there is a count of a home."""
        return self._homes.knows_home(home)

    def home(self, home: str) -> HomeCount:
        """Return the count of a home."""
        return self._homes.home(home)

    def group(self, name: str) -> GroupCount:
        """Return the count of the homes of a group."""
        return self._homes.group(name)


def lease_user(
    counts: UserCounts, limits: Limits, user: str, own: UserLimits, shares: Sequence[Share]
) -> CountedUserLease:
    """Count a session of a user: see `Ledger.admit_user`."""
    session = UserLimits(
        session_upload_rate=own.session_upload_rate or limits.session_upload_rate,
        session_download_rate=own.session_download_rate or limits.session_download_rate,
    )
    return CountedUserLease(counts, [user_share(user, limits, own), *shares, server_share(limits)], session)


def count_session(state: LedgerState, client: Address) -> SessionLease:
    """Count a session that was admitted before, by another process of the service."""
    return _LocalSessionLease(state.sessions, client)


class _LocalSessionLease:
    __slots__ = ("_client", "_counts")

    def __init__(self, counts: SessionCounts, client: Address) -> None:
        self._counts = counts
        self._client = client
        counts.add(client)

    def release(self) -> None:
        self._counts.remove(self._client)
