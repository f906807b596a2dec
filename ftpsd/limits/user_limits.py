"""The limits that users, groups and others share, the counts behind them, and what a session of a user may use.

A session brings the limits of the configuration with which it began. The counts outlive reloads: `user_counts` has them
for one process, `shared/user_counts` for several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Literal, Protocol, TypeVar

from attrs import frozen

from ftpsd.config.sections.groups import SharedLimits
from ftpsd.config.settings import Limits, UserLimits
from ftpsd.limits.token_bucket import RateLimit
from ftpsd.protocol.interfaces import Direction
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.system.reactor import Now

T = TypeVar("T")

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
    def _words(self) -> str:
        return _WORDS[self.kind].replace("{name}", self.name)

    def one_session_too_many(self) -> Refusal:
        """Return the refusal of a session (421).

        Pure-FTPd replies 421 too; ProFTPD replies 530 and ends the session. To clients 530 means a wrong password,
        which some forget then; after 421 they try again.
        """
        return SessionEnd(421, f"Too many sessions of {self._words} (limit: {self.limits.sessions}): try again later.")

    def one_transfer_too_many(self) -> Refusal:
        """Return the refusal of a transfer (450).

        425 and 426 would blame the data connection, and clients would try another kind of connection; 421 would end
        the session. 450 is RFC 959's code for a file that is not available now.
        """
        where = "on" if self.kind == "server" else "of"
        text = f"Too many transfers {where} {self._words} (limit: {self.limits.transfers}): try again later."
        return Refusal(450, text)

    def rate(self, direction: Direction) -> int | None:
        """Return the rate of all together in bytes per second, or None."""
        return self.limits.upload_rate if direction == "upload" else self.limits.download_rate


class UserCounts(Protocol):
    """The sessions and transfers of each user and group, and the rate limits. For the reactor thread."""

    @property
    def clock(self) -> Now:
        """The clock of the rate limits."""

    @property
    def sessions(self) -> Mapping[str, int]:
        """Sessions that have logged in, by user."""

    @property
    def transfers(self) -> Mapping[str, int]:
        """Transfers of files that run, by user."""

    @property
    def group_sessions(self) -> Mapping[str, int]:
        """Sessions that have logged in, by group; only groups with limits of their own."""

    @property
    def group_transfers(self) -> Mapping[str, int]:
        """Transfers of files that run, by group; only groups with limits of their own."""

    def add_session(self, shares: Sequence[Share]) -> None:
        """Count a session of a user whose password was right. Raises SessionEnd (421) for one too many."""

    def remove_session(self, shares: Sequence[Share]) -> None:
        """Count a session no longer."""

    def add_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer that begins. Raises Refusal (450) if too many transfers run."""

    def remove_transfer(self, shares: Sequence[Share]) -> None:
        """Count a transfer no longer."""

    def rate_limit(self, share: Share, direction: Direction) -> list[RateLimit]:
        """Return the rate limit of all sessions that have a share; empty if it has no rate."""

    async def when_free(self, count: Callable[[], T]) -> T:
        """Call a function that counts something when no other process has a lock that it needs."""


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


class CountedUserLease:
    """What one session of a user may use, from the login to the logout: see `ledger.UserLease`.

    `session` has the rates of each session. Making it counts the session, and may raise SessionEnd.
    """

    def __init__(self, counts: UserCounts, shares: Sequence[Share], session: UserLimits) -> None:
        self._counts = counts
        self._shares = shares
        self._downloads = self._limits_of("download", session.session_download_rate)
        self._uploads = self._limits_of("upload", session.session_upload_rate)
        self._transfer = _TransferLease(counts, shares)
        counts.add_session(shares)  # last: if something above fails, nobody would return the count

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
        self._counts.remove_session(self._shares)


class _TransferLease(AbstractAsyncContextManager[None]):
    """Counts each transfer that enters it. It has no state of its own: a session has one for all its transfers."""

    def __init__(self, counts: UserCounts, shares: Sequence[Share]) -> None:
        self._counts = counts
        self._shares = shares

    async def __aenter__(self) -> None:
        await self._counts.when_free(partial(self._counts.add_transfer, self._shares))

    async def __aexit__(self, *_: object) -> None:
        self._counts.remove_transfer(self._shares)
