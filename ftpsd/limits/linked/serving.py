"""The supervisor's end of the ledgers of workers: serve_ledgers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from ftpsd.limits.bans.ban_list import BanList
from ftpsd.limits.bans.ban_table import Ban, Kind
from ftpsd.limits.ledger import Ledger
from ftpsd.limits.linked.bans import CHANGES, SLOT, BanMessage, ChangeMessage, RefusalMessage, from_refusal, to_message
from ftpsd.limits.shared.table import SharedTable
from ftpsd.protocol.addresses import plain_address
from ftpsd.system.link import Link
from ftpsd.system.reactor import Reactor


class Workers(Protocol):
    """The workers that have not ended."""

    @property
    def links(self) -> Mapping[int, Link]:
        """The links to all workers, by their indexes."""

    def on_start(self, call: Callable[[int, Link], object], /) -> None:
        """Call back with the index and the link of each worker that starts."""

    def on_end(self, call: Callable[[int], object], /) -> None:
        """Call back with the index of each worker that has ended."""


def serve_ledgers(
    reactor: Reactor,
    workers: Workers,
    table: SharedTable,
    bans: BanList,
    ledger: Callable[[], Ledger],
    settle: Callable[[], Awaitable[None]],
) -> None:
    """Serve the ledgers of all workers, and return what a worker has counted when it has ended.

    `ledger` returns that of the last configuration. `settle` waits until all workers have noticed which sessions have
    ended.
    """

    def serve(index: int, link: Link) -> None:
        _serve(link, ledger)
        link.serve("ledger.settle", settle)

    BanPublisher(reactor, workers, table, bans)
    workers.on_start(serve)
    workers.on_end(table.clear)


def _serve(link: Link, ledger: Callable[[], Ledger]) -> None:
    async def check_bans(client: str, user: str) -> None:
        await ledger().check_bans(plain_address(client), user)

    async def record_failure(client: str, user: str) -> tuple[list[BanMessage], RefusalMessage | None]:
        bans, refusal = await ledger().record_failure(plain_address(client), user)
        return [to_message(ban) for ban in bans], from_refusal(refusal)

    async def record_login(client: str, user: str) -> None:
        await ledger().record_login(plain_address(client), user)

    link.serve("ledger.check_bans", check_bans)
    link.serve("ledger.record_failure", record_failure)
    link.serve("ledger.record_login", record_login)


class BanPublisher:
    """Sends changes of bans to all workers (`ban_table.Watcher`): those of one turn of the reactor in one message."""

    def __init__(self, reactor: Reactor, workers: Workers, table: SharedTable, bans: BanList) -> None:
        self._reactor = reactor
        self._workers = workers
        self._bans = bans
        self._slot = table.slot(*SLOT)
        self._changes: list[ChangeMessage] = []
        bans.table.watch(self)
        workers.on_start(self._send_all)

    def ban_kept(self, ban: Ban) -> None:
        """Send a ban."""
        self._send(to_message(ban))

    def ban_forgotten(self, kind: Kind, subject: str) -> None:
        """Send the end of a ban."""
        self._send((kind, subject))

    def _send(self, change: ChangeMessage) -> None:
        self._slot.ints[CHANGES] += 1
        if not self._changes:
            self._reactor.callLater(0, self._flush)
        self._changes.append(change)

    def _flush(self) -> None:
        changes, self._changes = self._changes, []
        for link in self._workers.links.values():
            link.tell("ledger.bans", self._slot.ints[CHANGES], changes)

    def _send_all(self, index: int, link: Link) -> None:
        bans = [to_message(ban) for ban in self._bans.table.in_effect()]
        link.tell("ledger.bans", self._slot.ints[CHANGES], bans)
