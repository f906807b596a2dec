"""Which bans have ended by themselves: Ends."""

from __future__ import annotations

import heapq

from ftpsd.limits.bans.ban_table import FOR_EVER, Ban, BanTable, Kind


class Ends:
    """The ends of bans that are in effect, in their order (`ban_table.Watcher`)."""

    def __init__(self, table: BanTable) -> None:
        self._table = table
        self._ends: list[tuple[float, Kind, str]] = []
        table.watch(self)

    def ban_kept(self, ban: Ban) -> None:
        """Note the end of a ban, unless it is over or has none."""
        if ban.until > self._table.now() and ban.length < FOR_EVER:
            heapq.heappush(self._ends, (ban.until, ban.kind, ban.subject))
        if len(self._ends) > 2 * len(self._table) + 1000:  # those of bans that were replaced or lifted
            self._ends = sorted({end for end in self._ends if self._is_end(*end)})

    def _is_end(self, until: float, kind: Kind, subject: str) -> bool:
        """Return whether a ban ends then that was neither replaced nor lifted."""
        ban = self._table.last(kind, subject)
        return ban is not None and ban.until == until

    def ban_forgotten(self, kind: Kind, subject: str) -> None:
        """Do nothing: `take` leaves out the ends of bans that were lifted."""

    def take(self) -> list[Ban]:
        """Return the bans that have ended since the last call."""
        ended = []
        before = None
        while self._ends and self._ends[0][0] <= self._table.now():
            end = until, kind, subject = heapq.heappop(self._ends)
            if end == before:  # the ban was kept again with the same end, when the clock was set
                continue
            before = end
            ban = self._table.last(kind, subject)
            if ban is not None and ban.until == until:
                ended.append(ban)
        return ended
