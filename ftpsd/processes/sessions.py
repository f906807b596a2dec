"""The sessions of one process, and what they need beside the configuration snapshot: LocalSessions."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence, Sized

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ftpsd.config.load import Configuration
from ftpsd.config.settings import ListenSettings
from ftpsd.control.incoming.accept import ControlPort
from ftpsd.control.incoming.factory import FtpsFactory
from ftpsd.control.lifecycle.graceful_stop import end_sessions
from ftpsd.control.scheduler import Scheduler
from ftpsd.control.services import ControlServices
from ftpsd.figures.local import LocalFigures
from ftpsd.limits.session_registry import LocalSessionRegistry
from ftpsd.limits.shared.locks import ByteLock
from ftpsd.processes.host import HostParts, worker_count
from ftpsd.snapshot import Snapshot
from ftpsd.storage.local.sweeper import Sweeper

log = Logger(namespace="ftpsd")


class LocalSessions:
    """Serves sessions in this process: all of a daemon that is one process, or those of a worker."""

    port = ControlPort

    def __init__(
        self, parts: HostParts, memory: Callable[[], int] = lambda: 0, sweeping: ByteLock | None = None
    ) -> None:
        """`memory` returns the bytes of memory that the process uses: see `LocalFigures`.

        `sweeping` is the lock of the worker that removes old part files.
        """
        self._reactor = parts.reactor
        self._refresh = parts.refresh
        self._snapshots = parts.snapshots
        self.registry = LocalSessionRegistry(parts.reactor)
        self.services = ControlServices(parts.reactor, Scheduler(parts.reactor, parts.counts), parts.hub, self.registry)
        self.figures = local_figures(parts, self.registry, memory)
        self.data_ports = parts.snapshots.shared_ports
        threads, quotas = parts.snapshots.workers, parts.snapshots.quotas
        self._sweeper = Sweeper(parts.reactor, threads, quotas.changing, time.time, sweeping)

    def __len__(self) -> int:
        return len(self.registry)

    def factory(self, settings: ListenSettings, snapshot: Snapshot) -> FtpsFactory:
        """Return what one listener does with its connections."""
        return FtpsFactory(self.services, snapshot, settings)

    def fork(self, configuration: Configuration) -> None:
        """Do nothing: there is one process."""

    async def start(self, configuration: Configuration) -> None:
        """Begin the periodic tasks."""
        self.follow(configuration)

    async def prepare(self, configuration: Configuration) -> None:
        """Do nothing but warn: the snapshot is made from this configuration."""
        if worker_count(configuration.settings.workers) != 1:
            log.warn("`workers` takes effect at the next start: this daemon is a single process")

    def discard(self) -> None:
        """Do nothing: nothing was prepared."""

    async def use(self, configuration: Configuration) -> None:
        """Use the configuration of the last `prepare`."""
        self.follow(configuration)

    def follow(self, configuration: Configuration) -> None:
        """Let the periodic tasks follow another configuration, whose snapshot was made before."""
        settings, users = configuration.settings, self._snapshots.users
        self._refresh.start(settings.passive.refresh)
        self._sweeper.start(lambda: users.homes.outermost, settings.uploads.keep_parts, settings.timeouts.stalled)
        self._sweep_stores(settings.uploads.keep_parts)

    async def drain(self, seconds: int) -> None:
        """End all sessions: idle ones now, the others after their transfer, or after some seconds."""
        await end_sessions(self._reactor, self.registry, seconds)

    def leave(self, listeners: Sequence[socket.socket], seconds: int) -> Deferred[None] | None:
        """Return None: sessions cannot leave their process."""
        return None

    def stop(self) -> None:
        """End the periodic tasks."""
        self._refresh.stop()
        self._sweep_stores(None)  # another worker may have the lock from now on
        self._sweeper.stop()

    def _sweep_stores(self, keep: int | None) -> None:
        self._snapshots.object_stores.sweep(keep, self._snapshots.quotas, self._sweeper.may_sweep)


def local_figures(parts: HostParts, sessions: Sized, memory: Callable[[], int] = lambda: 0) -> LocalFigures:
    """Return what counts and measures in this process."""
    snapshots = parts.snapshots
    return LocalFigures(
        parts.reactor,
        parts.hub,
        sessions,
        snapshots.transfers,
        snapshots.workers,
        snapshots.sources,
        lambda: snapshots.ports.used,
        memory,
    )
