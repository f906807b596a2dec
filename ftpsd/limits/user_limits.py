"""Count the sessions and transfers of users and groups, and hold the rate limits that sessions share.

`UserCounts` lives as long as the daemon; a session brings the limits of the configuration with which it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal
from weakref import WeakValueDictionary

from attrs import frozen

from ftpsd.config.sections.groups import SharedLimits
from ftpsd.config.settings import Limits, UserLimits
from ftpsd.limits.token_bucket import RateLimit
from ftpsd.protocol.interfaces import Direction
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.reactor import Now

#: Whose sessions share limits: one user's, those of a group's members, those of anonymous users from one network, all.
Sharer = Literal["user", "group", "network", "server"]

_WORDS: dict[Sharer, str] = {
    "user": "this user",
    "group": "the group {name}",
    "network": "anonymous users from your address",
    "server": "this server",
}


@frozen
class Share:
    """Limits that some sessions share, and who these are."""

    kind: Sharer
    name: str
    limits: SharedLimits

    @property
    def words(self) -> str:
        """Who shares the limits, for a reply."""
        return _WORDS[self.kind].replace("{name}", self.name)


class UserCounts:
    """The sessions and transfers of each user and group, and the rate limits."""

    def __init__(self, clock: Now) -> None:
        self.clock = clock
        #: Sessions that have logged in, by who shares limits, and then by name.
        self._sessions: dict[Sharer, Counter[str]] = {kind: Counter() for kind in _WORDS}
        #: Transfers of files that run, the same way.
        self._transfers: dict[Sharer, Counter[str]] = {kind: Counter() for kind in _WORDS}
        #: By share, direction and rate. A rate that a reload has changed has a rate limit of its own.
        self._rate_limits: WeakValueDictionary[tuple[Sharer, str, Direction, int], RateLimit] = WeakValueDictionary()

    @property
    def sessions(self) -> Counter[str]:
        """Sessions that have logged in, by user."""
        return self._sessions["user"]

    @property
    def transfers(self) -> Counter[str]:
        """Transfers of files that run, by user."""
        return self._transfers["user"]

    @property
    def group_sessions(self) -> Counter[str]:
        """Sessions that have logged in, by group; only groups with limits of their own."""
        return self._sessions["group"]

    @property
    def group_transfers(self) -> Counter[str]:
        """Transfers of files that run, by group; only groups with limits of their own."""
        return self._transfers["group"]

    def admit(self, shares: Sequence[Share], session: UserLimits) -> LocalUserLease:
        """Count a session of a user whose password was right. Raises SessionEnd (421) for one too many.

        Pure-FTPd replies 421 too; ProFTPD replies 530 and ends the session. To clients 530 means a wrong password,
        which some forget then; after 421 they try again.
        """
        for share in shares:
            most = share.limits.sessions
            if most is not None and self._sessions[share.kind][share.name] >= most:
                raise SessionEnd(421, f"Too many sessions of {share.words} (limit: {most}): try again later.")
        _count(self._sessions, shares, 1)
        return LocalUserLease(self, shares, session)

    def remove(self, shares: Sequence[Share]) -> None:
        """Remove a session from the counts."""
        _count(self._sessions, shares, -1)

    def begin_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer that begins. Raises Refusal (450) if too many transfers run.

        425 and 426 would blame the data connection, and clients would try another kind of connection; 421 would end
        the session. 450 is RFC 959's code for a file that is not available now.
        """
        for share in shares:
            most = share.limits.transfers
            if most is not None and self._transfers[share.kind][share.name] >= most:
                where = "on" if share.kind == "server" else "of"
                raise Refusal(450, f"Too many transfers {where} {share.words} (limit: {most}): try again later.")
        _count(self._transfers, shares, 1)

    def end_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer no longer."""
        _count(self._transfers, shares, -1)

    def rate_limit(self, share: Share, direction: Direction) -> list[RateLimit]:
        """Return the rate limit of all sessions that have a share; empty if it has no rate."""
        rate = share.limits.upload_rate if direction == "upload" else share.limits.download_rate
        if rate is None:
            return []
        key = (share.kind, share.name, direction, int(rate))
        return [self._rate_limits.get(key) or self._rate_limits.setdefault(key, RateLimit(rate, self.clock))]


def user_share(user: str, limits: Limits, own: UserLimits) -> Share:
    """Return what all sessions of a user share."""
    return Share(
        "user",
        user,
        SharedLimits(
            limits.sessions_per_user if own.sessions is None else own.sessions,
            limits.transfers_per_user if own.transfers is None else own.transfers,
            own.upload_rate,
            own.download_rate,
        ),
    )


def server_share(limits: Limits) -> Share:
    """Return what all sessions share that have logged in."""
    return Share("server", "", SharedLimits(None, limits.transfers, limits.upload_rate, limits.download_rate))


class LocalUserLease:
    """What one session of a user may use, from the login to the logout: see `ledger.UserLease`.

    `session` has the rates of each session.
    """

    def __init__(self, counts: UserCounts, shares: Sequence[Share], session: UserLimits) -> None:
        self._counts = counts
        self._shares = shares
        self._downloads = self._limits_of("download", session.session_download_rate)
        self._uploads = self._limits_of("upload", session.session_upload_rate)
        self._transfer = _TransferLease(counts, shares)

    def _limits_of(self, direction: Direction, session: int | None) -> list[RateLimit]:
        """Return the session's own rate limit, and those that it shares, of those that have a rate."""
        own = [] if session is None else [RateLimit(session, self._counts.clock)]
        return own + [limit for share in self._shares for limit in self._counts.rate_limit(share, direction)]

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
        self._counts.remove(self._shares)


class _TransferLease(AbstractAsyncContextManager[None]):
    """Counts each transfer that enters it. It has no state of its own: a session has one for all its transfers."""

    def __init__(self, counts: UserCounts, shares: Sequence[Share]) -> None:
        self._counts = counts
        self._shares = shares

    async def __aenter__(self) -> None:
        self._counts.begin_transfer(self._shares)

    async def __aexit__(self, *_: object) -> None:
        self._counts.end_transfer(self._shares)


def _count(counters: dict[Sharer, Counter[str]], shares: Sequence[Share], difference: int) -> None:
    for share in shares:
        counter = counters[share.kind]
        counter[share.name] += difference
        if not counter[share.name]:
            del counter[share.name]
