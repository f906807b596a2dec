"""What a worker tells the supervisor: events, log lines, logins to remember, sessions and figures: Reports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ftpsd.accounts.chain.shared_logins import share_logins
from ftpsd.events.hub import Hub
from ftpsd.events.linked.log_lines import forward_log
from ftpsd.events.linked.sender import Sender
from ftpsd.events.linked.worker_hub import ForwardedEvents
from ftpsd.figures.local import report_last, serve_figures
from ftpsd.limits.merged_registry import serve_registry
from ftpsd.processes.sessions import LocalSessions
from ftpsd.processes.snapshots import SnapshotFactory
from ftpsd.system.link import Link, LinkLost
from ftpsd.system.reactor import Reactor


class Reports:
    """Serves the supervisor's questions, and sends events and log lines."""

    def __init__(
        self, reactor: Reactor, hub: Hub, link: Link, sessions: LocalSessions, snapshots: SnapshotFactory
    ) -> None:
        self._reactor = reactor
        self._link = link
        self._figures = sessions.figures
        self._sender = Sender(reactor, link)
        ForwardedEvents(hub, self._sender, link)
        share_logins(link, snapshots.recent, snapshots.sources)
        serve_registry(link, sessions.registry)
        serve_figures(link, self._figures, self._sender)

    def with_each(self, call: Callable[[], object]) -> None:
        """Call a function before each batch of events: what it tells the supervisor goes with them."""
        self._sender.before_batch = call

    def start(self) -> None:
        """Send what is logged from now on to the supervisor. The link must be connected."""
        forward_log(self._sender)

    async def send(self) -> None:
        """Send all that waits. Returns when the supervisor has it, or has gone."""
        with suppress(LinkLost):
            await self._sender.close()

    async def finish(self) -> None:
        """Send all that the supervisor does not know yet. Returns when one supervisor has it, or all have gone."""
        for _ in range(2):
            report_last(self._link, self._figures)
            try:
                await self._sender.close()
                return
            except LinkLost as lost:
                if not lost.closed:
                    return
            await deferLater(cast(IReactorTime, self._reactor), 0)  # now the link may lead to the next supervisor
