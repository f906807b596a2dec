"""End the streams of a browser with its login: Streams.

A stream is one request that lasts for hours. Only its begin was checked: its browser may log out, its login may expire,
and it may be forgotten because too many others have logged in.
"""

from __future__ import annotations

from ftpsd.admin.page.logins import Logins
from ftpsd.system.periodic import PeriodicTask
from ftpsd.system.reactor import Clock
from ftpsd.web.server import BoundedRequest

#: Seconds between two looks at the logins.
INTERVAL = 1.0


class Streams:
    """All streams of browsers, those of the API included. For the reactor thread."""

    def __init__(self, clock: Clock, logins: Logins) -> None:
        self._logins = logins
        #: The requests whose answers are streams, and the cookies of their browsers.
        self._cookies: dict[BoundedRequest, str] = {}
        self._task = PeriodicTask(clock, "the end of streams of the page", self.end_outlived)

    def start(self) -> None:
        """Look at the logins from now on."""
        self._task.start(INTERVAL)

    def stop(self) -> None:
        """Look no longer. May be called any number of times."""
        self._task.stop()

    def add(self, request: BoundedRequest, cookie: str) -> None:
        """End the stream that answers a request when its browser is no longer logged in."""
        if request.is_gone or request.finished:
            return
        self._cookies[request] = cookie
        request.notifyFinish().addErrback(lambda _: None).addCallback(lambda _: self._cookies.pop(request, None))

    def end_outlived(self) -> None:
        """End the streams of browsers that are no longer logged in."""
        for request in [each for each, cookie in self._cookies.items() if not self._logins.is_logged_in(cookie)]:
            request.end_stream()
