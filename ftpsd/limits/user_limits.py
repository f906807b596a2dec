"""What sessions have in common: how many of one user there are, their transfers, and the rates of all.

It lives as long as the daemon; a session brings the limits of the configuration that it began with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakValueDictionary

from ftpsd.config.settings import Limits, UserLimits
from ftpsd.limits.token_bucket import Bucket
from ftpsd.protocol.replies import Refusal, SessionEnd
from ftpsd.protocol.session import Direction
from ftpsd.system.reactor import Now


class Shares:
    """The counts and the buckets."""

    def __init__(self, clock: Now) -> None:
        self.clock = clock
        self._sessions: Counter[str] = Counter()
        #: Transfers of files that run, by user.
        self.transfers: Counter[str] = Counter()
        #: By user (none: of all), direction and rate. Who has another rate since a reload has another bucket.
        self._buckets: WeakValueDictionary[tuple[str | None, Direction, int], Bucket] = WeakValueDictionary()

    def enter(self, user: str, limits: Limits, own: UserLimits) -> Share:
        """A session of a user whose password was right; SessionEnd if it is one too many.

        421, as Pure-FTPd says it (ProFTPD: 530, and ends the session, too): 530 is for clients a wrong password,
        which some forget then, and 421 is what they try again after.
        """
        most = limits.sessions_per_user if own.sessions is None else own.sessions
        if most is not None and self._sessions[user] >= most:
            raise SessionEnd(421, f"Too many sessions of this user ({most} at once). Try again later.")
        self._sessions[user] += 1
        return Share(self, user, limits, own)

    def leave(self, user: str) -> None:
        """A session of the user has ended."""
        _take(self._sessions, user)

    def begin(self, user: str, limits: Limits, own: UserLimits) -> None:
        """A transfer begins; 450 if it is one too many.

        425 and 426 would be the data connection's fault, which clients answer with another kind of connection, and
        421 would end the session; 450 is RFC 959's for a file that cannot be had now.
        """
        most = limits.transfers_per_user if own.transfers is None else own.transfers
        if most is not None and self.transfers[user] >= most:
            raise Refusal(450, f"Too many transfers of this user ({most} at once). Try again later.")
        if limits.transfers is not None and self.transfers.total() >= limits.transfers:
            raise Refusal(450, f"Too many transfers on this server ({limits.transfers} at once). Try again later.")
        self.transfers[user] += 1

    def end(self, user: str) -> None:
        """A transfer has ended."""
        _take(self.transfers, user)

    def bucket(self, user: str | None, direction: Direction, rate: int | None) -> list[Bucket]:
        """The bucket that the user's sessions share, or all sessions (None), if there is a rate."""
        if rate is None:
            return []
        key = (user, direction, rate)
        return [self._buckets.get(key) or self._buckets.setdefault(key, Bucket(rate, self.clock))]


class Share:
    """What one session has of it, from its login to its logout."""

    def __init__(self, shares: Shares, user: str, limits: Limits, own: UserLimits) -> None:
        self._shares = shares
        self._user = user
        self._limits = limits
        self._own = own
        self._down = self._limited("download")
        self._up = self._limited("upload")

    def _limited(self, direction: Direction) -> list[Bucket]:
        shares, limits, own = self._shares, self._limits, self._own
        rate = getattr(own, f"session_{direction}_rate") or getattr(limits, f"session_{direction}_rate")
        return [
            *([] if rate is None else [Bucket(rate, shares.clock)]),
            *shares.bucket(self._user, direction, getattr(own, f"{direction}_rate")),
            *shares.bucket(None, direction, getattr(limits, f"{direction}_rate")),
        ]

    @property
    def rates(self) -> str:
        """The slowest rates in words; empty if there are none."""
        told = [("down", self._down), ("up", self._up)]
        return ", ".join(f"{min(each.rate for each in buckets)} bytes/s {way}" for way, buckets in told if buckets)

    def buckets(self, direction: Direction) -> Sequence[Bucket]:
        """Return the token buckets that limit this session's transfers in one direction; empty without limits."""
        return self._up if direction == "upload" else self._down

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """A transfer of a file; 450 if it is one too many."""
        self._shares.begin(self._user, self._limits, self._own)
        try:
            yield
        finally:
            self._shares.end(self._user)

    def leave(self) -> None:
        """The session's user has logged out."""
        self._shares.leave(self._user)


def _take(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
