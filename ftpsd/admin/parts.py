"""The parts of the daemon that administration and metrics read and change: Parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from ftpsd.accounts.last_logins import LastLogins
from ftpsd.accounts.user_store import UserStore
from ftpsd.config.load import Configuration
from ftpsd.control.incoming.listeners import Listeners
from ftpsd.control.lifecycle.reload import Reloader
from ftpsd.events.hub import Hub
from ftpsd.events.record import Recorder
from ftpsd.figures.figures import FiguresReader
from ftpsd.limits.bans.store import BanStore
from ftpsd.limits.ledger import LedgerState
from ftpsd.limits.session_registry import SessionRegistry
from ftpsd.snapshot import Snapshot
from ftpsd.storage.quota import Quotas
from ftpsd.storage.stores import Stores
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads


@frozen
class Parts:
    """The long-lived objects of the daemon. `service.py` makes them."""

    reactor: Reactor
    hub: Hub
    recorder: Recorder
    #: The POSIX time.
    now: Callable[[], float]
    registry: SessionRegistry
    counts: LedgerState
    figures: FiguresReader
    bans: BanStore
    last_logins: LastLogins
    listeners: Listeners
    workers: WorkerThreads
    quotas: Quotas
    stores: Stores
    reloader: Reloader
    #: Return the users of the last load that is in effect.
    users: Callable[[], UserStore]
    #: Return what the last load that is in effect has made.
    configuration: Callable[[], Configuration]
    snapshot: Callable[[], Snapshot]
    #: Return the directories in which the daemon may write since its start; None if a reload may bring others.
    written: Callable[[], Sequence[str] | None] = lambda: None
