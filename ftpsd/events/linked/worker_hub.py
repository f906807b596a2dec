"""Give the events of a worker's hub to the supervisor: ForwardedEvents."""

from __future__ import annotations

from collections.abc import Callable

from ftpsd.events.hub import Hub
from ftpsd.events.linked import wire
from ftpsd.events.linked.sender import Sender
from ftpsd.events.tally import Tally
from ftpsd.events.types import Event, SessionEvent
from ftpsd.system.link import Link

#: The kinds of events that workers publish. Others are about the daemon, and the supervisor accepts none from a worker.
KINDS = {name: kind for name, kind in wire.KINDS.items() if issubclass(kind, SessionEvent)}


class ForwardedEvents:
    """Sends the events that the supervisor's listeners want; all kinds until it has said which. For the reactor thread.

    The hub has a tally while the supervisor counts.
    """

    def __init__(self, hub: Hub, sender: Sender, link: Link) -> None:
        self._hub = hub
        self._sender = sender
        self._subscriptions: dict[str, Callable[[], None]] = {}
        hub.queues["supervisor"] = sender.state
        self._want(list(KINDS), False)
        link.serve("journal.want", self._want)

    def _want(self, names: list[str], counts: bool) -> None:
        for name in set(self._subscriptions) - set(names):
            self._subscriptions.pop(name)()
        for name in set(names) - set(self._subscriptions):
            self._subscriptions[name] = self._hub.subscribe("supervisor", KINDS[name], self._forward)
        if counts != (self._hub.tally is not None):
            self._hub.count(Tally() if counts else None)

    def _forward(self, event: Event) -> None:
        self._sender.put(wire.encode(event))
