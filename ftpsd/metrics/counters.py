"""Count what happens: Counters listens to the hub, and `read` returns a copy for another thread.

A listener runs while a session waits, so it only counts. Labels come from fixed sets, never from clients; user names
are those of users who have logged in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import TypeVar

from attrs import Factory, define, evolve

from ftpsd.events.hub import Hub
from ftpsd.events.tally import Tally
from ftpsd.events.types import (
    Banned,
    ConfigurationLoaded,
    ConfigurationRefused,
    DataConnectionRefused,
    Event,
    LoggedIn,
    LoginCheckFailed,
    LoginFailed,
    LoginRefused,
    SessionOpened,
    TlsFailed,
    TransferEnded,
)
from ftpsd.protocol.interfaces import TransferKind

E = TypeVar("E", bound=Event)

#: The upper bounds of the histograms: seconds, and bytes.
DURATIONS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
SIZES = tuple(float(4**power) for power in range(5, 20, 2))  # 1 KiB to 256 GiB

#: The direction of each kind of transfer, as a label.
DIRECTIONS: dict[TransferKind, str] = {
    "upload": "upload",
    "append": "upload",
    "download": "download",
    "listing": "listing",
}


class Histogram:
    """Counts values by size."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """Return a copy."""
        copied = Histogram(self._bounds)
        copied._counts, copied.sum = self._counts.copy(), self.sum
        return copied

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Yield each upper bound, and how many values are not above it; infinity last."""
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            yield bound, total


@define
class TransferCounts:
    """Transfers that have ended, in one direction."""

    results: Counter[str] = Factory(Counter)
    durations: Histogram = Factory(lambda: Histogram(DURATIONS))
    sizes: Histogram = Factory(lambda: Histogram(SIZES))

    def copy(self) -> TransferCounts:
        """Return a copy."""
        return TransferCounts(self.results.copy(), self.durations.copy(), self.sizes.copy())


@define
class UserCounts:
    """What one user has done. Transfers are by direction and result, bytes by direction.

    No Counter: copying one takes twenty times as long, and there may be thousands of users.
    """

    transfers: dict[tuple[str, str], int] = Factory(dict)
    bytes: dict[str, int] = Factory(dict)

    def copy(self) -> UserCounts:
        """Return a copy."""
        return UserCounts(self.transfers.copy(), self.bytes.copy())


@define
class Counts:
    """All counts since counting began."""

    tally: Tally = Factory(Tally)
    #: Sessions, by how their TLS starts.
    opened: Counter[str] = Factory(Counter)
    logins: Counter[str] = Factory(Counter)
    tls_failures: int = 0
    #: Bans, by kind.
    bans: Counter[str] = Factory(Counter)
    #: Loads of the configuration, by result.
    reloads: Counter[str] = Factory(Counter)
    transfers: dict[str, TransferCounts] = Factory(lambda: {each: TransferCounts() for each in DIRECTIONS.values()})
    users: dict[str, UserCounts] = Factory(dict)

    def copy(self) -> Counts:
        """Return a copy, which another thread may read. It takes some microseconds, and one more for each user."""
        return evolve(
            self,
            tally=self.tally.copy(),
            opened=self.opened.copy(),
            logins=self.logins.copy(),
            bans=self.bans.copy(),
            reloads=self.reloads.copy(),
            transfers={direction: each.copy() for direction, each in self.transfers.items()},
            users={name: each.copy() for name, each in self.users.items()},
        )


class Counters:
    """Counts from `start` to `stop`. For the reactor thread."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._counts = Counts()
        self._subscriptions: list[Callable[[], None]] = []
        #: Whether to count for each user, too.
        self.by_user = False

    def start(self) -> None:
        """Count from now on. May be called any number of times."""
        if self._subscriptions:
            return
        self._hub.count(self._counts.tally)
        self._subscribe(SessionOpened, self._opened)
        self._subscribe(LoggedIn, lambda _: self._login("success"))
        self._subscribe(LoginFailed, lambda _: self._login("failed"))
        self._subscribe(LoginRefused, lambda event: self._login(event.reason))
        self._subscribe(LoginCheckFailed, lambda _: self._login("error"))
        self._subscribe(Banned, self._banned)
        self._subscribe(TlsFailed, self._tls_failed)
        self._subscribe(DataConnectionRefused, self._data_connection_refused)
        self._subscribe(TransferEnded, self._transfer_ended)
        self._subscribe(ConfigurationLoaded, lambda _: self._reload("success"))
        self._subscribe(ConfigurationRefused, lambda _: self._reload("failed"))

    def stop(self) -> None:
        """Count no longer, and begin at 0 the next time. May be called any number of times."""
        for unsubscribe in self._subscriptions:
            unsubscribe()
        self._subscriptions = []
        self._hub.count(None)
        self._counts = Counts()

    def read(self, users: Container[str]) -> Counts:
        """Return a copy of all counts. Users other than these are forgotten, since they have no session."""
        counts = self._counts
        counts.users = {name: each for name, each in counts.users.items() if self.by_user and name in users}
        return counts.copy()

    def _subscribe(self, kind: type[E], listener: Callable[[E], object]) -> None:
        self._subscriptions.append(self._hub.subscribe("metrics", kind, listener))

    # --- events ----------------------------------------------------------------------------------

    def _opened(self, event: SessionOpened) -> None:
        self._counts.opened["implicit" if event.implicit_tls else "explicit"] += 1

    def _login(self, result: str) -> None:
        self._counts.logins[result] += 1

    def _banned(self, event: Banned) -> None:
        self._counts.bans[event.kind] += 1

    def _tls_failed(self, _: TlsFailed) -> None:
        self._counts.tls_failures += 1

    def _data_connection_refused(self, _: DataConnectionRefused) -> None:
        self._counts.tally.data_refused["foreign"] += 1

    def _reload(self, result: str) -> None:
        self._counts.reloads[result] += 1

    def _transfer_ended(self, event: TransferEnded) -> None:
        direction = DIRECTIONS[event.kind]
        result = "complete" if event.code < 400 else result_of(event)
        counts = self._counts.transfers[direction]
        counts.results[result] += 1
        counts.durations.observe(event.seconds)
        counts.sizes.observe(event.bytes)
        if self.by_user and event.session.user:
            user = self._counts.users.setdefault(event.session.user, UserCounts())
            user.transfers[direction, result] = user.transfers.get((direction, result), 0) + 1
            user.bytes[direction] = user.bytes.get(direction, 0) + event.bytes


def result_of(event: TransferEnded) -> str:
    """Return how a transfer has ended: complete, aborted (426: one of the two sides has cut it off) or failed."""
    if event.complete:
        return "complete"
    return "aborted" if event.code == 426 else "failed"
