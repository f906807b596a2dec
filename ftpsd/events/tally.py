"""Tally: counts of what happens too often to publish an event each time. The hub has one while somebody counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Literal, TypeVar

from attrs import Factory, define, field

T = TypeVar("T")

ConnectionKind = Literal["control", "data"]

#: Stands for all commands that are not in the table: labels must not come from clients.
OTHER = "other"


@define
class Tally:
    """Counts since the tally was made. For the reactor thread, unless a method says otherwise."""

    #: Final replies, by command and code.
    commands: dict[tuple[str, int], int] = Factory(dict)
    #: Connections that did not become sessions, by reason.
    rejected: Counter[str] = Factory(Counter)
    #: Logins that were refused because of a ban.
    banned_logins: int = 0
    #: Data connections that were refused, by reason.
    data_refused: Counter[str] = Factory(Counter)
    #: TLS handshakes, by connection, version, and whether they resumed a session.
    handshakes: Counter[tuple[ConnectionKind, str, bool]] = Factory(Counter)
    _lock: Lock = field(factory=Lock, init=False, eq=False)

    def command(self, verb: str, code: int) -> None:
        """Count the final reply of a command."""
        key = verb, code
        self.commands[key] = self.commands.get(key, 0) + 1

    def handshake(self, connection: ConnectionKind, version: str, resumed: bool) -> None:
        """Count a TLS handshake. May be called in any thread."""
        with self._lock:
            self.handshakes[connection, version, resumed] += 1

    def copy(self) -> Tally:
        """Return a copy, which another thread may read."""
        with self._lock:
            handshakes = self.handshakes.copy()
        return Tally(
            self.commands.copy(), self.rejected.copy(), self.banned_logins, self.data_refused.copy(), handshakes
        )

    def add(self, other: Tally) -> None:
        """Add the counts of another process."""
        for key, count in other.commands.items():
            self.commands[key] = self.commands.get(key, 0) + count
        self.rejected.update(other.rejected)
        self.banned_logins += other.banned_logins
        self.data_refused.update(other.data_refused)
        self.handshakes.update(other.handshakes)

    def check_data(self, check: Callable[[T], None], facts: Callable[[T], tuple[str, bool]], connection: T) -> None:
        """Count the handshake of a data connection, and check it. May be called in any thread."""
        self.handshake("data", *facts(connection))
        check(connection)
