"""What serves the sessions of the daemon: SessionHost. The rest of the daemon does not know in which processes.

LocalSessions   `sessions`: in this process
RemoteSessions  `remote_sessions`: in worker processes, each of which has LocalSessions
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from ftpsd.accounts.one_time.totp import Codes
from ftpsd.config.load import Configuration
from ftpsd.config.settings import MOST_WORKERS, ListenSettings, WorkerCount
from ftpsd.control.incoming.accept import ControlPort
from ftpsd.control.incoming.factory import FtpsFactory
from ftpsd.data.nat import AddressRefresh
from ftpsd.events.hub import Hub
from ftpsd.figures.figures import FiguresReader
from ftpsd.limits.ledger import LedgerState
from ftpsd.limits.session_registry import SessionRegistry
from ftpsd.processes.ports.interface import DataPorts
from ftpsd.processes.snapshots import SnapshotFactory
from ftpsd.snapshot import Snapshot
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")


@frozen
class HostParts:
    """The objects of the daemon that a host uses."""

    reactor: Reactor
    #: The path of the configuration file.
    path: str
    hub: Hub
    counts: LedgerState
    refresh: AddressRefresh
    snapshots: SnapshotFactory
    codes: Codes
    #: In the context that it returns, lines are logged at less cost: see `LineObserver`.
    log_together: Callable[[], AbstractContextManager[object]] = nullcontext


class SessionHost(Protocol):
    """Serves the connections that the listeners accept. For the reactor thread.

    The daemon calls `fork`, `start`, then `prepare` and `use` for each reload, and `drain` and `stop` at the end.
    """

    @property
    def registry(self) -> SessionRegistry:
        """The running sessions."""

    @property
    def figures(self) -> FiguresReader:
        """What the processes count and measure."""

    @property
    def data_ports(self) -> DataPorts:
        """Where the connections of shared passive ports go."""

    @property
    def port(self) -> type[ControlPort]:
        """The class of the listening ports."""

    def __len__(self) -> int:
        """Return the number of sessions."""

    def factory(self, settings: ListenSettings, snapshot: Snapshot) -> FtpsFactory:
        """Return what one listener does with its connections."""

    def fork(self, configuration: Configuration) -> None:
        """Fork the processes that must be forked while this one has one thread and no sandbox."""

    async def start(self, configuration: Configuration) -> None:
        """Begin. The listeners accept connections when this has ended. Raises StartFailed."""

    async def prepare(self, configuration: Configuration) -> None:
        """Prepare for a configuration that was loaded again. Raises InvalidConfiguration, and then changes nothing."""

    def discard(self) -> None:
        """Forget the last `prepare`: its configuration is not used."""

    async def use(self, configuration: Configuration) -> None:
        """Use the configuration of the last `prepare`: for logins and new sessions that begin when this has ended."""

    async def drain(self, seconds: int) -> None:
        """End all sessions: idle ones now, the others after their transfer, or after some seconds.

        SIGTERM or SIGINT ends the wait. New sessions must be refused before this call.
        """

    def leave(self, listeners: Sequence[socket.socket], seconds: int) -> Deferred[None] | None:
        """Leave sessions and listeners to the next process of the service, which has another release of the daemon.

        Running transfers get so many seconds. Return what fires when this process has all events of the sessions until
        now; None if they cannot be left.
        """

    def stop(self) -> None:
        """End everything that was not left."""


#: Makes a host for the parts of a daemon.
MakeHost = Callable[[HostParts], SessionHost]


class StartFailed(Exception):
    """The daemon cannot start, for a reason that the text names."""


def worker_count(wanted: WorkerCount) -> int:
    """Return the number of worker processes: one for each processor that this process may use, for auto."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS) if wanted == "auto" else wanted


def exit_with_error(reactor: Reactor, reason: str) -> None:
    """Log why the daemon cannot go on, stop it gracefully, and let it end with exit status 1.

    Do nothing if it stops already: SIGTERM during the start is the reason then that workers cannot start.
    """
    try:
        reactor.stop()
    except ReactorNotRunning:
        return
    log.error("{reason}", reason=reason)
    print(reason, file=sys.__stderr__)  # twistd has redirected sys.stderr to the log
    atexit.register(_fail)


def _fail() -> None:
    """End with exit status 1. twistd ends with 0 after the reactor was stopped."""
    sys.stdout.flush()
    os._exit(1)
