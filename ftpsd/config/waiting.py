"""Calls to disks that may not answer: who watches them, and what is said then.

A call that hangs (NFS, a dying disk) cannot be ended. So a load of the configuration has a thread of its own, and
each call of it a deadline; the load as a whole has none, since it may have 100,000 homes to look at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ftpsd.config.yaml import Document, Faulty, Key
from ftpsd.system.reactor import CallsFromThreads

T = TypeVar("T")

#: Seconds that a disk has to answer in. systemd starts the daemon again after that, and does not give up.
ANSWERS = 15


class Waiting:
    """What a load waits for now. Its thread sets it, another one looks at it."""

    def __init__(self) -> None:
        self._call: tuple[float, Document, Key, Any] | None = None

    def begin(self, document: Document, key: Key, path: Any) -> None:
        """Note a call to the disk of a path that a key of a document names."""
        self._call = (time.monotonic(), document, key, path)

    def end(self) -> None:
        """Note that the call has returned."""
        self._call = None

    def check(self) -> None:
        """Raise Faulty if the call lasts too long."""
        call = self._call
        if call is not None and time.monotonic() - call[0] > ANSWERS:
            _, document, key, path = call
            remedy = "Wait for it, or take the user out." if key[:1] == ("users",) else "Wait for it, or name another."
            document.fault(key, f"the disk of {path} does not answer", remedy)
            raise Faulty(document.faults)


def watched(function: Callable[[Waiting], T]) -> T:
    """Call a function in a thread of its own; Faulty when a disk that it waits for does not answer."""
    waiting = Waiting()
    result: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(function(waiting))
        except BaseException as raised:
            error.append(raised)

    thread = threading.Thread(target=run, name="configuration", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(1)
        waiting.check()
    if error:
        raise error[0]
    return result[0]


def in_own_thread(reactor: CallsFromThreads, function: Callable[..., T], *arguments: Any) -> Any:
    """Return a Deferred of a call in a new thread. It may take any time: no worker thread is missing meanwhile."""
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    answer: Deferred[T] = Deferred()

    def run() -> None:
        try:
            reactor.callFromThread(answer.callback, function(*arguments))
        except BaseException:
            reactor.callFromThread(answer.errback, Failure())

    threading.Thread(target=run, name="reload", daemon=True).start()
    return answer
