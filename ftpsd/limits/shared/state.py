"""What a process of several counts, in the table that all share: SharedLedgerState."""

from __future__ import annotations

from typing import Final

from ftpsd.limits.homes.home import SharedHomeCounts
from ftpsd.limits.ledger import LedgerState
from ftpsd.limits.shared.buckets import LateBucket, SharedTokenBucket
from ftpsd.limits.shared.patience import TableBusy
from ftpsd.limits.shared.table import SharedTable
from ftpsd.limits.shared.user_counts import SharedUserCounts
from ftpsd.system.reactor import Now
from ftpsd.system.token_bucket import Bucket


class SharedLedgerState(LedgerState):
    """The counts of all processes, as far as they share them. It outlives reloads."""

    remembered_networks = 1000

    def __init__(self, clock: Now, table: SharedTable | None = None) -> None:
        """Without a table a new one is made, which the supervisor does. The clock is the same in all processes."""
        self.table: Final = table or SharedTable.create()
        super().__init__(clock, SharedUserCounts(self.table, clock))
        self.homes = SharedHomeCounts(self.table)

    def strangers_bucket(self, network: str, rate: float, burst: float, now: float) -> Bucket:
        """Return the bucket for the commands of a network before the login, which all processes share.

        While a process that was stopped holds the lock of the table, the bucket is one of this process alone: nobody is
        refused for that.
        """

        def find(now: float) -> Bucket:
            return SharedTokenBucket(self.table.slot("strangers", f"{rate} {network}"), rate, burst, now)

        try:
            return find(now)
        except TableBusy:
            return LateBucket(rate, burst, now, find)
