"""Publish the events of all workers on the supervisor's hub, and log their lines: Receiver."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from twisted.logger import Logger

from ftpsd.events.hub import Hub
from ftpsd.events.linked import wire
from ftpsd.events.linked.log_lines import LOG, relog
from ftpsd.events.linked.once import OnceForAll
from ftpsd.events.linked.sender import BATCH
from ftpsd.events.linked.worker_hub import KINDS
from ftpsd.system.link import Link, Links
from ftpsd.system.messages.codec import Malformed
from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")


class Receiver:
    """Gets the batches of all workers (`Sender`). For the reactor thread."""

    def __init__(
        self,
        clock: Clock,
        hub: Hub,
        links: Links,
        together: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """In the context that `together` returns, lines can be logged at less cost."""
        self._clock = clock
        self._hub = hub
        self._links = links
        self._together = together
        self._malformed: set[int] = set()
        self._telling = False
        self._once = OnceForAll(clock.seconds)
        links.on_start(self._started)
        links.on_end(self._once.ended)
        hub.watch(self._changed)

    def _started(self, index: int, link: Link) -> None:
        self._malformed.discard(index)
        self._once.ended(index)
        link.serve("journal.batch", partial(self._received, index))
        link.tell("journal.want", *self._wanted())

    def _changed(self) -> None:
        """Tell the workers in the next turn: a reload ends many subscriptions and begins them again."""
        if not self._telling:
            self._telling = True
            self._clock.callLater(0, self._tell)

    def _tell(self) -> None:
        self._telling = False
        for link in self._links.links.values():
            link.tell("journal.want", *self._wanted())

    def _wanted(self) -> tuple[list[str], bool]:
        wanted = self._hub.wanted
        return [name for name, kind in KINDS.items() if kind in wanted], self._hub.tally is not None

    def _received(self, index: int, *arguments: object) -> None:
        """Take a batch: its items, and the number of those that were dropped before them."""
        try:
            items, dropped = _batch(arguments)
        except Malformed as error:
            self._log_once(index, error)
            return
        if dropped:
            log.warn("worker {index}: {count} events and log lines were dropped", index=index, count=dropped)
        with self._together():
            for item in items:
                try:
                    self._receive(index, item)
                except Malformed as error:
                    self._log_once(index, error)

    def _receive(self, index: int, item: object) -> None:
        if type(item) is not list or not item or type(item[0]) is not str:
            raise Malformed("this is no event")
        if item[0] == LOG:
            relog(item, index, self._once)
            return
        if item[0] not in KINDS:
            raise Malformed("this kind of event is not known")
        self._hub.publish(wire.decode(item))

    def _log_once(self, index: int, error: Malformed) -> None:
        if index not in self._malformed:
            self._malformed.add(index)
            text = "worker {index} has sent what no worker sends: {error}; this is logged once"
            log.error(text, index=index, error=str(error))


def _batch(arguments: tuple[object, ...]) -> tuple[list[object], int]:
    if len(arguments) == 2:
        items, dropped = arguments
        if type(items) is list and len(items) <= BATCH and type(dropped) is int and dropped >= 0:
            return items, dropped
    raise Malformed("this is no batch")
