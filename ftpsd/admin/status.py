"""The state of the daemon at one moment: Status, and StatusReader, which collects it.

Collecting it walks the running transfers and the bans, and nothing else that grows. It costs less than a millisecond;
worker processes are asked first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

import ftpsd
from ftpsd.accounts.chain.counts import SourceStatus
from ftpsd.admin.group_limits import GroupLimits, read_groups
from ftpsd.admin.parts import Parts
from ftpsd.config.settings import ListenSettings
from ftpsd.control.lifecycle.reload import LoadResult
from ftpsd.figures.figures import Figures, Transfers, Worker
from ftpsd.storage.stores import StoreStatus
from ftpsd.system.jobs.thread import ThreadUsage


@frozen
class Usage:
    """How much of a limit is used; the limit is None if there is none. The name is that of the setting."""

    name: str
    used: float
    limit: float | None


@frozen
class Certificate:
    """A certificate for new sessions, and its end as POSIX time (None: it has none)."""

    file: Path
    expires: float | None


@frozen
class PassivePorts:
    """The range of passive ports, and how many of them are in use: none of those that sessions share."""

    first: int
    last: int
    used: int
    shared: bool


@frozen
class Status:
    """The state of the daemon at one moment. Times are POSIX times in seconds."""

    version: str
    started: float
    #: Seconds since the start, by a clock that no one sets.
    uptime: float
    listeners: tuple[ListenSettings, ...]
    sessions: Usage
    transfers: Transfers
    #: All limits that are shared: of the server, and of the user and the client network that use most.
    limits: tuple[Usage, ...]
    #: The groups that have limits for all members together.
    groups: tuple[GroupLimits, ...]
    #: How many bans are in effect.
    bans: int
    certificates: tuple[Certificate, ...]
    #: The last load of the configuration, and when the last one came into effect.
    reload: LoadResult
    last_good_reload: float
    threads: ThreadUsage
    passive_ports: PassivePorts
    #: The sources of users, without the YAML files.
    sources: tuple[SourceStatus, ...]
    #: The stores of homes and folders, as the daemon's own process sees them.
    stores: tuple[StoreStatus, ...]
    #: The worker processes, none if the daemon is one process; and how many had to be started again.
    workers: tuple[Worker, ...]
    worker_restarts: int
    #: The directories in which the daemon may write until it is restarted; None if there is no such bound.
    sandbox: tuple[str, ...] | None


class StatusReader:
    """Collects the status. Make it when the daemon starts. For the reactor thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started = parts.now()
        self._began = parts.reactor.seconds()

    def start(self) -> None:
        """Measure rates from now on, of running transfers and of all together. May be called any number of times."""
        self._parts.figures.start()

    def stop(self) -> None:
        """Measure no longer."""
        self._parts.figures.stop()

    async def refreshed(self) -> Status:
        """Return the status now, also of worker processes. One that does not answer delays it by a second."""
        await self._parts.figures.refresh()
        return self.read()

    def read(self) -> Status:
        """Return the status; that of worker processes as of the last call of `refreshed`."""
        parts = self._parts
        figures = parts.figures.read()
        limits = tuple(self._limits(figures))
        ports = parts.snapshot().data.ports
        written = parts.written()
        identities = parts.configuration().contexts.certificates.identities
        return Status(
            version=ftpsd.__version__,
            started=self._started,
            uptime=parts.reactor.seconds() - self._began,
            listeners=tuple(parts.listeners.addresses()),
            sessions=limits[0],
            transfers=figures.transfers,
            limits=limits,
            groups=tuple(read_groups(parts)),
            bans=sum(1 for _ in parts.counts.bans.table.in_effect()),
            certificates=tuple(Certificate(each.file, each.expires) for each in identities),
            reload=parts.reloader.last,
            last_good_reload=parts.reloader.last_good.time,
            threads=figures.threads,
            passive_ports=PassivePorts(ports.low, ports.high, figures.ports, ports.is_shared),
            sources=figures.sources,
            stores=parts.stores.status(),
            workers=tuple(parts.figures.workers()),
            worker_restarts=parts.figures.restarts,
            sandbox=None if written is None else tuple(written),
        )

    def _limits(self, figures: Figures) -> Iterator[Usage]:
        limits, counts = self._parts.configuration().settings.limits, self._parts.counts
        users = counts.users
        yield Usage("sessions", counts.sessions.total, limits.sessions)
        yield Usage("sessions_per_address", counts.sessions.most_of_one_network(), limits.sessions_per_address)
        yield Usage("sessions_per_user", max(users.sessions.values(), default=0), limits.sessions_per_user)
        yield Usage("transfers", sum(users.transfers.values()), limits.transfers)
        yield Usage("transfers_per_user", max(users.transfers.values(), default=0), limits.transfers_per_user)
        yield Usage("upload_rate", figures.transfers.upload_rate, limits.upload_rate)
        yield Usage("download_rate", figures.transfers.download_rate, limits.download_rate)
        yield Usage("open_files", figures.process.descriptors, figures.process.descriptor_limit)
