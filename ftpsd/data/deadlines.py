"""Deadlines: for the data connection, for transfers that take too long, and for those of clients that have gone."""

from __future__ import annotations

from collections.abc import Callable

from ftpsd.data.transfer import AnyTransfer
from ftpsd.protocol.replies import NoDataConnection, Refusal
from ftpsd.system.jobs.job_lock import waited_too_long
from ftpsd.system.presence import PatientCall, time_left
from ftpsd.system.reactor import Clock, DelayedCall

#: Seconds without a byte after which nothing more is on its way from a client that has gone, on a fast network.
QUIET = 0.02

#: Bytes that the kernels on both sides may hold of what a client has sent.
IN_FLIGHT = 32 * 1024 * 1024

#: How often progress is looked at in the time in which there must be some: a transfer that stalls right after a look
#: ends a quarter of that time late.
_LOOKS = 4


class Timer:
    """One call at a later time. A new one replaces the last one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._call: DelayedCall | None = None

    def set(self, seconds: float, call: Callable[[], object]) -> None:
        """Make a call when this process has run for so many seconds, in place of the last one."""
        self.stop()
        self._call = PatientCall(self._clock, seconds, call)

    def stop(self) -> None:
        """Make no call. May be called any number of times."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None


class Deadlines:
    """Aborts a transfer that waits for the handshake of its connection for `opening` seconds, or made no progress for
    `stalled`.

    One timer serves both.
    """

    def __init__(self, clock: Clock, transfer: AnyTransfer, opening: float, stalled: float) -> None:
        self._clock, self._transfer, self._stalled = clock, transfer, stalled
        self._progress, self._since = transfer.progress, clock.seconds()
        #: The time at which the transfer began.
        self.began = self._since
        self._opening = opening
        self._call: DelayedCall | None = clock.callLater(min(opening, stalled / _LOOKS), self._check)

    def _check(self) -> None:
        self._call = None
        transfer, now = self._transfer, self._clock.seconds()
        if transfer.progress != self._progress:
            self._progress, self._since = transfer.progress, now
        left = time_left(self._clock, self._since, self._stalled)
        # The handshake begins when the file is open.
        opening_since = now if transfer.first_wait is None else transfer.first_wait
        opening = time_left(self._clock, opening_since, self._opening)
        if not transfer.is_open and opening <= 0:
            transfer.abort(NoDataConnection("timeout", 522, "TLS handshake on the data connection took too long."))
        elif left <= 0:
            transfer.abort(self._stalled_reply())
        else:
            wait = min(left, self._stalled / _LOOKS)
            self._call = self._clock.callLater(wait if transfer.is_open else min(wait, opening), self._check)

    def _stalled_reply(self) -> Refusal:
        if self._transfer.waits_for_storage:
            return Refusal(451, f"Storage not responding for {self._stalled} seconds: try again later.")
        if self._transfer.waits_for_lock:
            return waited_too_long(self._stalled)
        return Refusal(426, f"Transfer aborted: no data for {self._stalled} seconds.")

    def stop(self) -> None:
        """Stop watching: the transfer has ended."""
        if self._call is not None:
            self._call.cancel()
            self._call = None


class QuietCheck:
    """Aborts the upload of a client that has gone, or may have gone, when all that it sent before has arrived.

    Its data stream may have ended properly, and may be read later than the end of its control connection. So the
    upload continues until no byte arrives for a few round trips. A client that sends more than can have been in flight
    is still there: then `on_excess` is called with the refusal instead.
    """

    def __init__(
        self, clock: Clock, transfer: AnyTransfer, refusal: Refusal, on_excess: Callable[[Refusal], object]
    ) -> None:
        self._clock, self._transfer, self._refusal, self._on_excess = clock, transfer, refusal, on_excess
        self._steps_seen = -1
        if transfer.connection is not None:
            self._interval = min(max(QUIET, 4 * transfer.connection.round_trip()), 1.0)
            self._most = transfer.connection.moved + IN_FLIGHT
            self._check()

    def _check(self) -> None:
        transfer = self._transfer
        if transfer.connection is None:
            return  # it has ended
        if transfer.steps_taken == self._steps_seen and transfer.waits_for_peer():
            transfer.abort(self._refusal)
        elif transfer.connection.moved > self._most:
            self._on_excess(self._refusal)
        else:
            self._steps_seen = transfer.steps_taken
            self._clock.callLater(self._interval, self._check)


def abort_when_quiet(clock: Clock, transfer: AnyTransfer, refusal: Refusal) -> None:
    """Abort the upload of a client that has gone, when it has received what the client sent before."""
    QuietCheck(clock, transfer, refusal, transfer.abort)


def abort_if_quiet(clock: Clock, transfer: AnyTransfer, refusal: Refusal) -> None:
    """Abort the upload of a client that may have gone, unless it sends more than can have been in flight."""
    QuietCheck(clock, transfer, refusal, lambda _: None)
