"""Where control connections come in: behind whatever else is ready, and a few at a time."""

from __future__ import annotations

from twisted.internet import tcp

#: Connections that are taken before whatever else is ready gets its turn. Twisted takes the more the more
#: are waiting, without a bound: a session then waits for hundreds of new ones to be greeted or refused.
AT_ONCE = 50


class Door(tcp.Port):
    """A listening port for control connections."""

    def doRead(self) -> None:
        """Somebody connects, and is let in when all events that were polled together have had their turn.

        Twisted's epoll reactor looks up each event's owner by the number of its descriptor. Were a connection
        accepted among them, it could have the number of one that was just closed, and would get its hang-up.
        """
        self.reactor.callLater(0, self._let_in)

    def _let_in(self) -> None:
        if self.connected:
            self.numberAccepts = min(self.numberAccepts, AT_ONCE)
            super().doRead()
