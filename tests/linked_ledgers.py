"""The ledgers of workers, linked to a supervisor by real links and a real shared table, all in one process."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Sequence
from itertools import cycle
from typing import TypeVar

from ftpsd.config.settings import BanSettings, Limits, UserLimits
from ftpsd.limits.home_counts import GroupCount, HomeCount
from ftpsd.limits.ledger import Failure, Ledger, LedgerState, LocalLedger, SessionLease, UserLease
from ftpsd.limits.linked.bans import LinkedBans
from ftpsd.limits.linked.ledger import LinkedLedger
from ftpsd.limits.linked.serving import serve_ledgers
from ftpsd.limits.shared.table import SharedTable
from ftpsd.limits.shared.user_counts import SharedUserCounts
from ftpsd.limits.user_limits import Share
from ftpsd.protocol.addresses import Address
from tests.links import LinkedWorkers
from tests.table_workers import SIZE

T = TypeVar("T")


class LinkedLedgers:
    """A supervisor and some workers."""

    def __init__(self, workers: int = 2) -> None:
        self.workers = LinkedWorkers(workers)
        self.clock = self.workers.reactor.seconds
        self.table = SharedTable.create(*SIZE)
        #: What the supervisor counts.
        self.state = LedgerState(self.clock, SharedUserCounts(self.table, self.clock))
        self._current: Ledger = LocalLedger(self.state, Limits(), BanSettings(attempts=3, allow=()))
        self._states = [self._state_of(index) for index in range(workers)]
        #: The table as each worker has it, and the bans as the workers know them.
        self.tables = [table for table, _ in self._states]
        self.bans = [
            LinkedBans(self.workers.ends[index], table, state.bans) for index, (table, state) in enumerate(self._states)
        ]
        serve_ledgers(
            self.workers.reactor, self.workers, self.table, self.state.bans, lambda: self._current, self._settle
        )
        #: How often a worker has waited for sessions that end.
        self.settled = 0
        self._next = cycle(range(workers))

    async def _settle(self) -> None:
        """Here sessions end at once."""
        self.settled += 1

    def _state_of(self, index: int) -> tuple[SharedTable, LedgerState]:
        table = SharedTable.attach(os.dup(self.table.descriptor), index, *SIZE)
        state = LedgerState(self.clock, SharedUserCounts(table, self.clock))
        state.homes = self.state.homes
        return table, state

    def ledger(
        self, limits: Limits | None = None, bans: BanSettings | None = None, worker: int | None = None
    ) -> Ledger:
        """Return the ledger of a configuration, which the supervisor has then, too: of the next worker, or of this."""
        limits, bans = limits or Limits(), bans or BanSettings(attempts=3, allow=())
        self._current = LocalLedger(self.state, limits, bans)
        index = next(self._next) if worker is None else worker
        return _WithSessions(
            LinkedLedger(self.workers.ends[index], self.bans[index], self._states[index][1], limits, bans),
            self._current,
        )

    def __call__(self, answer: Awaitable[T]) -> T:
        """Return or raise what is awaited."""
        result: T = self.workers.result(answer)
        return result

    def close(self) -> None:
        """Close all links and tables."""
        self.workers.close()
        for table in [self.table, *self.tables]:
            table.close()


class _WithSessions:
    """A worker's ledger. Sessions are admitted by the supervisor, before a worker gets them."""

    def __init__(self, worker: Ledger, supervisor: Ledger) -> None:
        self._worker = worker
        self._supervisor = supervisor

    def admit_session(self, client: Address) -> Awaitable[SessionLease]:
        """Count a session, in the supervisor."""
        return self._supervisor.admit_session(client)

    def check_bans(self, client: Address, user: str) -> Awaitable[None]:
        """Raise Refusal for a banned client."""
        return self._worker.check_bans(client, user)

    def record_failure(self, client: Address, user: str) -> Awaitable[Failure]:
        """Count a failed login."""
        return self._worker.record_failure(client, user)

    def record_login(self, client: Address, user: str) -> Awaitable[None]:
        """Remember a login."""
        return self._worker.record_login(client, user)

    def admit_user(self, user: str, own: UserLimits, shares: Sequence[Share] = ()) -> Awaitable[UserLease]:
        """Count a session of a user."""
        return self._worker.admit_user(user, own, shares)

    def knows_home(self, home: str) -> bool:
        """Return whether there is a count of a home."""
        return self._worker.knows_home(home)

    def home(self, home: str) -> HomeCount:
        """Return the count of a home."""
        return self._worker.home(home)

    def group(self, name: str) -> GroupCount:
        """Return the count of a group."""
        return self._worker.group(name)
