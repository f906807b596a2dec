"""Accept control connections: after the events of other connections, and a few at a time."""

from __future__ import annotations

from twisted.internet import tcp

#: Seconds of a turn of the reactor in which connections are accepted, and how many are accepted between two looks at
#: the clock. Twisted accepts more connections the more are waiting, without a bound. Each takes 0.1 to 0.5 ms to be
#: greeted or refused, and other sessions would wait for hundreds of them.
MAX_SECONDS = 0.002
BATCH = 4


class ControlPort(tcp.Port):
    """A listening port for control connections."""

    _scheduled = False

    def doRead(self) -> None:
        """A client connects: accept it after all events that were polled together.

        Twisted's epoll reactor finds the owner of an event by the number of its descriptor. A connection that is
        accepted between these events can get the number of one that was just closed, and would receive its hang-up
        event. One turn later, sessions whose clients have closed them have ended, so that a client that connects again
        is not counted twice.
        """
        if not self._scheduled:
            self._scheduled = True
            self.reactor.callLater(0, self.reactor.callLater, 0, self._accept)

    def _accept(self) -> None:
        self._scheduled = False
        until = self.reactor.seconds() + MAX_SECONDS
        while self.connected and self.accept_batch() and self.reactor.seconds() < until:
            pass

    def accept_batch(self) -> bool:
        """Accept up to BATCH connections. Return whether more may wait."""
        self.numberAccepts = BATCH
        super().doRead()
        # After a full batch Twisted raises numberAccepts; otherwise no more connections wait.
        return bool(self.numberAccepts > BATCH)
