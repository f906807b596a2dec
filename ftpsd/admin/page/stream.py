"""One stream of Server-Sent Events to a browser: Stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ftpsd.web.server import BoundedRequest

#: Messages that a browser may leave unread, one after the other, before its connection is closed.
MOST_SKIPPED = 60

#: Seconds for a browser to read the end of its stream.
PATIENCE = 5.0

HEADERS = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Server", "ftpsd"),
)


@implementer(IPushProducer)
class Stream:
    """A browser that does not read gets no further messages, so that none wait in memory."""

    def __init__(self, request: BoundedRequest, query: str) -> None:
        self.request = request
        #: Which sessions the browser shows.
        self.query = query
        self._skipped = 0
        self._is_paused = self._has_ended = False

    def start(self, ended: Callable[[], object]) -> None:
        """Begin the answer. `ended` is called when the connection ends."""
        request = self.request
        request.channel.set_deadline(None)
        request.end_stream = self.end
        for name, value in HEADERS:
            request.responseHeaders.setRawHeaders(name, [value])
        request.notifyFinish().addBoth(lambda _: ended())
        request.registerProducer(self, True)
        request.write(b": the state of ftpsd, each second\n\n")

    @property
    def is_ready(self) -> bool:
        """Whether the browser has read what was sent. One that reads nothing for a minute is disconnected."""
        if self._is_paused:
            self._skipped += 1
            if self._skipped >= MOST_SKIPPED:
                self.request.channel.abort()
            return False
        self._skipped = 0
        return not self._has_ended

    def send(self, events: Iterable[tuple[str, bytes]]) -> None:
        """Send events: their names, and their data, each of which is one line."""
        if not self._has_ended:
            self.request.write(b"".join(b"event: %s\ndata: %s\n\n" % (name.encode(), data) for name, data in events))

    def end(self) -> None:
        """End the stream."""
        if not self._has_ended:
            self._has_ended = True
            self.request.channel.set_deadline(PATIENCE)
            self.request.unregisterProducer()
            self.request.finish()

    # --- IPushProducer -----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The browser reads more slowly than we send."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """The browser has read everything."""
        self._is_paused = False

    def stopProducing(self) -> None:
        """The connection is lost."""
        self._has_ended = True
