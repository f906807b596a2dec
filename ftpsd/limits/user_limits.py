"""Count the sessions and transfers of each user, and hold the rate limits that sessions share.

`UserCounts` lives as long as the daemon; a session brings the limits of the configuration with which it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from weakref import WeakValueDictionary

from ftpsd.config.settings import Limits, UserLimits
from ftpsd.limits.token_bucket import RateLimit
from ftpsd.protocol.interfaces import Direction
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.reactor import Now


class UserCounts:
    """The sessions and transfers of each user, and the rate limits."""

    def __init__(self, clock: Now) -> None:
        self.clock = clock
        #: Sessions that have logged in, by user.
        self.sessions: Counter[str] = Counter()
        #: Transfers of files that run, by user.
        self.transfers: Counter[str] = Counter()
        #: By user (None: all users), direction and rate. A rate that a reload has changed has a rate limit of its own.
        self._rate_limits: WeakValueDictionary[tuple[str | None, Direction, int], RateLimit] = WeakValueDictionary()

    def admit(self, user: str, limits: Limits, own: UserLimits) -> LocalUserLease:
        """Count a session of a user whose password was right. Raises SessionEnd (421) for one too many.

        Pure-FTPd replies 421 too; ProFTPD replies 530 and ends the session. To clients 530 means a wrong password,
        which some forget then; after 421 they try again.
        """
        most = limits.sessions_per_user if own.sessions is None else own.sessions
        if most is not None and self.sessions[user] >= most:
            raise SessionEnd(421, f"Too many sessions of this user (limit: {most}): try again later.")
        self.sessions[user] += 1
        return LocalUserLease(self, user, limits, own)

    def remove(self, user: str) -> None:
        """Remove a session of the user from the count."""
        _decrement(self.sessions, user)

    def begin_transfer(self, user: str, limits: Limits, own: UserLimits) -> None:
        """Count a transfer that begins. Raises Refusal (450) if too many transfers run.

        425 and 426 would blame the data connection, and clients would try another kind of connection; 421 would end
        the session. 450 is RFC 959's code for a file that is not available now.
        """
        most = limits.transfers_per_user if own.transfers is None else own.transfers
        if most is not None and self.transfers[user] >= most:
            raise Refusal(450, f"Too many transfers of this user (limit: {most}): try again later.")
        if limits.transfers is not None and self.transfers.total() >= limits.transfers:
            raise Refusal(450, f"Too many transfers on this server (limit: {limits.transfers}): try again later.")
        self.transfers[user] += 1

    def end_transfer(self, user: str) -> None:
        """Count a transfer no longer."""
        _decrement(self.transfers, user)

    def shared_limit(self, user: str | None, direction: Direction, rate: int | None) -> list[RateLimit]:
        """Return the rate limit that the sessions of a user share, or all sessions (None); empty without a rate."""
        if rate is None:
            return []
        key = (user, direction, rate)
        return [self._rate_limits.get(key) or self._rate_limits.setdefault(key, RateLimit(rate, self.clock))]


class LocalUserLease:
    """What one session of a user may use, from the login to the logout: see `ledger.UserLease`."""

    def __init__(self, counts: UserCounts, user: str, limits: Limits, own: UserLimits) -> None:
        self._counts = counts
        self._user = user
        self._limits = limits
        self._own = own
        self._downloads = self._limits_of(
            "download",
            own.session_download_rate or limits.session_download_rate,
            own.download_rate,
            limits.download_rate,
        )
        self._uploads = self._limits_of(
            "upload", own.session_upload_rate or limits.session_upload_rate, own.upload_rate, limits.upload_rate
        )
        self._transfer = _TransferLease(counts, user, limits, own)

    def _limits_of(
        self, direction: Direction, session: int | None, user: int | None, server: int | None
    ) -> list[RateLimit]:
        """Return the session's own rate limit, the user's and the server's, of those that have a rate."""
        counts = self._counts
        return [
            *([] if session is None else [RateLimit(session, counts.clock)]),
            *counts.shared_limit(self._user, direction, user),
            *counts.shared_limit(None, direction, server),
        ]

    @property
    def rates(self) -> str:
        """The lowest rates in words; empty if there are none."""
        limited = [("down", self._downloads), ("up", self._uploads)]
        return ", ".join(f"{min(each.rate for each in limits)} bytes/s {way}" for way, limits in limited if limits)

    def rate_limits(self, direction: Direction) -> Sequence[RateLimit]:
        """Return the rate limits that limit this session's transfers in one direction; empty without limits."""
        return self._uploads if direction == "upload" else self._downloads

    def transfer(self) -> AbstractAsyncContextManager[None]:
        """Count a transfer of a file while the context lasts. Entering raises Refusal (450) for one too many."""
        return self._transfer

    def release(self) -> None:
        """The user has logged out."""
        self._counts.remove(self._user)


class _TransferLease(AbstractAsyncContextManager[None]):
    """Counts each transfer that enters it. It has no state of its own: a session has one for all its transfers."""

    def __init__(self, counts: UserCounts, user: str, limits: Limits, own: UserLimits) -> None:
        self._counts = counts
        self._user = user
        self._limits = limits
        self._own = own

    async def __aenter__(self) -> None:
        self._counts.begin_transfer(self._user, self._limits, self._own)

    async def __aexit__(self, *_: object) -> None:
        self._counts.end_transfer(self._user)


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
