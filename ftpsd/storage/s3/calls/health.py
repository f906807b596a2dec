"""Whether a store can be used: `Health`."""

from __future__ import annotations

from threading import Lock
from time import monotonic

from twisted.logger import Logger

from ftpsd.storage.s3.calls.errors import StoreFailed

log = Logger(namespace="ftpsd")

#: How many probes in a row change the state: a store of which every other request fails does not change it.
_IN_A_ROW = 2

#: Seconds for which the same failure of requests is not logged again, and the most failures that are remembered.
_QUIET, _REMEMBERED = 300.0, 100


class Health:
    """The state of a store, as probes find it, and the log of what fails.

    A request of a session that fails says little: its key may be denied, or the next one is successful. It only lets
    the store be probed soon.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        #: Why the store cannot be used; empty if it can.
        self.why = ""
        #: Whether a request has failed since the last probe that was successful.
        self.is_suspect = False
        self._is_known = False
        #: How many probes in a row contradict the state.
        self._contradicting = 0
        self._lock = Lock()
        #: When failures of requests were logged, by their kind.
        self._logged: dict[str, float] = {}

    def note(self, error: Exception | None) -> None:
        """Note the result of a request. In any thread."""
        if not isinstance(error, StoreFailed):
            return
        self.is_suspect = True
        with self._lock:
            now, last = monotonic(), self._logged.get(error.kind)
            if last is not None and now - last < _QUIET:
                return
            if len(self._logged) >= _REMEMBERED:
                self._logged.clear()
            self._logged[error.kind] = now
        log.warn("a request to the store {name} has failed: {why}", name=self._name, why=error.why)

    @property
    def is_doubtful(self) -> bool:
        """Whether the last probe contradicts the state."""
        return self._contradicting > 0

    def probed(self, why: str) -> None:
        """Note the result of a probe: why it failed, or nothing. For the reactor thread."""
        first, self._is_known = not self._is_known, True
        if not why:
            self.is_suspect = False
        if bool(why) == bool(self.why):
            self._contradicting = 0
            self.why = why
            return
        self._contradicting += 1
        if not first and self._contradicting < _IN_A_ROW:
            return
        self._contradicting, self.why = 0, why
        if why:
            log.warn("the store {name} cannot be used: {why}", name=self._name, why=why, log_once=True)
        else:
            log.info("the store {name} works again", name=self._name, log_once=True)
