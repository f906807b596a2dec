"""All that the metrics are made of, as it was at one moment: Reading."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from attrs import frozen

from ftpsd.admin.parts import Parts
from ftpsd.admin.status import Status, StatusReader
from ftpsd.events.hub import QueueState
from ftpsd.metrics.counters import Counters, Counts


@frozen
class Reading:
    """The state of the daemon, and all counts. Nobody changes it, so another thread may use it."""

    status: Status
    counts: Counts
    #: Bans that are in effect, by kind.
    bans: dict[str, int]
    #: The event queues, by name.
    queues: dict[str, QueueState]
    #: The directory of the journal of events, whose delivery is to be shown; None without rules.
    journal: Path | None
    #: Why the daemon is not ready; empty if it is.
    not_ready: tuple[str, ...]
    #: Sessions and running transfers by user; None without series for users.
    users: tuple[dict[str, int], dict[str, int]] | None


def read(
    parts: Parts, status: StatusReader, counters: Counters, journal: Path | None, not_ready: tuple[str, ...]
) -> Reading:
    """Return what is measured now; of workers, what the last refresh has brought. For the reactor thread."""
    figures = parts.figures.read()
    counts = counters.read(parts.counts.users.sessions)
    counts.tally = figures.tally
    bans, users = parts.counts.bans, parts.counts.users
    return Reading(
        status=status.read(),
        counts=counts,
        bans=Counter(ban.kind for ban in bans.table.in_effect()),
        queues=figures.queues,
        journal=journal,
        not_ready=not_ready,
        users=(dict(users.sessions.items()), dict(users.transfers.items())) if counters.by_user else None,
    )
