"""Give each disk call of a configuration load a deadline.

A disk call that hangs (NFS, a dying disk) cannot be ended. So a load runs in a thread of its own, and another thread
watches its calls. The load as a whole has no deadline: it may have to look at 100,000 homes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ftpsd.config.faults import InvalidConfiguration, Key
from ftpsd.config.yaml import Document
from ftpsd.system.reactor import CallsFromThreads

T = TypeVar("T")

#: Seconds in which a disk call must return. After a failed start systemd starts the daemon again, and does not give up.
DEADLINE = 15


class DiskWatch:
    """The disk call that a load is waiting for. The thread of the load sets it, and another thread checks it."""

    def __init__(self) -> None:
        self._call: tuple[float, Document, Key, Path | str] | None = None

    def begin(self, document: Document, key: Key, path: Path | str) -> None:
        """Note a call to the disk of a path that a key of a document names."""
        self._call = (time.monotonic(), document, key, path)

    def end(self) -> None:
        """Note that the call has returned."""
        self._call = None

    def check(self) -> None:
        """Raise InvalidConfiguration if the call is past its deadline."""
        call = self._call
        if call is not None and time.monotonic() - call[0] > DEADLINE:
            _, document, key, path = call
            other = "remove the user" if key[:1] == ("users",) else "name another path"
            document.fault(key, f"the disk of {path} does not respond", f"Wait for it, or {other}.")
            raise InvalidConfiguration(document.faults)


def watched(function: Callable[[DiskWatch], T]) -> T:
    """Call a function in a thread of its own, and return its result.

    Raises InvalidConfiguration if a disk call that the function has noted does not return in time.
    """
    watch = DiskWatch()
    result: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(function(watch))
        except BaseException as raised:
            error.append(raised)

    thread = threading.Thread(target=run, name="configuration", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(1)
        watch.check()
    if error:
        raise error[0]
    return result[0]


def in_own_thread(reactor: CallsFromThreads, function: Callable[[], T]) -> Deferred[T]:
    """Call a function in a new thread; return a Deferred of its result. It may take any time, and no worker thread."""
    answer: Deferred[T] = Deferred()

    def run() -> None:
        try:
            reactor.callFromThread(answer.callback, function())
        except BaseException:
            reactor.callFromThread(answer.errback, Failure())

    threading.Thread(target=run, name="reload", daemon=True).start()
    return answer
