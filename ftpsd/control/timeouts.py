"""The timer of a control connection: SessionTimeouts."""

from __future__ import annotations

from collections.abc import Callable

from twisted.protocols.policies import TimeoutMixin

from ftpsd.config.settings import Timeouts
from ftpsd.system.memory.nothing import do_nothing, never
from ftpsd.system.presence import PatientClock, time_left
from ftpsd.system.reactor import Clock

#: Seconds that the client has to read the last reply.
LAST_REPLY = 10


class SessionTimeouts(TimeoutMixin):
    """One timer, for three phases of a session.

    | phase | time | restarted by | when it is over |
    | --- | --- | --- | --- |
    | before the login | `timeouts.login` | nothing | `expire` |
    | logged in | `timeouts.idle`, or SITE IDLE | each reply | `expire`, unless a command runs |
    | after the last reply | LAST_REPLY | nothing | `abort` |
    """

    def __init__(
        self,
        clock: Clock,
        settings: Timeouts,
        busy: Callable[[], bool],
        expire: Callable[[], None],
        abort: Callable[[], None],
    ) -> None:
        self.callLater = PatientClock(clock).callLater  # type: ignore[method-assign]
        self._clock = clock
        self._settings = settings
        self._busy = busy
        self._expire = expire
        self._abort = abort
        self._closing = False
        #: Seconds that a logged-in client may be idle; None before the login.
        self.idle: int | None = None
        #: When the last reply was sent. A command does not restart the timer: it may take longer than that.
        self.last_reply = clock.seconds()

    def wait_for_login(self) -> None:
        """The client has to log in from now on."""
        self.idle = None
        self.setTimeout(self._settings.login)

    def set_idle_timeout(self, seconds: int) -> None:
        """The client has logged in, or has chosen another time with SITE IDLE."""
        self.idle = seconds
        self.setTimeout(seconds)

    def wait_for_close(self) -> None:
        """The last reply was sent."""
        self._closing = True
        self.setTimeout(LAST_REPLY)

    def stop(self) -> None:
        """The connection is lost: nothing happens any more when a timeout is over."""
        self.setTimeout(None)
        self._busy, self._expire, self._abort = never, do_nothing, do_nothing

    def timeoutConnection(self) -> None:
        """Handle that the timeout is over."""
        if self._closing:
            self._abort()
        elif self.idle is not None and self._busy():
            self.setTimeout(self.idle)  # a command that runs has limits of its own, and its reply restarts the timer
        elif self.idle is not None and (left := time_left(self._clock, self.last_reply, self.idle)) > 0:
            self.setTimeout(left)  # a timer that is moved with each reply costs more
        else:
            self._expire()
