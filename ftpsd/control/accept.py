"""Where control connections come in: behind whatever else is ready, and a few at a time."""

from __future__ import annotations

from twisted.internet import tcp

#: Seconds of a turn of the reactor in which connections are taken, and how many between two looks at the clock. Twisted
#: takes the more the more are waiting, without a bound: a session then waits for hundreds of new ones to be greeted or
#: refused, which takes 0.1 to 0.5 ms each.
ACCEPTING = 0.002
AT_ONCE = 4


class Door(tcp.Port):
    """A listening port for control connections."""

    _asked = False

    def doRead(self) -> None:
        """Somebody connects, and is let in when all events that were polled together have had their turn.

        Twisted's epoll reactor looks up each event's owner by the number of its descriptor. Were a connection
        accepted among them, it could have the number of one that was just closed, and would get its hang-up.
        A turn later sessions whose clients have closed have ended: whoever connects again is not counted twice.
        """
        if not self._asked:
            self._asked = True
            self.reactor.callLater(0, self.reactor.callLater, 0, self._let_in)

    def _let_in(self) -> None:
        self._asked = False
        until = self.reactor.seconds() + ACCEPTING
        while self.connected:
            self.numberAccepts = AT_ONCE
            super().doRead()
            if self.numberAccepts <= AT_ONCE or self.reactor.seconds() >= until:
                return  # no more wait (Twisted makes it the number of those that did), or it is the turn of others
