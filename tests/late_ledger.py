"""A ledger whose answers come later, as those of another process would."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.config.settings import UserLimits
from ftpsd.limits.home_counts import GroupCount, HomeCount
from ftpsd.limits.ledger import Failure, Ledger, SessionLease, UserLease
from ftpsd.limits.user_limits import Share
from ftpsd.protocol.addresses import Address

T = TypeVar("T")

#: Seconds until an answer.
DELAY = 0.01


class LateLedger:
    """Asks another ledger `DELAY` seconds after each call."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def _later(self, call: Awaitable[T]) -> T:
        waited: Deferred[None] = Deferred()
        self._clock.callLater(DELAY, waited.callback, None)
        await waited
        return await call

    def admit_session(self, client: Address) -> Awaitable[SessionLease]:
        """Count a session."""
        return self._later(self._ledger.admit_session(client))

    def check_bans(self, client: Address, user: str) -> Awaitable[None]:
        """Raise Refusal for a banned client."""
        return self._later(self._ledger.check_bans(client, user))

    def record_failure(self, client: Address, user: str) -> Awaitable[Failure]:
        """Count a failed login."""
        return self._later(self._ledger.record_failure(client, user))

    def record_login(self, client: Address, user: str) -> Awaitable[None]:
        """Remember a login."""
        return self._later(self._ledger.record_login(client, user))

    def admit_user(self, user: str, own: UserLimits, shares: Sequence[Share] = ()) -> Awaitable[UserLease]:
        """Count a session of a user."""
        return self._later(self._ledger.admit_user(user, own, shares))

    def knows_home(self, home: str) -> bool:
        """Return whether there is a count of a home."""
        return self._ledger.knows_home(home)

    def home(self, home: str) -> HomeCount:
        """Return the count of a home, which is no later."""
        return self._ledger.home(home)

    def group(self, name: str) -> GroupCount:
        """Return the count of a group, which is no later."""
        return self._ledger.group(name)
